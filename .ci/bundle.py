"""Build hook: puts a liburing into the wheel when asked, which gives one wheel for all Pythons.

    AIORING_BUNDLE=/usr/lib/x86_64-linux-gnu/liburing.so.2 pip wheel --no-deps .

Without AIORING_BUNDLE the wheel is pure Python (py3-none-any) and finds liburing on the machine, or does without. The
library may depend on nothing but libc, as Debian's (22 KB) does; what it needs of libc gives the tag.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ELF64_LITTLE = b"\x7fELF\x02\x01"
MACHINES = {62: "x86_64", 183: "aarch64"}  # e_machine: EM_X86_64, EM_AARCH64
OLDEST = (2, 17)  # the oldest glibc that has a manylinux tag of this form


class Bundle(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        wanted = os.environ.get("AIORING_BUNDLE")
        if not wanted or version == "editable":
            return
        path = Path(wanted).resolve()
        data = path.read_bytes()
        if not data.startswith(ELF64_LITTLE) or b"io_uring_queue_init_params" not in data:
            raise SystemExit(f"AIORING_BUNDLE={wanted}: no 64-bit liburing")
        machine = MACHINES.get(int.from_bytes(data[18:20], "little"))
        if machine is None:
            raise SystemExit(f"AIORING_BUNDLE={wanted}: for neither x86-64 nor aarch64 ({platform.machine()} here)")
        # The names of the symbol versions that it asks of libc stand in its string table.
        needs = [tuple(map(int, found.split(b"."))) for found in re.findall(rb"GLIBC_(\d+\.\d+)\b", data)]
        major, minor = max([OLDEST, *needs])
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-manylinux_{major}_{minor}_{machine}"
        build_data["force_include"][str(path)] = "aioring/kernel/liburing.so.2"
        for licence in (Path("/usr/share/doc/liburing2/copyright"), path.with_name("copyright")):
            if licence.is_file():
                build_data["force_include"][str(licence)] = "aioring/kernel/liburing.so.2.copyright"
                break
