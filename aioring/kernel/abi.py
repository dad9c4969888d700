"""Constants and structs of io_uring and of the few other system calls that Python's `os` does not have.

Every value carries the header or man page that it comes from. All are the same on x86-64 and aarch64 (both use
asm-generic's numbers for io_uring and 64-bit little-endian layouts).
"""

from __future__ import annotations

import struct
import sys

# --- system call numbers: asm/unistd_64.h, asm-generic/unistd.h -------------------------------------------------------
SYS_IO_URING_SETUP = 425  # io_uring_setup(2)
SYS_IO_URING_ENTER = 426  # io_uring_enter(2)
SYS_IO_URING_REGISTER = 427  # io_uring_register(2)
SYS_OPENAT2 = 437  # openat2(2)

# --- set-up flags: io_uring_setup(2), IORING_SETUP_* ------------------------------------------------------------------
SETUP_CQSIZE = 1 << 3  # since 5.5
SETUP_CLAMP = 1 << 4  # since 5.6
SETUP_R_DISABLED = 1 << 6  # since 5.10
SETUP_SUBMIT_ALL = 1 << 7  # since 5.18: one bad SQE does not stop the batch
SETUP_COOP_TASKRUN = 1 << 8  # since 5.19
SETUP_TASKRUN_FLAG = 1 << 9  # since 5.19
SETUP_SINGLE_ISSUER = 1 << 12  # since 6.0
SETUP_DEFER_TASKRUN = 1 << 13  # since 6.1

# --- feature bits: io_uring_setup(2), IORING_FEAT_* -------------------------------------------------------------------
FEAT_SINGLE_MMAP = 1 << 0  # 5.4
FEAT_NODROP = 1 << 1  # 5.5: a full CQ loses nothing
FEAT_SUBMIT_STABLE = 1 << 2  # 5.5: paths and iovecs may go once enter has returned
FEAT_LINKED_FILE = 1 << 12  # 5.17

# --- words in the mapped queues ---------------------------------------------------------------------------------------
SQ_CQ_OVERFLOW = 1 << 1  # IORING_SQ_CQ_OVERFLOW
SQ_TASKRUN = 1 << 2  # IORING_SQ_TASKRUN
ENTER_GETEVENTS = 1  # IORING_ENTER_GETEVENTS
ENTER_EXT_ARG = 8  # IORING_ENTER_EXT_ARG, since 5.11

# --- mmap offsets: io_uring_setup(2) ----------------------------------------------------------------------------------
OFF_SQ_RING = 0
OFF_CQ_RING = 0x8000000
OFF_SQES = 0x10000000

# --- register: io_uring_register(2), IORING_REGISTER_* ----------------------------------------------------------------
REGISTER_FILES = 2
REGISTER_EVENTFD = 4
REGISTER_PROBE = 8  # since 5.6
REGISTER_RESTRICTIONS = 11  # since 5.10
REGISTER_ENABLE_RINGS = 12
REGISTER_BUFFERS2 = 15  # since 5.13
REGISTER_BUFFERS_UPDATE = 16  # since 5.13
REGISTER_IOWQ_MAX_WORKERS = 19  # since 5.15
PROBE_OPS = 256
PROBE_BYTES = 16 + 8 * PROBE_OPS  # struct io_uring_probe, then struct io_uring_probe_op[]
OP_SUPPORTED = 1  # IO_URING_OP_SUPPORTED
RESTRICTION_SQE_OP = 1  # IORING_RESTRICTION_SQE_OP
pack_restriction = struct.Struct("<HBBIII").pack  # struct io_uring_restriction
RESTRICTION_REGISTER_OP = 0  # IORING_RESTRICTION_REGISTER_OP
RESTRICTION_SQE_FLAGS_ALLOWED = 2
RSRC_BYTES = 32  # struct io_uring_rsrc_register, struct io_uring_rsrc_update2
_RSRC_REGISTER_SPARSE = 1  # since 5.19
_pack_rsrc_register = struct.Struct("<IIQQQ").pack  # nr, flags, resv2, data, tags
_pack_rsrc_update2 = struct.Struct("<IIQQII").pack  # offset, resv, data, tags, nr, resv2


def pack_sparse_buffers(n: int) -> bytes:
    """For REGISTER_BUFFERS2: `n` empty slots."""
    return _pack_rsrc_register(n, _RSRC_REGISTER_SPARSE, 0, 0, 0)


def pack_update_buffer(slot: int, iovec: int) -> bytes:
    """For REGISTER_BUFFERS_UPDATE: what the struct iovec at this address says is to be in `slot`."""
    return _pack_rsrc_update2(slot, 0, iovec, 0, 1, 0)


# --- SQE flags: io_uring_enter(2), IOSQE_* ----------------------------------------------------------------------------
SQE_FIXED_FILE = 1 << 0  # IOSQE_FIXED_FILE: `fd` is a slot
SQE_LINK = 1 << 2  # IOSQE_IO_LINK
SQE_HARDLINK = 1 << 3  # IOSQE_IO_HARDLINK, since 5.5
SQE_ASYNC = 1 << 4  # IOSQE_ASYNC

# --- opcodes: enum io_uring_op, linux/io_uring.h ----------------------------------------------------------------------
OP_NOP = 0
OP_READV = 1
OP_WRITEV = 2
OP_FSYNC = 3
OP_READ_FIXED = 4
OP_SYNC_FILE_RANGE = 8
OP_ASYNC_CANCEL = 14
OP_FALLOCATE = 17
OP_OPENAT = 18
OP_CLOSE = 19
OP_STATX = 21
OP_READ = 22
OP_WRITE = 23
OP_FADVISE = 24
OP_OPENAT2 = 28
OP_RENAMEAT = 35  # since 5.11
OP_UNLINKAT = 36  # since 5.11
OP_MKDIRAT = 37  # since 5.15
OP_SYMLINKAT = 38  # since 5.15
OP_LINKAT = 39  # since 5.15
OP_FIXED_FD_INSTALL = 54  # since 6.8
OP_FTRUNCATE = 55  # since 6.9

RWF_NOWAIT = 8  # linux/fs.h, in the op_flags of a read
FSYNC_DATASYNC = 1  # IORING_FSYNC_DATASYNC

# struct io_uring_sqe, 64 bytes: opcode, flags, ioprio, fd, off, addr, len, op_flags, user_data, buf_index, personality,
# file_index, addr3, pad. Packing the last two as zeros costs nothing and clears what an earlier SQE left there.
SQE_BYTES = 64
CQE_BYTES = 16  # struct io_uring_cqe: u64 user_data, s32 res, u32 flags
pack_sqe = struct.Struct("<BBHiQQIIQHHIQQ").pack_into

# struct io_uring_params, 120 bytes: ten u32, then struct io_sqring_offsets at 40 and io_cqring_offsets at 80.
PARAMS_BYTES = 120
PARAMS_SQ_OFF = 40
PARAMS_CQ_OFF = 80
# head, tail, ring_mask, ring_entries, flags, dropped, array
unpack_sq_offsets = struct.Struct("<7I").unpack_from
# head, tail, ring_mask, ring_entries, overflow, cqes, flags
unpack_cq_offsets = struct.Struct("<7I").unpack_from

# --- one transfer -----------------------------------------------------------------------------------------------------
MAX_TRANSFER = 0x7FFFF000  # MAX_RW_COUNT, linux/fs.h: one read or write moves no more
MAX_OFFSET = 0xFFFFFFFFFFFFFFFF  # "-1" in the offset of an SQE: at the file's own position
INT_MAX, OFF_MAX = (1 << 31) - 1, (1 << 63) - 1  # an fd, an offset
MAX_LEN = 0xFFFFFFFF  # `len` of an SQE is a u32

# --- files ------------------------------------------------------------------------------------------------------------
AT_FDCWD = -100  # fcntl.h
AT_SYMLINK_NOFOLLOW = 0x100
AT_REMOVEDIR = 0x200
AT_SYMLINK_FOLLOW = 0x400
AT_NO_AUTOMOUNT = 0x800  # what glibc's stat() asks for
AT_EMPTY_PATH = 0x1000
AT_STATX_DONT_SYNC = 0x4000  # what is known, asking no server
STATX_BASIC_STATS = 0x7FF  # linux/stat.h
STATX_BYTES = 256
# struct statx up to stx_dev_minor: mask, blksize, attributes, nlink, uid, gid, mode, pad, ino, size, blocks,
# attributes_mask, then four timestamps (s64 seconds, u32 nanoseconds, pad), then rdev and dev as major, minor.
unpack_statx = struct.Struct("<IIQIIIHHQQQQqIiqIiqIiqIiIIII").unpack_from
OPEN_HOW_BYTES = 24
pack_open_how = struct.Struct("<QQQ").pack  # openat2(2), struct open_how: flags, mode, resolve

# openat2(2), RESOLVE_*
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20

# sync_file_range(2)
SYNC_FILE_RANGE_WAIT_BEFORE = 1
SYNC_FILE_RANGE_WRITE = 2
SYNC_FILE_RANGE_WAIT_AFTER = 4

LINUX = sys.platform == "linux"
