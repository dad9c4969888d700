"""For griffe, which collects the reference from the source: what is said there in other ways than a docstring's.

What stands behind a field (`count: int  # that are done`), what a name stands for (`aclose = close`), "Raises (as it is
iterated):", a mode as it is written (`0o777`, where a syntax tree has 511), and which of the two is meant where a function
has the name of its module.
"""

from __future__ import annotations

import io
import re
import tokenize
from typing import Any

import griffe

LATER = re.compile(r"^Raises(?:, (.+)| \((.+)\)):\n((?: {4}.*(?:\n|$))+)", re.MULTILINE)


def _source(of: griffe.Object) -> str:
    lines = of.lines_collection[of.filepath] if of.lineno and of.endlineno else []
    return "\n".join(lines[(of.lineno or 1) - 1 : of.endlineno])


def _comments(source: str) -> str:
    tokens = tokenize.generate_tokens(io.StringIO(source.lstrip() + "\n").readline)
    return " ".join(token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT)


class Collect(griffe.Extension):
    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        if attr.docstring is not None or attr.name.startswith("_") or attr.parent is None:
            return
        said = ""
        value = attr.value
        if attr.parent.is_class and attr.annotation is not None:
            said = _comments(_source(attr))
            said = "" if said.startswith(("type:", "noqa", "fmt:")) else said[:1].upper() + said[1:]
        elif attr.parent.is_class and isinstance(value, griffe.ExprName) and "class-attribute" in attr.labels:
            said = f"As `{value}`."
        elif attr.parent.path.startswith("aioring.aiofiles") and isinstance(value, griffe.ExprCall) and value.arguments:
            name = str(value.arguments[0]).strip("'")  # os.stat of by_ring(os.stat, ...)
            said = f"`{'os.' * name.startswith('path.')}{name}`, awaited."
        if said:
            attr.docstring = griffe.Docstring(said, lineno=attr.lineno, parent=attr)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for alias in pkg.members.values():
            if isinstance(alias, griffe.Alias) and alias.target_path.startswith("aioring."):
                found = pkg[alias.target_path.removeprefix("aioring.")]
                if not found.is_alias and found.is_module and alias.name in found.members:
                    alias.target = found.members[alias.name]

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = LATER.sub(_later, obj.docstring.value)

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        for name, octal in re.findall(r"(\w+): int = (0o\d+)", _source(func)):
            if name in func.parameters:
                func.parameters[name].default = octal


def _later(found: re.Match[str]) -> str:
    """As the list that "Raises:" gives, with what stands in the parentheses."""
    lines = re.sub(r"^ {4}(\S[^:]*):", r"- `\1` –", found[3], flags=re.MULTILINE)
    return f"**Raises**, {found[1] or found[2]}:\n\n{re.sub(r'^ +', '  ', lines, flags=re.MULTILINE)}"
