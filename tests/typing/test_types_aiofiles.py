"""The drop-in for aiofiles against what type checkers believe of aiofiles: the stubs of types-aiofiles (typeshed).

Every module, function, class, method, property and parameter of the stubs is looked for at run time. What is not as they
say stands in `KNOWN`, with the reason.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from aioring.aiofiles.threadpool.ring_files import KINDS

MODULES = (
    "", ".base", ".os", ".ospath", ".tempfile", ".tempfile.temptypes", ".threadpool", ".threadpool.binary",
    ".threadpool.text", ".threadpool.utils",
)  # fmt: skip
# What `open` gives is, to a type checker, of these classes.
OPENED = {
    ".threadpool.text.AsyncTextIOWrapper": KINDS.text,
    ".threadpool.binary.AsyncBufferedReader": KINDS.reader,
    ".threadpool.binary.AsyncBufferedIOBase": KINDS.writer,
    ".threadpool.binary.AsyncFileIO": KINDS.raw,
}
KNOWN = {  # reason: what
    "a slip of aiofiles': it makes that of text a coroutine, and not that of bytes; the stubs say neither is": [
        ".threadpool.text.AsyncTextIOWrapper.readable is a coroutine function",
        ".threadpool.text.AsyncTextIndirectIOWrapper.readable is a coroutine function",
        "opened .threadpool.text.AsyncTextIOWrapper.readable is a coroutine function",
    ],
    "aiofiles' own take them, too: the stubs have left them out": [
        f".{name}({parameter}) is not in the stubs"
        for name in ("os.access", "os.getcwd", "os.statvfs", "ospath.abspath", "ospath.islink", "ospath.ismount")
        for parameter in ("loop", "executor")
    ],
    "nor can they be in aiofiles: they are for `wrap`, which takes them by name": [
        ".os.renames(loop) cannot be given by this place",
        ".os.renames(executor) cannot be given by this place",
    ],
    "of FreeBSD's and macOS' `os.sendfile`": [
        f".os.sendfile({name}) is missing" for name in ("headers", "trailers", "flags")
    ],
    "what is opened by aioring has what `aioring.File` has, too": [
        *(
            f"opened {cls}.{name} is not in the stubs"
            for cls in OPENED
            for name in ("aclose", "closefd", "iter_chunks", "pread", "pwrite")
        ),
        "opened .threadpool.binary.AsyncBufferedIOBase.readinto1 is not in the stubs",
        "opened .threadpool.binary.AsyncBufferedReader.readinto1 is not in the stubs",
        "opened .threadpool.binary.AsyncFileIO.detach is not in the stubs",
    ],
    "its class has a word for that it has none": [
        "opened .threadpool.binary.AsyncBufferedIOBase.peek is not in the stubs",
    ],
}


class Parameter(NamedTuple):
    name: str
    place: bool  # whether it may be given by its place
    word: bool  # whether it may be given by its name
    default: Any  # `MISSING`: it has to be given; `SOME`: it has one, the stubs do not say which


class _Mark:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


MISSING, SOME = _Mark("MISSING"), _Mark("SOME")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def stubs() -> Path:
    try:
        files = importlib.metadata.files("types-aiofiles") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("types-aiofiles is not installed")
    (base,) = (file for file in files if file.name == "base.pyi")
    return Path(str(base.locate())).parent


def parsed(module: str) -> dict[str, list[ast.stmt]]:
    """What a stub defines, under its names; more than once where it is overloaded."""
    path = stubs().joinpath(*module.split(".")[1:])
    path = path / "__init__.pyi" if path.is_dir() else path.with_suffix(".pyi")
    return _named(_here(ast.parse(path.read_text()).body))


def _here(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that count on this Python and platform."""
    for statement in body:
        if isinstance(statement, ast.If):
            holds = eval(ast.unparse(statement.test), {"sys": sys})
            yield from _here(statement.body if holds else statement.orelse)
        else:
            yield statement


def _named(body: Iterator[ast.stmt]) -> dict[str, list[ast.stmt]]:
    found: dict[str, list[ast.stmt]] = {}
    for statement in body:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.setdefault(name, []).append(statement)
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                found.setdefault(name, []).append(statement)
            case ast.ImportFrom(names=names):
                for alias in names:
                    if alias.asname == alias.name:  # handed on
                        found.setdefault(alias.name, []).append(statement)
    return found


def _wants(function: Function, method: bool) -> list[Parameter]:
    asked, wanted = function.args, []
    places = asked.posonlyargs + asked.args
    defaults: list[ast.expr | None] = [None] * (len(places) - len(asked.defaults)) + list(asked.defaults)
    for at, (argument, default) in enumerate(zip(places, defaults, strict=True)):
        wanted.append(Parameter(argument.arg, True, at >= len(asked.posonlyargs), _value(default)))
    for argument, default in zip(asked.kwonlyargs, asked.kw_defaults, strict=True):
        wanted.append(Parameter(argument.arg, False, True, _value(default)))
    return wanted[1:] if method else wanted


def _value(default: ast.expr | None) -> Any:
    if default is None:
        return MISSING
    value = ast.literal_eval(default)
    return SOME if value is ... else value


def _has(function: Any, method: bool) -> tuple[list[Parameter], bool, bool]:
    """Our parameters, and whether any others may be given by place, by name.

    Those of a function that stands for a blocking one are the blocking one's, and what was added to them."""
    found: dict[str, Parameter] = {}
    outer = inspect.signature(function, follow_wrapped=False)
    signatures = [outer]
    if hasattr(function, "__wrapped__"):
        signatures.insert(0, inspect.signature(function))
    kinds: set[Any] = set()
    for signature in signatures:
        kinds = {parameter.kind for parameter in signature.parameters.values()}
        for one in signature.parameters.values():
            if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
                default = MISSING if one.default is one.empty else one.default
                found[one.name] = Parameter(
                    one.name, one.kind is not one.KEYWORD_ONLY, one.kind is not one.POSITIONAL_ONLY, default
                )
    ours = list(found.values())
    if len(signatures) == 2:
        kinds = set()  # what the blocking one takes is known
    some, any_name = inspect.Parameter.VAR_POSITIONAL in kinds, inspect.Parameter.VAR_KEYWORD in kinds
    return (ours[1:] if method and ours and ours[0].name in ("self", "_") else ours), some, any_name


def compared(where: str, function: Any, overloads: list[Function], method: bool) -> Iterator[tuple[str, str]]:
    awaited = {isinstance(overload, ast.AsyncFunctionDef) for overload in overloads}
    if awaited != {inspect.iscoroutinefunction(function)}:
        yield where, f"{'is' if inspect.iscoroutinefunction(function) else 'is not'} a coroutine function"
    try:
        ours, any_place, any_name = _has(function, method)
    except ValueError:
        return  # C code that does not say
    if any_place and any_name and not ours:
        return  # handed on as it is
    places = [one for one in ours if one.place]
    named = {one.name: one for one in ours}
    mentioned: set[str] = set()
    for overload in overloads:
        for at, wanted in enumerate(_wants(overload, method)):
            have = named.get(wanted.name) if wanted.word else places[at] if at < len(places) else None
            if have is None:
                if not (any_place if wanted.place and not wanted.word else any_name):
                    yield f"{where}({wanted.name})", "is missing"
                continue
            mentioned.add(have.name)
            if wanted.word and not have.word:
                yield f"{where}({wanted.name})", "cannot be given by name"
            if wanted.place and not (have.place and (at >= len(places) or places[at] is have)):
                yield f"{where}({wanted.name})", "cannot be given by this place"
            if wanted.default is not MISSING and have.default is MISSING:
                yield f"{where}({wanted.name})", "has no default"
            elif wanted.default not in (MISSING, SOME) and have.default != wanted.default:
                yield f"{where}({wanted.name})", f"is {have.default!r} by default"
    for name in named.keys() - mentioned:
        yield f"{where}({name})", "is not in the stubs" + (", and has to be given" * (named[name].default is MISSING))


def _members(module: str, definition: ast.ClassDef, ours: bool = False) -> dict[str, list[ast.stmt]]:
    """Those of the class, and of those of its bases that are in the same stub or in `base.pyi`."""
    found: dict[str, list[ast.stmt]] = {}
    for base in definition.bases:
        name = ast.unparse(base).split("[")[0]
        for home in (module, ".base"):
            for above in parsed(home).get(name, []):
                if isinstance(above, ast.ClassDef):
                    found |= _members(home, above)
    return found | _named(_here(definition.body))


def compared_class(where: str, cls: type, members: dict[str, list[ast.stmt]]) -> Iterator[tuple[str, str]]:
    for name, statements in members.items():
        try:
            have = inspect.getattr_static(cls, name)
        except AttributeError:
            yield f"{where}.{name}", "is missing"
            continue
        functions = [one for one in statements if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
        if not functions:
            continue
        if any(ast.unparse(one) == "property" for one in functions[0].decorator_list):
            if not isinstance(have, property):
                yield f"{where}.{name}", "is no property"
        elif isinstance(have, property):
            yield f"{where}.{name}", "is a property"
        elif name != "__init__" or where in CONSTRUCTED:
            yield from compared(f"{where}.{name}", have, functions, True)
    for name in dir(cls):
        if not name.startswith("_") and name not in members:
            yield f"{where}.{name}", "is not in the stubs"


CONSTRUCTED = (".base.AsyncBase", ".base.AsyncIndirectBase", ".base.AiofilesContextManager")


def differences() -> Iterator[tuple[str, str]]:
    for module in MODULES:
        house = importlib.import_module("aioring.aiofiles" + module)
        for name, statements in parsed(module).items():
            where = f"{module}.{name}"
            if any("type_check_only" in map(ast.unparse, getattr(one, "decorator_list", ())) for one in statements):
                continue
            if name.startswith("_") and name != "__all__":
                continue
            if not hasattr(house, name):
                yield where, "is missing"
                continue
            have = getattr(house, name)
            if name == "__all__":
                listed: set[str] = set()
                for one in statements:
                    assert isinstance(one, ast.Assign)
                    listed |= set(ast.literal_eval(one.value))
                listed |= {"statvfs", "sendfile"} if module == ".os" and sys.platform != "win32" else set()
                if listed ^ set(have):
                    yield where, f"differs by {sorted(listed ^ set(have))}"
            elif isinstance(statements[0], ast.ClassDef):
                members = _members(module, statements[0])
                yield from compared_class(where, have, members)
                if where in OPENED:
                    yield from compared_class(f"opened {where}", OPENED[where], members)
            elif isinstance(statements[0], ast.FunctionDef | ast.AsyncFunctionDef):
                yield from compared(where, have, statements, False)  # type: ignore[arg-type]


def test_it_is_what_type_checkers_believe_aiofiles_to_be() -> None:
    found = {f"{where} {what}" for where, what in differences()}
    known = {one for several in KNOWN.values() for one in several}
    assert sorted(found - known) == []
    assert sorted(known - found) == [], "no longer so"
