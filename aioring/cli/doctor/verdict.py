"""What the findings mean, in plain words, and what to change. Pure: from the report to sentences."""

from __future__ import annotations

from typing import Any

__all__ = ["verdict"]

_LOST = (
    "reads that the page cache serves are as fast, but cold reads come to about a third, and what is waiting for the disk "
    "holds a thread"
)
_SYSCALLS = "io_uring_setup, io_uring_enter and io_uring_register"
_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
_FAR = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse", "ceph", "afs", "virtiofs")
_SANDBOX = ("EPERM", "EACCES", "ENOSYS", "EOPNOTSUPP", "EINVAL")  # what one answers where it refuses an opcode
_FEW_FDS = 256


def verdict(report: dict[str, Any]) -> tuple[str, list[str]]:
    """The verdict, and a list of what to change: the most useful first, empty where there is nothing."""
    advice: list[str] = []
    if report["method"] is None:
        sentence = f"aioring does not work here: {report['fallback_reason']}."
        advice += _about_refusal(report)
    elif report["method"] == "io_uring":
        sentence = _about_io_uring(report, advice)
    else:
        sentence = _about_less(report)
        advice += _about_refusal(report)
    sentence += _about_path(report["path"], advice)
    if report["features"]["namesake"] is not None:
        advice.append(
            f"the distribution aioring {report['features']['namesake']} is installed too, and its import is the same name: "
            "whichever was installed last is imported, in part. `pip uninstall aioring`, then `pip install "
            "--force-reinstall aioring-io`"
        )
    nofile = report["limits"]["nofile"]
    if nofile and nofile[0] is not None and nofile[0] < _FEW_FDS:
        advice.append(
            f"RLIMIT_NOFILE is {nofile[0]}: a ring needs 4 fds of its own. `ulimit -n 1024`, or LimitNOFILE= in systemd"
        )
    return sentence, list(dict.fromkeys(advice))


def _about_io_uring(report: dict[str, Any], advice: list[str]) -> str:
    features, liburing = report["features"], report["liburing"]
    sentence = f"aioring uses io_uring here, through {liburing['used']}"
    if "DEFER_TASKRUN" in features["setup_flags"]:
        sentence += ", at its best."
    else:
        sentence += ", in an older form: completions interrupt the loop's thread (no DEFER_TASKRUN)."
        advice.append("Linux 6.1 or later has IORING_SETUP_DEFER_TASKRUN: fewer interruptions, more reads a second")
    sandboxed = {name for name, why in features["refused"].items() if why.partition(":")[0] in _SANDBOX}
    missing = sorted({*features["missing_opcodes"], *sandboxed})
    if missing:
        sentence += f" Without opcodes here, and so done by worker threads or refused: {', '.join(missing)}."
    if liburing["used"] == "system calls" and liburing["AIORING_LIBURING"] != "none":
        advice.append(
            "`apt install liburing2` (or liburing of your distribution) saves 0.15 us a submission; nothing else"
        )
    return sentence


def _about_less(report: dict[str, Any]) -> str:
    method = report["method"]
    if method == "linux_aio":
        how = "the kernel's older AIO for O_DIRECT, and worker threads for the rest"
    elif method == "worker":
        how = "worker threads"
    else:
        how = f"the method {method}"
    reason = report["fallback_reason"] or "it was not asked for"
    return f"aioring works here, without io_uring: by {how}. Why: {reason}. What is lost: {_LOST}."


def _about_refusal(report: dict[str, Any]) -> list[str]:
    reason, kernel, container = report["fallback_reason"] or "", report["kernel"], report["container"]["kind"]
    if kernel["system"] != "Linux":
        return ["io_uring is Linux only; worker threads are what there is elsewhere"]
    if report["liburing"]["error"]:
        return [f"AIORING_LIBURING names what cannot be loaded ({report['liburing']['error']}): unset it"]
    advice: list[str] = []
    if "EMFILE" in reason or "ENFILE" in reason:
        return advice  # said below, with the limit
    if "ENOMEM" in reason:
        advice.append("raise RLIMIT_MEMLOCK (`ulimit -l unlimited`, LimitMEMLOCK= in systemd), or use less depth")
    if kernel["io_uring_disabled"]:
        advice.append(
            f"kernel.io_uring_disabled is {kernel['io_uring_disabled']}: `sysctl -w kernel.io_uring_disabled=0` on the host"
        )
    if kernel["gvisor"]:
        advice.append(
            "gVisor has no io_uring; run this container with another runtime (`docker run --runtime=runc ...`)"
        )
    elif any(name in reason for name in ("EPERM", "EACCES", "ENOSYS", "EOPNOTSUPP", "ENOTSUP", "EINVAL")):
        if kernel["seccomp"] == "filter":
            advice += _about_seccomp(container)
        elif "ENOSYS" in reason:
            advice.append(
                f"this kernel ({kernel['release']}) has no io_uring: Linux 5.6 or later has, 6.1 has all of it"
            )
    if kernel["aio_max_nr"] is not None and kernel["aio_nr"] is not None and "aio-max-nr" in reason:
        advice.append(
            f"fs.aio-max-nr is used up ({kernel['aio_nr']} of {kernel['aio_max_nr']}): `sysctl -w fs.aio-max-nr=1048576`"
        )
    return advice


def _about_seccomp(container: str | None) -> list[str]:
    line = "docker run --security-opt seccomp={} IMAGE"
    if container == "podman":
        line = line.replace("docker", "podman")
    advice = [
        f"a seccomp filter refuses io_uring: `{line.format('PROFILE.json')}`, with a profile that is Docker's default with "
        f"{_SYSCALLS} allowed, too; `{line.format('unconfined')}` allows it, and everything else (docs/how-to/docker.md)"
    ]
    if container in ("kubernetes", "containerd"):
        advice.append(
            "in Kubernetes: securityContext.seccompProfile: {type: Localhost, localhostProfile: PROFILE.json}, but not "
            "Docker's file as it is: its conditions would be dropped, and more be allowed (docs/how-to/docker.md)"
        )
    return advice


def _about_path(path: dict[str, Any], advice: list[str]) -> str:
    if "error" in path:
        return f" {path['path']} cannot be looked at: {path['error']}."
    words = []
    where, kind = f"{path['path']} is on {path['file_system']}", path["file_system"]
    if path["kind"] not in ("file", "folder"):
        if path["kind"] != "block device":
            words.append(f"{path['path']} is a {path['kind']}: aioring waits until it is ready, on every method alike.")
    elif kind in _MEMORY:
        words.append(f"{where}: memory, read in place; there is no disk to wait for.")
    elif kind is not None and (kind in _FAR or kind.startswith("fuse.")):
        words.append(f"{where}: a server answers, and reads go to worker threads.")
        advice.append(f"{kind}: keep what is read often on a local disk")
    elif path["rwf_nowait"]["works"] is False:
        words.append(
            f"{where}, which refuses RWF_NOWAIT: reads of cached pages cannot be tried in place, and go to worker threads."
        )
        advice.append(
            f"put the data on a file system that takes RWF_NOWAIT (ext4, xfs, btrfs), not on {kind}: in a container, on a "
            "volume"
        )
    if path["direct"]["works"] is False and kind not in _MEMORY:
        words.append(f"No direct I/O there ({path['direct']['error']}).")
    if path["writable"] is not None and path["writable"]["works"] is False and path["kind"] == "folder":
        words.append(f"Nothing can be written there ({path['writable']['error']}).")
    if path["readable"] is not None and path["readable"]["works"] is False:
        words.append(f"It cannot be read ({path['readable']['error']}).")
    return "".join(f" {word}" for word in words)
