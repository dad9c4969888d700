"""Checks that the documents hold what they say; `make docs` runs it. Standard library and aioring itself only.

Links and their anchors, python blocks, docstrings of public names, docs/operations.md against the table of operations,
and what people are told to install. `--write` makes docs/operations.md anew. tests/docs/ runs the python blocks.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aioring
from aioring import operations
from aioring.kernel import abi
from aioring.ring import names

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^(?P<indent> *)(?P<mark>`{3,}|~{3,})[ ]*(?P<info>[^`\n]*)$")
FOLDERS = ("docs", "examples", "benchmarks")
LINK = re.compile(r"\]\(\s*<?([^()\s<>]+(?:\([^()\s]*\)[^()\s<>]*)*)>?(?:\s+[\"'(][^\n]*?[\"')])?\s*\)")
DEFINED = re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)", re.MULTILINE)
INSTALLS = re.compile(r"(?:pip3?|pipx|uv|poetry|pdm|conda)\s+(?:install|add)\s[^\n`#]*?(?<![\w./-])aioring(?![\w.-])")


class Block(NamedTuple):
    path: Path
    line: int  # of its first line, in the document
    info: str  # what stands behind the fence: "python", "python no-run: why"
    source: str

    @property
    def left_out(self) -> str | None:
        """Why the tests do not run it; None: they do."""
        return self.info.partition(" no-run:")[2].strip() if "no-run" in self.info.split(":")[0].split() else None


def documents(root: Path = ROOT) -> list[Path]:
    return sorted({*root.glob("*.md"), *(path for name in FOLDERS for path in (root / name).rglob("*.md"))})


def split(path: Path) -> tuple[str, list[Block]]:
    """A document's prose, with as many lines as before, and its fenced blocks."""
    prose: list[str] = []
    blocks: list[Block] = []
    inside: re.Match[str] | None = None
    taken: list[str] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fence = FENCE.match(line)
        prose.append("" if inside or fence else line)
        if inside is None and fence:
            inside, taken = fence, []
        elif inside and fence and not fence["info"].strip() and fence["mark"].startswith(inside["mark"]):
            source = textwrap.dedent("\n".join(taken)) + "\n"
            blocks.append(Block(path, number - len(taken), inside["info"].strip(), source))
            inside = None
        elif inside:
            taken.append(line)
    if inside:
        raise SystemExit(f"{path}: a fence is never closed: {inside.group()}")
    return "\n".join(prose), blocks


def python_blocks(root: Path = ROOT) -> list[Block]:
    found = [block for path in documents(root) for block in split(path)[1]]
    return [block for block in found if block.info.split()[:1] == ["python"]]


def compiled(block: Block) -> Any:
    """A block's code: a coroutine's where it has a top-level `await`. Its line numbers are those of the document."""
    source = "\n" * (block.line - 1) + block.source
    return compile(source, str(block.path), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def anchors(prose: str) -> set[str]:
    """The anchors that GitHub gives a document's headings, and those that it names itself."""
    found: set[str] = set(re.findall(r"<a\s+(?:name|id)=\"([^\"]+)\"", prose))
    for heading in re.findall(r"^ {0,3}#{1,6}\s+(.*?)\s*#*$", prose, re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        again = [slug, *(f"{slug}-{number}" for number in range(1, 100))]
        found.add(next(one for one in again if one not in found))
    return found


def check_links() -> Iterator[str | None]:
    prose = {path: split(path)[0] for path in documents()}
    for path, text in prose.items():
        bare = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", lambda code: "\n" * code.group().count("\n"), text)
        for link in [*LINK.finditer(bare), *DEFINED.finditer(bare)]:
            if re.match(r"[a-z][a-z0-9+.-]*:", link[1]):
                continue  # elsewhere: not ours to keep
            where = f"{path.relative_to(ROOT)}:{bare.count(chr(10), 0, link.start()) + 1}: link to {link[1]}"
            name, _, anchor = link[1].partition("#")
            target = (path.parent / name).resolve() if name else path
            if not target.exists():
                yield f"{where}: no such file"
            elif anchor and target.suffix == ".md" and anchor not in anchors(split(target)[0]):
                yield f"{where}: no such heading"
            else:
                yield None


def check_blocks() -> Iterator[str | None]:
    """Each compiles, and runs in tests/docs unless it says why not."""
    for block in python_blocks():
        if block.left_out == "":
            yield f"{block.path.relative_to(ROOT)}:{block.line}: this python block is not run, and does not say why"
        try:
            compiled(block)
            yield None
        except SyntaxError as error:
            yield f"{block.path.relative_to(ROOT)}:{error.lineno}: this python block does not compile: {error.msg}"


def public() -> Iterator[tuple[str, Any]]:
    for name in aioring.__all__:
        yield f"aioring.{name}", getattr(aioring, name)
    for name in (name for name in dir(aioring.Ring) if not name.startswith("_")):
        member = inspect.getattr_static(aioring.Ring, name)
        yield f"aioring.Ring.{name}", member.__func__ if isinstance(member, staticmethod | classmethod) else member


def check_docstrings() -> Iterator[str | None]:
    for name, what in public():
        if isinstance(what, int | str | tuple):
            continue  # a constant: documented where it is taken
        own = what.__doc__ or ""  # not inspect.getdoc: a base's docstring is no docstring
        shared = names.__doc__ or "" if getattr(what, "__module__", "") == names.__name__ else ""
        coroutine = inspect.iscoroutinefunction(what) and name != "aioring.Ring.start"  # which waits for nothing
        if not own.strip():
            yield f"{name}: no docstring"
        elif coroutine and "cancel" not in (own + shared).lower():
            yield f"{name}: its docstring does not say what happens on cancellation"
        else:
            yield None


def check_installs() -> Iterator[str | None]:
    for path in documents():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if INSTALLS.search(line):
                yield f"{path.relative_to(ROOT)}:{number}: has people install aioring, not aioring-io: {line.strip()}"
        yield None


def check_pages() -> Iterator[str | None]:
    path = ROOT / "docs" / "operations.md"
    if path.exists():
        fresh = path.read_text() == operations_page()
        yield None if fresh else "docs/operations.md is not what the table says: run `make docs ARGS=--write`"


def operations_page() -> str:
    opcodes = {value: name for name, value in vars(abi).items() if name.startswith("OP_") and name != "OP_SUPPORTED"}
    rows = ["| operation | io_uring | blocking equivalent | at once | a cancel |", "| --- | --- | --- | --- | --- |"]
    for row in operations.TABLE:
        chain = row is operations.READ_FILE
        none = "five, linked (`methods/slots.py`)" if chain else "none: worker threads"
        opcode = none if row.opcode is None else f"`IORING_{opcodes[row.opcode]}`"
        cancel = "waits for the outcome" if row.settles else "returns at once"
        at_once = (
            "what is cached"
            if row.at_once is not None or row in (operations.READ, operations.READINTO, operations.READ_FILE)
            else ""
        )
        blocking = ", ".join(calls(row.blocking)) or "the function"
        rows.append(f"| `{row.name}` | {opcode} | {blocking} | {at_once} | {cancel} |")
    return f"""# Operations

Printed from `aioring/operations.py` by `docs/check.py --write`: do not edit it here. One row is one operation, and every
method reads the same row: io_uring submits the opcode, worker threads and `sync` make the blocking call. What a kernel
has no opcode for goes to the worker threads. What is cached (of a `close`: what was opened for reading only) is had at
once, in place, by a call that never waits.

{chr(10).join(rows)}

Where a cancel waits for the outcome, the operation uses memory that is the caller's, or changes something: nothing does
so any more when the `await` has returned. Where it returns at once, the memory is aioring's own. A `close` goes on all
the same, an `open` that succeeds too late is closed again, and a function that has begun runs to its end.
"""


def calls(function: Callable[..., Any]) -> list[str]:
    """The calls that a row's `blocking` makes: `os.X`, or X(2) where `os` has none. From its source, so never stale."""
    found: dict[str, None] = {}
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr=name)) if name != "strerror":
                found[f"`os.{name}`"] = None
            case ast.Call(func=ast.Attribute(value=ast.Name(id="at_once"), attr=name)):
                found[f"{name}(2)"] = None
    return list(found)


def main() -> int:
    if "--write" in sys.argv[1:]:
        (ROOT / "docs" / "operations.md").write_text(operations_page())
    wrong: list[str] = []
    for check in (check_links, check_blocks, check_docstrings, check_installs, check_pages):
        found = list(check())
        wrong += [one for one in found if one is not None]
        what = check.__name__.removeprefix("check_")
        print(f"docs: {what}: {found.count(None):,} hold, {len(found) - found.count(None):,} do not")
    left_out = [block for block in python_blocks() if block.left_out is not None]
    print(
        f"docs: {len(left_out)} of {len(python_blocks())} python blocks are not run by the tests{':' if left_out else ''}"
    )
    for block in left_out:
        print(f"docs: not run: {block.path.relative_to(ROOT)}:{block.line}: {block.left_out}")
    for one in wrong:
        print(f"docs: WRONG: {one}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
