"""For Python-Markdown: "```python no-run: why" (a block that tests/docs compiles and does not run) is a python block."""

from __future__ import annotations

import re

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor

FENCE = re.compile(r"^(\s*(?:`{3,}|~{3,})\s*python) no-run: .*$")


class NoRun(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        return [FENCE.sub(r"\1", line) for line in lines]


class Fences(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.register(NoRun(md), "no-run", 28)  # before superfences, which is at 25


def makeExtension(**options: object) -> Fences:
    return Fences(**options)
