"""What can be seen of the drop-in without doing I/O is aiofiles': names, signatures, and what opened files are.

Compared with the package itself where it is installed; every difference is listed here, with its reason.
"""

from __future__ import annotations

import importlib
import inspect
import io
import sys
from concurrent.futures import ThreadPoolExecutor
from inspect import iscoroutinefunction
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import aioring.aiofiles as ours

theirs = pytest.importorskip("aiofiles", reason="aiofiles is not installed: nothing to compare with")

MODULES = [
    "", ".base", ".os", ".ospath", ".tempfile", ".tempfile.temptypes", ".threadpool", ".threadpool.binary",
    ".threadpool.text", ".threadpool.utils",
]  # fmt: skip
# What aiofiles' modules have only imported: the blocking makers of temporary files, and tools.
IMPORTED = {
    ".base": {"partial", "wraps"},
    ".threadpool": {"asyncio"},
    ".tempfile": {
        "asyncio", "syncNamedTemporaryFile", "syncSpooledTemporaryFile", "syncTemporaryDirectory", "syncTemporaryFile",
        "syncTemporaryFileWrapper",
    },
}  # fmt: skip
# What the classes have besides: the way of a call to its object, and `AsyncBase[str]` for annotations. What `open` and its
# kin give has slots throughout: aiofiles' for folders has a `__dict__`.
MORE = {
    "_delegate", "__class_getitem__", "__parameters__", "__orig_bases__", "_is_protocol", "__slots__", "__dict__",
    "__weakref__",
}  # fmt: skip
# Python's own protocol calls it by position.
BY_POSITION = {"__aexit__"}
# Written out, where aiofiles takes any arguments and passes them on to a function that has none.
WRITTEN_OUT = {"cleanup"}


def kind(value: Any) -> str:
    if isinstance(value, ModuleType):
        return "module"
    if inspect.isclass(value):
        return "class"
    if iscoroutinefunction(value):
        return "coroutine function"
    if isinstance(value, property):
        return "property"
    return "function" if callable(value) else type(value).__name__


def parameters(function: Any) -> Any:
    try:
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):
        return None


@pytest.mark.parametrize("name", MODULES)
def test_a_module_has_all_its_names_with_their_signatures(name: str) -> None:
    their, our = importlib.import_module("aiofiles" + name), importlib.import_module("aioring.aiofiles" + name)
    if hasattr(their, "__all__"):
        assert sorted(our.__all__) == sorted(their.__all__)
    for key, value in vars(their).items():
        if key.startswith("_") or key in IMPORTED.get(name, ()):
            continue
        found = getattr(our, key)
        assert kind(found) == kind(value), key
        if inspect.isclass(value):
            if value.__module__.startswith("aiofiles"):
                compare_classes(value, found)
        elif callable(value):
            assert parameters(found) == parameters(value), key
            assert getattr(found, "__name__", None) == getattr(value, "__name__", None)


def compare_classes(their: type, our: type) -> None:
    names = [base.__name__ for base in our.__mro__ if base.__name__ != "Generic"]
    assert names == [base.__name__ for base in their.__mro__]
    plain = set(dir(object))
    assert set(dir(our)) - MORE == set(dir(their)) - MORE
    for name in set(dir(their)) - plain - MORE:
        value, found = inspect.getattr_static(their, name), inspect.getattr_static(our, name)
        assert kind(found) == kind(value), (our, name)
        if callable(value) and name not in BY_POSITION | WRITTEN_OUT:
            assert parameters(found) == parameters(value), (our, name)


@pytest.mark.parametrize("name", ["os", "ospath"])
def test_a_function_of_os_is_wrapped_as_there(name: str) -> None:
    their, our = importlib.import_module(f"aiofiles.{name}"), importlib.import_module(f"aioring.aiofiles.{name}")
    for key in set(their.__all__) - {"path", "wrap"}:
        value, found = getattr(their, key), getattr(our, key)
        assert found.__wrapped__ is value.__wrapped__
        assert found.__doc__ == value.__doc__


# --- opened files -----------------------------------------------------------------------------------------------------

# What every file of ours has besides: those of aioring.open, in anyio's dialect. What aiofiles' users test for is absent:
# `peek` of writers, `read1` of raw files and texts.
EXTRA = {
    "aclose", "closefd", "pread", "pwrite", "readinto1", "__aenter__", "__aexit__", "iter_chunks", "raw", "remove",
    "delete", "delete_on_close", "__del__", "__reduce_ex__",
}  # fmt: skip
# `_closer` and `delete` are tempfile's own, hung on by aiofiles on some Pythons: ours always has `delete`.
PRIVATE = {"_closer", "_file", "_loop", "_executor", "_ref_loop"}
OPENED: list[tuple[Any, ...]] = [
    ("r",), ("w",), ("a",), ("r+",), ("w+",), ("a+",), ("x",), ("rt",), ("r", 1), ("w", 1), ("rb",), ("br",), ("wb",),
    ("ab",), ("xb",), ("r+b",), ("rb+",), ("w+b",), ("a+b",), ("x+b",), ("rb", 0), ("wb", 0), ("r+b", 0), ("ab", 0),
    ("rb", 16), ("wb", 16),
]  # fmt: skip


def shape(file: Any) -> dict[str, str]:
    """Each public attribute, and how it is used."""
    names = [name for name in dir(type(file)) if not name.startswith("_") and name not in EXTRA]
    found = {}
    for name in names:
        try:
            value = getattr(file, name)
        except (AttributeError, io.UnsupportedOperation):
            continue
        found[name] = kind(value) if callable(value) else "value"
    return found


def facts(file: Any, where: Path) -> dict[str, Any]:
    found = {
        name: getattr(file, name, "absent") for name in ("mode", "encoding", "errors", "newlines", "line_buffering")
    }
    name = getattr(file, "name", "absent")
    found["name"] = "fd" if type(name) is int else str(name).replace(str(where), "")
    found["closed"] = file.closed, file._file.closed
    found["hashable"] = hash(file) is not None
    found["async with"] = not hasattr(type(file), "__aenter__")
    return found


def classes(file: Any) -> set[str]:
    return {
        base.__name__ for base in type(file).__mro__ if base.__module__.removeprefix("aioring.").startswith("aiofiles")
    }


async def test_an_opened_file_is_what_it_is_there(ring: Any, tmp_path: Path) -> None:
    for number, how in enumerate(OPENED):
        (tmp_path / str(number)).mkdir()
        await compare_opened(tmp_path / str(number), how)


async def compare_opened(tmp_path: Path, how: tuple[Any, ...]) -> None:
    seen = []
    for package in (theirs, ours):
        where = tmp_path / package.__name__
        where.mkdir()
        path = where / "file"
        if "x" not in how[0]:
            path.write_text("some\n")
        async with package.open(path, *how) as file:
            assert (type(file._loop), file._executor) == (type(__import__("asyncio").get_running_loop()), None)
            told = facts(file, where)
            assert told.pop("async with") is (package is theirs)  # ours may be entered itself, too
            seen.append((shape(file), told, classes(file) & set(dir(theirs.threadpool.binary)), await answers(file)))
            if package is ours:
                assert isinstance(file, getattr(ours.threadpool, _class_of(seen[0])))
                assert file.__aiter__() is file
                assert repr(file).startswith(
                    f"<aioring.aiofiles.threadpool.{_module_of(seen[0])}.{_class_of(seen[0])} object"
                )
                assert " wrapping <" in repr(file)
        assert file.closed
    assert seen[1] == seen[0]


def _class_of(seen: Any) -> str:
    found, told = seen[0], seen[1]
    if told["encoding"] != "absent":
        return "AsyncTextIOWrapper"
    if "readall" in found:
        return "AsyncFileIO"
    return "AsyncBufferedReader" if "peek" in found else "AsyncBufferedIOBase"


def _module_of(seen: Any) -> str:
    return "text" if _class_of(seen) == "AsyncTextIOWrapper" else "binary"


async def answers(file: Any) -> list[Any]:
    """The questions, each asked as its kind is: `readable` is a coroutine of texts only."""
    readable = file.readable()
    readable = await readable if inspect.isawaitable(readable) else readable
    return [readable, await file.writable(), await file.seekable(), await file.isatty(), type(file.fileno())]


@pytest.mark.parametrize("make", [io.BytesIO, io.StringIO], ids=lambda make: make.__name__)
async def test_a_wrapped_object_is_what_it_is_there(ring: Any, make: Any) -> None:
    seen = []
    for package in (theirs, ours):
        file = package.threadpool.wrap(make())
        assert type(file).__module__ == f"{package.__name__}.threadpool.{'text' if make is io.StringIO else 'binary'}"
        seen.append((type(file).__name__, shape(file), file.closed, repr(file).split(" object at ")[0].split(".")[-1]))
    assert seen[0] == seen[1]


async def test_what_is_no_file_is_not_wrapped_in_the_same_words(ring: Any) -> None:
    for wrap in (theirs.threadpool.wrap, ours.threadpool.wrap):
        with pytest.raises(TypeError, match=r"^Unsupported io type: 5\.$"):
            wrap(5)
    for temporary in (theirs.tempfile.wrap, ours.tempfile.wrap):
        with pytest.raises(TypeError, match=r"^Unsupported IO type: 5$"):
            temporary(5, 6)


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr", "stdin_bytes", "stdout_bytes", "stderr_bytes"])
def test_a_standard_stream_is_what_it_is_there(name: str) -> None:
    their, our = getattr(theirs, name), getattr(ours, name)
    assert type(our).__name__ == type(their).__name__
    assert type(our).__module__ == "aioring." + type(their).__module__
    assert (our._name, our._executor, our._ref_loop) == (their._name, None, None)
    assert our._file is their._file
    assert hasattr(our, "peek") is hasattr(their, "peek") is False


TEMPORARY: list[tuple[str, dict[str, Any]]] = [
    ("NamedTemporaryFile", {}), ("NamedTemporaryFile", {"mode": "w+"}), ("NamedTemporaryFile", {"mode": "wb"}),
    ("NamedTemporaryFile", {"mode": "rb"}), ("NamedTemporaryFile", {"buffering": 0}), ("TemporaryFile", {}),
    ("TemporaryFile", {"mode": "w+", "encoding": "utf-8"}), ("TemporaryFile", {"mode": "wb", "buffering": 0}),
]  # fmt: skip


@pytest.mark.parametrize("threads", [False, True], ids=["ring", "executor"])
async def test_a_temporary_file_is_what_it_is_there(ring: Any, tmp_path: Path, threads: bool) -> None:
    for name, how in TEMPORARY:
        await compare_temporary(tmp_path, name, how, threads)


async def compare_temporary(tmp_path: Path, name: str, how: dict[str, Any], threads: bool) -> None:
    seen = []
    with ThreadPoolExecutor(1) as pool:
        for package in (theirs, ours):
            make = getattr(package.tempfile, name)
            async with make(**how, dir=tmp_path, prefix="p", executor=pool if threads else None) as file:
                told = facts(file, tmp_path)
                told.pop("async with")
                told["name"] = told["name"][:2]
                deletes = file.delete if sys.version_info < (3, 12) and name[0] == "N" else None
                seen.append((shape(file), told, await answers(file), deletes))
            assert file.closed
    assert seen[1] == seen[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [{}, {"mode": "w+", "encoding": "utf-8"}], ids=repr)
@pytest.mark.parametrize("rolled", [False, True])
async def test_a_spooled_file_is_what_it_is_there(ring: Any, how: dict[str, Any], rolled: bool) -> None:
    seen = []
    for package in (theirs, ours):
        async with package.tempfile.SpooledTemporaryFile(**how) as file:
            memory = type(file._file._file)
            if rolled:
                await file.rollover()
            told = facts(file, Path("/"))
            told.pop("async with")
            if told["name"] == "fd":
                assert type(file.name) is int
            seen.append(
                (
                    shape(file),
                    told,
                    memory,
                    file._file._rolled,
                    isinstance(file, package.tempfile.temptypes.AsyncSpooledTemporaryFile),
                )
            )
        assert file.closed
    assert seen[1] == seen[0]


async def test_a_temporary_folder_is_what_it_is_there(ring: Any, tmp_path: Path) -> None:
    seen = []
    for package in (theirs, ours):
        making = package.tempfile.TemporaryDirectory(dir=tmp_path)
        folder = await making
        seen.append((type(folder).__name__, type(folder.name), Path(folder.name).is_dir(), shape(folder)))
        await folder.cleanup()
    assert seen[1] == seen[0]
    assert list(tmp_path.iterdir()) == []


def test_what_open_gives_is_awaitable_and_no_coroutine() -> None:
    making = ours.open("never opened")
    assert not inspect.iscoroutine(making)
    assert inspect.isawaitable(making)
    assert type(making).__mro__[1:3] == (
        ours.base.AiofilesContextManager,
        *ours.base.AiofilesContextManager.__mro__[1:2],
    )
    assert making._obj is None
    assert not iscoroutinefunction(ours.open)
