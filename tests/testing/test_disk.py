"""The model of the disk, rule by rule; and that with nothing lost it is the real folder, whatever a program did to it."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

import aioring
from aioring.testing import Cut, Disk, Recording, Scripted, Trace, power_cuts

Program = Callable[[aioring.Ring, Trace, Path], Awaitable[None]]


def cuts_of(program: Program, folder: Path, disk: Disk | None = None, method: Any = "sync") -> list[Cut]:
    """Of a recorded run, which notes "end" when it is over."""
    trace = Trace(folder)

    async def main() -> None:
        made = Scripted(method, trace=trace) if isinstance(method, int) else Recording(method, trace)
        async with aioring.Ring(method=made, page_cache_first=False) as ring:
            await program(ring, trace, folder)
        trace.note("end")

    asyncio.run(main())
    return list(power_cuts(trace, disk))


def at_the_end(cuts: list[Cut]) -> list[Cut]:
    return [cut for cut in cuts if cut.noted("end")]


def seen(cuts: list[Cut], name: str = "file") -> set[bytes | None]:
    return {cut.files.get(name) for cut in cuts}


async def opened(ring: aioring.Ring, path: Path, flags: int = os.O_WRONLY) -> int:
    return await ring.open(path, flags, 0o644)


def test_a_write_is_torn_between_sectors(tmp_path: Path) -> None:
    async def program(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        fd = await opened(ring, folder / "file")
        await ring.write(fd, 6, b"N" * 8)  # sectors of 4 bytes: two of 6 to 8, 4 of 8 to 12, two of 12 to 14
        await ring.close(fd)

    (tmp_path / "file").write_bytes(b"o" * 16)
    found = seen(cuts_of(program, tmp_path, Disk(sector=4, samples=200)))
    parts = [(a, b, c) for a in (b"NN", b"oo") for b in (b"NNNN", b"oooo") for c in (b"NN", b"oo")]
    assert found == {b"o" * 6 + a + b + c + b"oo" for a, b, c in parts}


def test_a_file_may_have_grown_without_its_bytes(tmp_path: Path) -> None:
    async def program(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        fd = await opened(ring, folder / "file")
        await ring.write(fd, 3, b"new")
        await ring.write(fd, 6, b"er")
        await ring.close(fd)

    (tmp_path / "file").write_bytes(b"old")
    found = seen(cuts_of(program, tmp_path))
    assert found == {b"old", b"oldnew", b"oldnewer", b"old\0\0\0", b"old\0\0\0er", b"old\0\0\0\0\0"}


@pytest.mark.parametrize("how", ["fsync", "fdatasync", "O_SYNC", "O_DSYNC"])
@pytest.mark.parametrize("method", ["io_uring", "linux_aio", "worker", "sync", 3])
def test_what_was_synced_stays(how: str, method: Any, tmp_path: Path) -> None:
    async def program(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        fd = await opened(ring, folder / "file", os.O_WRONLY | (getattr(os, how) if how[0] == "O" else 0))
        await ring.write(fd, 0, b"new")
        if how[0] != "O":
            await ring.fsync(fd, data_only=how == "fdatasync")
        await ring.close(fd)

    (tmp_path / "file").write_bytes(b"old")
    cuts = cuts_of(program, tmp_path, Disk(sector=1), method)
    assert {b"old", b"new", b"nld"} <= seen(cuts)
    assert seen(at_the_end(cuts)) == {b"new"}


def test_sync_range_covers_nothing(tmp_path: Path) -> None:
    async def program(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        fd = await opened(ring, folder / "file")
        await ring.write(fd, 0, b"new")
        await ring.sync_range(fd, 0, 3)
        await ring.close(fd)

    (tmp_path / "file").write_bytes(b"old")
    assert seen(at_the_end(cuts_of(program, tmp_path))) == {b"old", b"new"}


def test_lengths_are_cut_and_grown(tmp_path: Path) -> None:
    async def program(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        fd = await opened(ring, folder / "file")
        await ring.truncate(fd, 2)
        await ring.allocate(fd, 0, 5)
        await ring.allocate(fd, 0, 100, 1)  # KEEP_SIZE
        await ring.allocate(fd, 1, 1, 3)  # a hole
        await ring.close(fd)

    (tmp_path / "file").write_bytes(b"old")
    found = seen(at_the_end(cuts_of(program, tmp_path)))
    assert {b"old", b"ol\0\0\0", b"o\0\0\0\0", b"o\0d"} <= found
    assert found <= {
        b"old", b"old\0\0", b"ol", b"ol\0\0\0", b"o\0", b"o\0d", b"o\0d\0\0", b"o\0\0\0\0",
    }  # fmt: skip


def test_a_name_is_there_when_its_folder_was_synced_and_not_when_its_file_was(tmp_path: Path) -> None:
    async def program(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        fd = await opened(ring, folder / "file", os.O_WRONLY | os.O_CREAT)
        await ring.write(fd, 0, b"new")
        await ring.fsync(fd)
        await ring.close(fd)
        trace.note("file")
        above = await opened(ring, folder, os.O_RDONLY)
        await ring.fsync(above)
        await ring.close(above)

    cuts = cuts_of(program, tmp_path)
    assert seen([cut for cut in cuts if cut.noted("file") and not cut.noted("end")]) == {None, b"new"}
    assert seen(at_the_end(cuts)) == {b"new"}


def test_a_rename_between_folders_needs_both(tmp_path: Path) -> None:
    async def program(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        await ring.rename(folder / "a" / "file", folder / "b" / "file")
        for number, name in enumerate("ab"):
            fd = await opened(ring, folder / name, os.O_RDONLY)
            await ring.fsync(fd)
            await ring.close(fd)
            trace.note(name, number)

    for name in "ab":
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x")
    cuts = cuts_of(program, tmp_path)
    assert {(cut.files.get("a/file"), cut.files.get("b/file")) for cut in cuts} == {(b"x", None), (None, b"x")}
    assert {tuple(cut.files) for cut in cuts if cut.noted("a") and not cut.noted("b")} == {("a/file",), ("b/file",)}
    assert [tuple(cut.files) for cut in at_the_end(cuts)] == [("b/file",)]


def test_names_come_in_any_order_or_in_that_of_a_journal(tmp_path: Path) -> None:
    async def program(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        for name in "abc":
            await ring.mkdir(folder / name)

    for top in ("any", "ordered"):
        (tmp_path / top).mkdir()
    found = {tuple(sorted(cut.folders)) for cut in cuts_of(program, tmp_path / "any")}
    assert ("c",) in found
    assert len(found) == 8
    ordered = cuts_of(program, tmp_path / "ordered", Disk(names="ordered"))
    assert {tuple(sorted(cut.folders)) for cut in ordered} == {(), ("a",), ("a", "b"), ("a", "b", "c")}


def test_what_is_in_a_folder_that_is_lost_is_lost(tmp_path: Path) -> None:
    async def program(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        await ring.mkdir(folder / "new")
        fd = await opened(ring, folder / "new" / "file", os.O_WRONLY | os.O_CREAT)
        await ring.write(fd, 0, b"x")
        await ring.fsync(fd)
        await ring.close(fd)
        fd = await opened(ring, folder / "new", os.O_RDONLY)
        await ring.fsync(fd)
        await ring.close(fd)

    assert {tuple(cut.files.items()) for cut in at_the_end(cuts_of(program, tmp_path))} == {(), (("new/file", b"x"),)}


def test_a_cut_is_mounted(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "folder").mkdir(parents=True)
    (top / "folder" / "file").write_bytes(b"x")
    (top / os.fsdecode(b"\xff")).write_bytes(b"not UTF-8")

    async def program(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        await ring.link(folder / "folder" / "file", folder / "same")
        await ring.symlink("folder/file", folder / "relative")
        await ring.symlink(folder / "folder", folder / "absolute")
        await ring.symlink("/etc/hostname", folder / "outside")

    (last,) = [cut for cut in at_the_end(cuts_of(program, top)) if not cut.lost]
    for path in top.iterdir():
        if path.is_symlink():
            path.unlink()
    into = last.mount(tmp_path / "made" / "for it")
    assert (into / "same").samefile(into / "folder" / "file")
    assert (into / "relative").read_bytes() == b"x"
    assert (into / "absolute").resolve() == into / "folder"
    assert os.readlink(into / "outside") == "/etc/hostname"
    assert (into / os.fsdecode(b"\xff")).read_bytes() == b"not UTF-8"
    with pytest.raises(FileExistsError, match="empty folder"):
        last.mount(into)
    assert "nothing was lost" in str(last)


def test_without_a_folder_it_is_what_the_ring_touched(tmp_path: Path) -> None:
    trace = Trace()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"old")
    (tmp_path / "a" / "other").write_bytes(b"not touched")

    async def main() -> None:
        async with aioring.Ring(method=Recording("io_uring", trace)) as ring:
            await aioring.write_file(tmp_path / "a" / "file", b"new", ring=ring)

    asyncio.run(main())
    assert {tuple(cut.files.items()) for cut in power_cuts(trace)} == {
        (("file", data),) for data in (b"old", b"new", b"", b"\0\0\0")
    }


def test_an_inode_that_is_used_again_is_another_file(tmp_path: Path) -> None:
    async def program(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        for number in range(8):
            fd = await opened(ring, folder / "file", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            await ring.write(fd, 0, b"%d" % number)
            trace.note("inode", os.fstat(fd).st_ino)
            await ring.close(fd)
            if number < 7:
                await ring.unlink(folder / "file")

    cuts = cuts_of(program, tmp_path)
    assert {cut.files.get("file") for cut in cuts if not cut.lost} >= {b"%d" % number for number in range(8)}
    assert {b"7", None, b""} <= seen(at_the_end(cuts))


def test_appends_come_behind_each_other_wherever_they_were_told_to_go(tmp_path: Path) -> None:
    async def program(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        fd = await opened(ring, folder / "file", os.O_WRONLY | os.O_APPEND)
        await ring.write(fd, 0, b"b")
        await ring.writev(fd, 0, [b"c", b"d"])
        await ring.close(fd)

    (tmp_path / "file").write_bytes(b"a")
    cuts = at_the_end(cuts_of(program, tmp_path))
    assert [cut.files["file"] for cut in cuts if not cut.lost] == [b"abcd"]
    assert b"a\0cd" in seen(cuts)


# --- several at once, and what fails ----------------------------------------------------------------------------------


async def _lock(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
    async def one(name: str) -> None:
        try:
            fd = await ring.open(folder / "lock", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return
        await ring.write(fd, 0, name.encode())
        await ring.fsync(fd)
        await ring.close(fd)
        above = await opened(ring, folder, os.O_RDONLY)
        await ring.fsync(above)
        await ring.close(above)
        trace.note("has it", name)

    await asyncio.gather(one("a"), one("b"))


@pytest.mark.parametrize("method", ["worker", *range(12)])
def test_of_two_that_make_a_file_at_once_one_does(method: Any, tmp_path: Path) -> None:
    cuts = cuts_of(_lock, tmp_path, method=method)
    (owner,) = cuts[-1].noted("has it")
    assert seen(at_the_end(cuts), "lock") == {owner.encode()} == {(tmp_path / "lock").read_bytes()}


@pytest.mark.parametrize("seed", range(12))
def test_of_two_that_open_one_log_at_once_both_write_to_it(seed: int, tmp_path: Path) -> None:
    async def program(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        async def one(data: bytes) -> None:
            fd = await opened(ring, folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            await ring.write(fd, 0, data)
            await ring.close(fd)

        await asyncio.gather(one(b"aaa"), one(b"bb"))

    (last,) = [cut for cut in at_the_end(cuts_of(program, tmp_path, method=seed)) if not cut.lost]
    assert sorted(last.files["log"]) == sorted(b"aaabb") == sorted((tmp_path / "log").read_bytes())


def test_what_fails_never_happens(tmp_path: Path) -> None:
    async def program(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        for failing in (
            ring.rmdir(folder / "full"), ring.unlink(folder / "full"), ring.rename(folder / "file", folder / "full"),
            ring.link(folder / "file", folder / "full"), ring.mkdir(folder / "file"), ring.unlink(folder / "missing"),
        ):  # fmt: skip
            with pytest.raises(OSError):
                await failing

    (tmp_path / "full").mkdir()
    for path in (tmp_path / "full" / "kept", tmp_path / "file"):
        path.write_bytes(b"x")
    for method in ("worker", "io_uring", 1):
        cuts = cuts_of(program, tmp_path, method=method)
        assert {tuple(sorted(cut.files)) for cut in cuts} == {("file", "full/kept")}


def test_a_write_that_failed_for_good_may_be_there_in_part(tmp_path: Path) -> None:
    async def program(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        fd = await opened(ring, folder / "file")
        for code in (errno.EIO, errno.ENOSPC):
            with pytest.raises(OSError) as caught:
                await ring.write(fd, 0, b"new%d" % code)
            assert caught.value.errno == code
            await ring.fsync(fd)
        await ring.close(fd)

    (tmp_path / "file").write_bytes(b"old")
    trace = Trace(tmp_path)
    faults = {("write", 1): errno.EIO, ("write", 2): errno.ENOSPC}

    async def main() -> None:
        async with aioring.Ring(method=Scripted(1, trace=trace, short=0, soft=0, faults=faults)) as ring:
            await program(ring, trace, tmp_path)
        trace.note("end")

    asyncio.run(main())
    assert seen(at_the_end(list(power_cuts(trace)))) >= {b"old", b"new5"}
    assert b"new28" not in seen(list(power_cuts(trace)))  # nothing was written where there was no room


def test_a_folder_has_one_name(tmp_path: Path) -> None:
    async def program(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        await ring.rename(folder / "z" / "a", folder / "m" / "b")
        await ring.rename(folder / "m" / "b", folder / "m" / "c")
        fd = await opened(ring, folder / "m", os.O_RDONLY)
        await ring.fsync(fd)
        await ring.close(fd)

    for name in ("m", "z/a"):
        (tmp_path / name).mkdir(parents=True)
    for cut in cuts_of(program, tmp_path):
        assert len([name for name in cut.folders if "/" in name]) == 1
        assert not cut.noted("end") or "m/c" in cut.folders


def test_a_journal_orders_what_came_one_after_the_other_and_nothing_else(tmp_path: Path) -> None:
    async def program(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
        async def one() -> None:
            await ring.rename(folder / "b", folder / "b2")
            await ring.fsync(fd)
            trace.note("b")

        fd = await opened(ring, folder, os.O_RDONLY)
        await asyncio.gather(ring.rename(folder / "a", folder / "a2"), one())
        await ring.close(fd)

    states = set()
    for seed in range(30):
        folder = tmp_path / str(seed)
        folder.mkdir()
        for name in "ab":
            (folder / name).touch()
        for cut in cuts_of(program, folder, Disk(names="ordered"), seed):
            states.add(("a2" in cut.files, "b2" in cut.files, bool(cut.noted("b"))))
    assert (False, True, True) in states  # b's is promised, a's is under way
    assert (True, False, False) in states
    assert not [state for state in states if state[2] and not state[1]]


def test_paths_are_told_whatever_they_look_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "lnk").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    trace = Trace()

    async def main() -> None:
        async with aioring.Ring(method=Recording("sync", trace), page_cache_first=False) as ring:
            for name in ("./x", "real/../y", "lnk/z"):
                await ring.close(await ring.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            await ring.symlink("real/z", "s")
            await ring.link("s", "s2", follow_symlinks=False)

    asyncio.run(main())
    last = [cut for cut in power_cuts(trace) if not cut.lost][-1]
    assert (sorted(last.files), sorted(last.links)) == (["real/z", "x", "y"], ["s", "s2"])


# --- against the real folder ------------------------------------------------------------------------------------------

_NAMES = st.sampled_from(["a", "b", "c", "d/a", "d/b", "e/a"])
_STEPS = st.one_of(
    st.tuples(st.just("write"), _NAMES, st.integers(0, 3000), st.integers(0, 3000)),
    st.tuples(st.just("append"), _NAMES, st.just(0), st.integers(0, 3000)),
    st.tuples(st.just("truncate"), _NAMES, st.integers(0, 4000), st.just(0)),
    st.tuples(st.just("hole"), _NAMES, st.integers(0, 3000), st.integers(1, 2000)),
    st.tuples(st.just("new"), _NAMES, st.just(0), st.integers(0, 3000)),
    st.tuples(st.just("replace"), _NAMES, st.booleans(), st.integers(0, 3000)),
    st.tuples(st.just("rename"), _NAMES, _NAMES, st.just(0)),
    st.tuples(st.just("link"), _NAMES, _NAMES, st.just(0)),
    st.tuples(st.just("symlink"), _NAMES, _NAMES, st.just(0)),
    st.tuples(st.just("unlink"), _NAMES, st.just(0), st.just(0)),
    st.tuples(st.just("fsync"), _NAMES, st.just(0), st.just(0)),
    st.tuples(st.just("folder"), st.sampled_from(["d", "e"]), st.sampled_from(["d", "e"]), st.booleans()),
)


async def _step(ring: aioring.Ring, top: Path, kind: str, first: Any, second: Any, third: Any, fill: int) -> None:
    path, data = top / first, bytes([65 + fill % 26]) * int(third)
    if kind in ("rename", "link"):
        await getattr(ring, kind)(path, top / second)
    elif kind == "symlink":
        await ring.symlink(os.path.relpath(top / second, path.parent), path)
    elif kind == "unlink":
        await ring.unlink(path)
    elif kind == "folder":
        if third:
            await ring.rename(path, top / second)
        else:
            await ring.mkdir(path)
    elif kind == "replace":
        await aioring.write_file(path, data, atomic=True, durable=second, ring=ring)
    elif kind == "append":
        await aioring.append_file(path, data, ring=ring)
    else:
        fd = await ring.open(path, os.O_RDWR | os.O_CREAT | (os.O_TRUNC if kind == "new" else 0), 0o644)
        try:
            if kind in ("write", "new"):
                await ring.write(fd, second, data)
            elif kind == "truncate":
                await ring.truncate(fd, second)
            elif kind == "hole":
                await ring.allocate(fd, second, third, 3)  # FALLOC_FL_PUNCH_HOLE | KEEP_SIZE
            else:
                await ring.fsync(fd)
        finally:
            await ring.close(fd)


def _real(top: Path) -> tuple[dict[str, bytes], dict[str, str], list[str]]:
    files, links, folders = {}, {}, []
    for above, below, names in os.walk(top):
        for name in (*below, *names):
            path = Path(above, name)
            relative = str(path.relative_to(top))
            if path.is_symlink():
                links[relative] = os.readlink(path)
            elif path.is_dir():
                folders.append(relative)
            else:
                files[relative] = path.read_bytes()
    return files, links, sorted(folders)


@pytest.mark.parametrize("method", ["io_uring", "worker", "sync", "scripted"])
@given(steps=st.lists(_STEPS, max_size=16), seed=st.integers(0, 1 << 30))
@settings(max_examples=25, deadline=None)
def test_with_nothing_lost_it_is_the_real_folder(method: str, steps: list[Any], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder, "top")
        (top / "d").mkdir(parents=True)
        for name in ("a", "d/a"):
            (top / name).write_bytes(os.urandom(1500))
        before = _real(top)

        async def program(ring: aioring.Ring, trace: Trace, folder: Path) -> None:
            for number, step in enumerate(steps):
                try:
                    kind, first, second, third = step
                    await _step(ring, folder, kind, first, second, third, number)
                except OSError as error:
                    trace.note("refused", str(error))

        cuts = cuts_of(program, top, Disk(samples=0), seed if method == "scripted" else method)
        assert (cuts[0].files, cuts[0].links, sorted(cuts[0].folders)) == before
        (last,) = [cut for cut in at_the_end(cuts) if not cut.lost]
        assert (last.files, last.links, sorted(last.folders)) == _real(top)
