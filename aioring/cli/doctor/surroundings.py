"""What surrounds the process: kernel, filters, limits, container. Read from /proc and /sys; what is not there is None."""

from __future__ import annotations

import errno
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["cgroup_mounts", "container", "kernel", "limits", "mount_table", "reason_of", "text_of"]

_UNLIMITED = 1 << 60  # version 1 says it with a number near 2**63
_SECCOMP = {"0": "none", "1": "strict", "2": "filter"}


def text_of(path: str | Path) -> str | None:
    """The contents of a small file, stripped; None where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def reason_of(error: OSError) -> str:
    """ "EROFS: Read-only file system"."""
    number = error.errno or 0
    name = "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode.get(number)  # it has two names
    return f"{name}: {error.strerror}" if name else str(error)


def _number_of(path: str) -> int | None:
    text = text_of(path)
    return int(text) if text is not None and text.lstrip("-").isdigit() else None


def kernel() -> dict[str, Any]:
    status = _status()
    version = text_of("/proc/version") or ""
    return {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "gvisor": "gvisor" in version.lower() or "Starting gVisor" in (text_of("/proc/1/comm") or ""),
        "io_uring_disabled": _number_of("/proc/sys/kernel/io_uring_disabled"),
        "seccomp": _SECCOMP.get(status.get("Seccomp", "")),
        "seccomp_filters": int(status["Seccomp_filters"]) if status.get("Seccomp_filters", "").isdigit() else None,
        "no_new_privs": status.get("NoNewPrivs") == "1" if "NoNewPrivs" in status else None,
        "aio_nr": _number_of("/proc/sys/fs/aio-nr"),
        "aio_max_nr": _number_of("/proc/sys/fs/aio-max-nr"),
    }


def _status() -> dict[str, str]:
    lines = (text_of("/proc/self/status") or "").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def limits() -> dict[str, Any]:
    found: dict[str, Any] = {"nofile": None, "memlock": None, "nproc": None}
    try:
        import resource
    except ImportError:
        pass
    else:
        for name in found:
            soft, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))
            found[name] = [None if n == resource.RLIM_INFINITY else n for n in (soft, hard)]  # None: unlimited
    affinity = getattr(os, "sched_getaffinity", None)
    found["cpus"] = len(affinity(0)) if affinity is not None else os.cpu_count()
    found["switch_interval"] = sys.getswitchinterval()
    found["cgroup"] = _cgroup()
    return found


def mount_table() -> Iterator[tuple[list[str], list[str]]]:
    """proc_pid_mountinfo(5): of each mount the fields before the dash, and type, source and options behind it."""
    for line in (text_of("/proc/self/mountinfo") or "").splitlines():
        # 36 35 98:0 /root /mount rw,noatime ... - type source rw,...
        left, _, right = line.partition(" - ")
        fields, rest = left.split(" "), right.split(" ")
        if len(fields) >= 6 and len(rest) >= 3:
            yield fields, rest


def cgroup_mounts() -> dict[str, Path]:
    """Where the cgroups are mounted (proc_pid_mountinfo(5)): by controller, and "" for version 2."""
    found: dict[str, Path] = {}
    for fields, rest in mount_table():
        if rest[0] in ("cgroup", "cgroup2"):
            for controller in rest[2].split(",") if rest[0] == "cgroup" else ("",):
                found.setdefault(controller, Path(fields[4]))
    return found


def _cgroup() -> dict[str, Any] | None:
    """The limits of this process's cgroup: the tightest on the way up, since each parent's holds as well."""
    mounts = cgroup_mounts()
    # "0::/user.slice", version 2; "9:memory:/docker/4711", version 1
    rows = [line.split(":", 2) for line in (text_of("/proc/self/cgroup") or "").splitlines() if line.count(":") >= 2]
    own = {name: path for _, names, path in rows for name in names.split(",")}
    two = [*_upwards(mounts.get(""), own.get(""))]
    memory, blkio = ([*_upwards(mounts.get(name), own.get(name))] for name in ("memory", "blkio"))
    if two and (not memory or (two[0] / "memory.max").exists()):
        limits = [text_of(folder / "memory.max") for folder in two]
        current = text_of(two[0] / "memory.current")
        # "8:0 rbps=1048576 wbps=max riops=max wiops=max"
        io = [line for folder in two for line in (text_of(folder / "io.max") or "").splitlines()]
        version, path = 2, own[""]
    elif memory:
        limits = [text_of(folder / "memory.limit_in_bytes") for folder in memory]
        current = text_of(memory[0] / "memory.usage_in_bytes")
        names = [f"{way}_{unit}" for way in ("read", "write") for unit in ("bps", "iops")]
        io = [
            f"{line.replace(' ', f' {name}=')}"  # "8:0 1048576"
            for folder in blkio
            for name in names
            for line in (text_of(folder / f"blkio.throttle.{name}_device") or "").splitlines()
        ]
        version, path = 1, own["memory"]
    else:
        return None
    numbers = [int(limit) for limit in limits if limit is not None and limit.isdigit() and int(limit) < _UNLIMITED]
    return {
        "version": version,
        "path": path,
        "memory_max": min(numbers, default=None),
        "memory_current": int(current) if current is not None and current.isdigit() else None,
        "io_max": io,
    }


def _upwards(root: Path | None, path: str | None) -> Iterator[Path]:
    """The folder of a cgroup, and those above it, up to where it is mounted."""
    if root is None or path is None or not root.is_dir():
        return
    folder = root / path.lstrip("/")
    while root in folder.parents:
        yield folder
        folder = folder.parent
    yield root


def container() -> dict[str, Any]:
    """What kind of container this is, and by what it is known; kind None: it does not look like one."""
    environment = text_of("/proc/1/environ") or ""
    systemd = text_of("/run/systemd/container")
    own = text_of("/proc/self/cgroup") or ""
    mounts = text_of("/proc/self/mountinfo") or ""
    signs: list[tuple[str, str, bool]] = [
        ("gvisor", "/proc/version", "gvisor" in (text_of("/proc/version") or "").lower()),
        ("kubernetes", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_HOST" in os.environ),
        ("podman", "/run/.containerenv", os.path.exists("/run/.containerenv")),
        ("docker", "/.dockerenv", os.path.exists("/.dockerenv")),
        ("docker", "/proc/self/cgroup", "/docker" in own),
        ("kubernetes", "/proc/self/cgroup", "kubepods" in own),
        ("containerd", "/proc/self/mountinfo", "/containerd/" in mounts),
        (systemd or "systemd", "/run/systemd/container", systemd is not None),
        (os.environ.get("container") or "unknown", "$container", "container" in os.environ),  # noqa: SIM112 - podman's
        ("lxc", "/proc/1/environ", "container=lxc" in environment),
    ]
    for kind, known_by, there in signs:
        if there:
            return {"kind": kind, "known_by": known_by}
    return {"kind": None, "known_by": None}
