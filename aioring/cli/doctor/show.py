"""The report for people: a line each, in sections, and the verdict last. In colour where rich is there and wanted."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

from ..console import console

__all__ = ["show"]

Line = tuple[str, str]


def show(report: dict[str, Any]) -> None:
    """Print it: to a terminal by rich if that is installed (NO_COLOR is its business), else as plain text."""
    here = console()
    if here is None:
        _plain(report)
    else:
        _rich(report, here)


def _plain(report: dict[str, Any]) -> None:
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for title, lines in _sections(report):
        print(title)
        for name, value in lines:
            print(_wrapped(f"  {name}: {value}", columns))
        print()
    print(_wrapped(report["verdict"], columns))
    for number, one in enumerate(report["advice"], 1):
        print(_wrapped(f"{number}. {one}", columns))


def _wrapped(text: str, columns: int) -> str:
    if not columns:
        return text  # into a pipe: a line is a line
    indent = "    " if text.startswith("  ") else "   "
    return textwrap.fill(
        text, max(columns, 16), subsequent_indent=indent, break_long_words=True, break_on_hyphens=False
    )


def _rich(report: dict[str, Any], here: Any) -> None:
    from rich.padding import Padding
    from rich.text import Text

    for title, lines in _sections(report):
        here.print(Text(title, style="bold"))
        for name, value in lines:
            line = Text.assemble((f"{name}: ", "cyan"), value)
            here.print(Padding(line, (0, 0, 0, 2)))
        here.print()
    good = report["method"] == "io_uring" and not report["advice"]
    here.print(Text(report["verdict"], style="bold green" if good else "bold yellow"))
    for number, one in enumerate(report["advice"], 1):
        here.print(Text(f"{number}. {one}"))


def _sections(report: dict[str, Any]) -> Iterator[tuple[str, list[Line]]]:
    features, liburing, kernel = report["features"], report["liburing"], report["kernel"]
    yield (
        "aioring",
        [
            ("version", f"{features['aioring']}, {features['python']}{'' if features['gil'] else ', without the GIL'}"),
            ("method", report["method"] or "none works"),
            *([("not io_uring", report["fallback_reason"])] if report["fallback_reason"] else []),
            ("liburing", _liburing(liburing)),
            *([("set-up flags", " ".join(features["setup_flags"]) or "none")] if "setup_flags" in features else []),
            *([("done by workers", _by_workers(report))] if report["method"] else []),
            *([("refused", _pairs(features["refused"]))] if features.get("refused") else []),
            *([("also installed", f"aioring {features['namesake']}")] if features["namesake"] else []),
        ],
    )
    yield (
        "kernel",
        [
            (
                "release",
                f"{kernel['system']} {kernel['release']}, {kernel['machine']}{', gVisor' if kernel['gvisor'] else ''}",
            ),
            ("seccomp", _seccomp(kernel)),
            ("kernel.io_uring_disabled", _or(kernel["io_uring_disabled"], "no such setting")),
            ("fs.aio-nr", f"{_or(kernel['aio_nr'])} of {_or(kernel['aio_max_nr'])}"),
        ],
    )
    limits, container = report["limits"], report["container"]
    yield (
        "limits",
        [
            *((f"RLIMIT_{name.upper()}", _limit(limits[name])) for name in ("nofile", "memlock", "nproc")),
            ("CPUs", str(limits["cpus"])),
            ("GIL switch interval", f"{limits['switch_interval'] * 1000:g} ms"),
            ("cgroup", _cgroup(limits["cgroup"])),
            ("container", f"{container['kind']} ({container['known_by']})" if container["kind"] else "none that shows"),
        ],
    )
    yield "path", list(_path(report["path"]))


def _by_workers(report: dict[str, Any]) -> str:
    if report["method"] == "io_uring":
        return ", ".join(report["features"]["missing_opcodes"]) or "what has no opcode"
    return "all but O_DIRECT" if report["method"] == "linux_aio" else "everything"


def _liburing(found: dict[str, Any]) -> str:
    if found["error"]:
        return f"cannot be loaded: {found['error']}"
    words = found["route"] if found["version"] is None else f"{found['version']}, {found['route']}"
    return f"{words} (AIORING_LIBURING)" if found["AIORING_LIBURING"] else str(words)


def _seccomp(kernel: dict[str, Any]) -> str:
    filters = kernel["seccomp_filters"]
    said = _or(kernel["seccomp"], "not known")
    return f"{said} ({filters})" if filters else said


def _cgroup(found: dict[str, Any] | None) -> str:
    if found is None:
        return "none to be seen"
    most = _bytes(found["memory_max"]) if found["memory_max"] is not None else "unlimited"
    return f"{found['path']}: memory {most}; I/O {'; '.join(found['io_max']) or 'unlimited'}"


def _path(path: dict[str, Any]) -> Iterator[Line]:
    yield "path", path["path"]
    if "error" in path:
        yield "error", path["error"]
        return
    mode = " (read only)" if path["read_only"] else ""
    where = f" on {_or(path['file_system'], 'an unknown file system')}, {_or(path['mount'])}{mode}"
    yield "kind", path["kind"] + (where if path["kind"] in ("file", "folder") else "")
    device = path["device"]
    if device is None:
        yield "device", f"none to be seen ({_or(path['source'])})"
    else:
        queue = {name: value for name, value in device["queue"].items() if value is not None}
        yield "device", f"{device['name']}: {_pairs(queue)}"
    direct = path["direct"]
    said = _tried(direct)
    if direct["works"]:
        how = "as the kernel says" if direct["told"] else "found by trying"
        said = f"yes: memory {direct['memory_align']}, offset and length {direct['offset_align']} bytes ({how})"
    yield "direct I/O", said
    for name in ("RWF_NOWAIT", "O_TMPFILE", "reflink", "writable"):
        yield name, _tried(path[name.lower().removeprefix("o_")])


def _tried(tried: dict[str, Any] | None) -> str:
    if tried is None:
        return "-"
    if tried["works"]:
        return f"yes: {tried['error']}" if tried["error"] else "yes"
    return f"{'no' if tried['works'] is False else 'not tried'}: {tried['error']}"


def _limit(pair: list[int | None] | None) -> str:
    if pair is None:
        return "not known"
    return " of ".join("unlimited" if n is None else f"{n:,}" for n in pair)


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _bytes(n: int) -> str:
    return f"{n / (1 << 20):,.0f} MiB"


def _or(value: Any, other: str = "?") -> str:
    return other if value is None else str(value)
