"""What the doctor makes of surroundings that cannot be made here: from the report to words."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aioring.cli import doctor
from aioring.cli.doctor import surroundings
from aioring.cli.doctor.verdict import verdict
from tests.cli.test_doctor import ONCE, ROOT, examined


@pytest.fixture(scope="module")
def real() -> dict[str, Any]:
    report, _ = doctor.examine(".")
    return report


@pytest.fixture
def report(real: dict[str, Any]) -> dict[str, Any]:
    """Of a machine on which all is well, to be spoiled."""
    report = copy.deepcopy(real)
    report |= {"method": "io_uring", "fallback_reason": None}
    report["liburing"] |= {"route": "liburing (liburing.so.2)", "used": "liburing (liburing.so.2)", "error": None}
    report["features"] |= {"setup_flags": ["DEFER_TASKRUN"], "missing_opcodes": [], "refused": {}, "namesake": None}
    report["kernel"] |= {
        "system": "Linux",
        "gvisor": False,
        "io_uring_disabled": 0,
        "seccomp": "none",
        "release": "6.1.0",
    }
    report["limits"]["nofile"] = [1024, 4096]
    report["container"]["kind"] = None
    fine = {"works": True, "error": None}
    report["path"] = {
        "path": "/data", "kind": "folder", "file_system": "ext4", "readable": fine, "writable": fine, "rwf_nowait": fine,
        "direct": fine, "tmpfile": fine, "reflink": fine,
    }  # fmt: skip
    return report


def refused(report: dict[str, Any], reason: str, method: str = "linux_aio") -> None:
    report |= {"method": method, "fallback_reason": reason}


def test_where_all_is_well_there_is_nothing_to_change(report: dict[str, Any]) -> None:
    assert verdict(report) == ("aioring uses io_uring here, through liburing (liburing.so.2), at its best.", [])


def test_the_sysctl(report: dict[str, Any]) -> None:
    refused(report, "EPERM from io_uring_setup: kernel.io_uring_disabled is 2 ...")
    report["kernel"]["io_uring_disabled"] = 2
    _, advice = verdict(report)
    assert advice == ["kernel.io_uring_disabled is 2: `sysctl -w kernel.io_uring_disabled=0` on the host"]


def test_gvisor(report: dict[str, Any]) -> None:
    refused(report, "ENOSYS from io_uring_setup", "worker")
    report["kernel"]["gvisor"] = True
    text, advice = verdict(report)
    assert "worker threads" in text
    assert advice == [
        "gVisor has no io_uring; run this container with another runtime (`docker run --runtime=runc ...`)"
    ]


def test_a_kernel_that_is_too_old(report: dict[str, Any]) -> None:
    refused(report, "ENOSYS from io_uring_setup")
    report["kernel"]["release"] = "4.19.0"
    assert "this kernel (4.19.0) has no io_uring" in verdict(report)[1][0]


def test_an_older_form(report: dict[str, Any]) -> None:
    report["features"]["setup_flags"] = ["CLAMP", "COOP_TASKRUN"]
    text, advice = verdict(report)
    assert "in an older form" in text
    assert "Linux 6.1" in advice[0]


@pytest.mark.parametrize(
    ("kind", "line"),
    [("docker", "`docker run --security-opt seccomp=PROFILE.json IMAGE`"), ("podman", "`podman run --security-opt"),
     ("kubernetes", "seccompProfile")],
)  # fmt: skip
def test_the_line_for_each_kind_of_container(kind: str, line: str, report: dict[str, Any]) -> None:
    refused(report, "EPERM from io_uring_setup: a seccomp filter ...")
    report["kernel"]["seccomp"], report["container"]["kind"] = "filter", kind
    assert any(line in advice for advice in verdict(report)[1])


def test_limits(report: dict[str, Any]) -> None:
    refused(report, "ENOMEM from io_uring_setup: the queues do not fit under RLIMIT_MEMLOCK")
    report["limits"]["nofile"] = [64, 64]
    advice = verdict(report)[1]
    assert "RLIMIT_MEMLOCK" in advice[0]
    assert "RLIMIT_NOFILE is 64" in advice[1]
    refused(
        report, "EPERM from io_uring_setup; nor linux_aio: EAGAIN from io_setup: fs.aio-max-nr is used up", "worker"
    )
    report["kernel"] |= {"aio_nr": 65536, "aio_max_nr": 65536}
    assert any("fs.aio-max-nr is used up (65536 of 65536)" in advice for advice in verdict(report)[1])


@pytest.mark.parametrize("kind", ["nfs4", "fuse.sshfs", "9p"])
def test_a_file_system_that_asks_a_server(kind: str, report: dict[str, Any]) -> None:
    report["path"]["file_system"] = kind
    text, advice = verdict(report)
    assert f"/data is on {kind}: a server answers" in text
    assert advice == [f"{kind}: keep what is read often on a local disk"]


def test_elsewhere_than_linux(report: dict[str, Any]) -> None:
    refused(report, "ENOSYS from the platform: io_uring is Linux only", "worker")
    report["kernel"]["system"] = "Darwin"
    assert verdict(report)[1] == ["io_uring is Linux only; worker threads are what there is elsewhere"]


def test_the_other_distribution_of_that_name(tmp_path: Path) -> None:
    """Installed for real, as far as importlib.metadata can tell."""
    info = tmp_path / "aioring-3.2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: aioring\nVersion: 3.2.1\n")
    report, status = examined(tmp_path, before=f"sys.path.append({str(tmp_path)!r})")
    assert status in (0, 1)
    assert report["features"]["namesake"] == "3.2.1"
    assert any("`pip uninstall aioring`" in advice for advice in report["advice"])


def test_a_cgroups_limits(tmp_path: Path) -> None:
    """The tightest on the way up holds. In a cgroup of our own, where one can be made."""
    mounts = surroundings.cgroup_mounts()
    one = "memory" in mounts
    root = mounts.get("memory", mounts.get("", Path("/nowhere"))) / f"aioring-doctor-{os.getpid()}"
    limit, inner = "memory.limit_in_bytes" if one else "memory.max", root / "inner"
    try:
        root.mkdir()
        if not one:
            (root / "cgroup.subtree_control").write_text("+memory")
        inner.mkdir()
        (root / limit).write_text(str(512 << 20))
        (inner / limit).write_text(str(1 << 30))
    except OSError as error:
        for folder in (inner, root):
            if folder.exists():
                folder.rmdir()
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        before = f"open({str(inner / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))"
        program = [sys.executable, "-c", ONCE.format(before=before), "doctor", "--json", str(tmp_path)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(program, capture_output=True, text=True, check=False, env=environment)
    finally:
        inner.rmdir()
        root.rmdir()
    found = json.loads(done.stdout)["limits"]["cgroup"]
    assert found["version"] == (1 if one else 2)
    assert found["path"].endswith(f"/{root.name}/inner")
    assert found["memory_max"] == 512 << 20
    assert 0 < found["memory_current"] < 512 << 20


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    assert surroundings.text_of(tmp_path / "nothing") is None
    assert surroundings.text_of(tmp_path) is None
