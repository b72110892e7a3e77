"""The system calls that a sandboxed forecaster may not make, as a seccomp filter (classic BPF) for bubblewrap.

Refused are: ways to hold memory that no limit counts (memfd, System V IPC), new namespaces and mounts, looking into or
steering other processes, the kernel's larger attack surfaces (bpf, io_uring, userfaultfd, perf, keyrings), and
sockets that a network namespace does not contain (vsock, netlink, alg; only unix and inet remain). See seccomp(2).
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Mapping
from typing import NamedTuple

LD_ABS, JEQ, JGE, JSET, RET = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER_AT, ARCH_AT, FIRST_ARGUMENT_AT = 0, 4, 16
NEW_NAMESPACE_FLAGS = 0x7E020080  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET,TIME}
SOCKET_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
X32_BIT = 0x40000000

# The calls added since 2018 have one number on every architecture.
_SHARED = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "clone3": 435, "pidfd_getfd": 438,
    "mount_setattr": 442, "memfd_secret": 447,
}  # fmt: skip
_X86_64 = {
    "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "msgget": 68, "ptrace": 101, "syslog": 103,
    "pivot_root": 155, "chroot": 161, "mount": 165, "umount2": 166, "mq_open": 240, "add_key": 248,
    "request_key": 249, "keyctl": 250, "unshare": 272, "perf_event_open": 298, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
    "memfd_create": 319, "bpf": 321, "userfaultfd": 323,
}  # fmt: skip
_AARCH64 = {
    "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "unshare": 97, "syslog": 116, "ptrace": 117,
    "mq_open": 180, "msgget": 186, "semget": 190, "shmget": 194, "shmctl": 195, "shmat": 196, "add_key": 217,
    "request_key": 218, "keyctl": 219, "perf_event_open": 241, "name_to_handle_at": 264, "open_by_handle_at": 265,
    "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "memfd_create": 279, "bpf": 280,
    "userfaultfd": 282,
}  # fmt: skip
# C libraries fall back to an older call when these do not exist.
_NOT_THERE = ("clone3", "io_uring_setup", "memfd_create", "memfd_secret")


class Machine(NamedTuple):
    """One processor architecture: its audit number and the numbers of its calls."""

    audit: int
    clone: int
    socket: int
    refused: Mapping[str, int]


MACHINES: Mapping[str, Machine] = {
    "x86_64": Machine(0xC000003E, 56, 41, _X86_64 | _SHARED),
    "aarch64": Machine(0xC00000B7, 220, 198, _AARCH64 | _SHARED),
}


def filter_program(machine: Machine) -> bytes:
    """The filter as an array of ``struct sock_filter``."""
    program = [
        _op(LD_ABS, ARCH_AT), _op(JEQ, machine.audit, 1, 0), _op(RET, KILL),
        _op(LD_ABS, NUMBER_AT), _op(JGE, X32_BIT, 0, 1), _op(RET, ERRNO | errno.ENOSYS),
    ]  # fmt: skip
    for name, number in machine.refused.items():
        code = errno.ENOSYS if name in _NOT_THERE else errno.EPERM
        program += [_op(JEQ, number, 0, 1), _op(RET, ERRNO | code)]
    program += [
        _op(JEQ, machine.clone, 0, 4), _op(LD_ABS, FIRST_ARGUMENT_AT), _op(JSET, NEW_NAMESPACE_FLAGS, 0, 1),
        _op(RET, ERRNO | errno.EPERM), _op(RET, ALLOW),
        _op(JEQ, machine.socket, 1, 0), _op(RET, ALLOW), _op(LD_ABS, FIRST_ARGUMENT_AT),
    ]  # fmt: skip
    for family in SOCKET_FAMILIES:
        program += [_op(JEQ, family, 0, 1), _op(RET, ALLOW)]
    return b"".join([*program, _op(RET, ERRNO | errno.EAFNOSUPPORT)])


def this_machine() -> Machine | None:
    """The architecture this runs on, None when there is no table for it."""
    return MACHINES.get(platform.machine())


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
