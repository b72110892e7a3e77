"""The system calls that a sandboxed forecaster may make, as a seccomp filter (classic BPF) for bubblewrap.

A list of what is allowed: what Python, numpy, scipy, statsmodels, pandas, scikit-learn, numba and torch need. Every
other call is answered as if the kernel did not have it, so that C libraries use an older one. Not on the list are,
with others: new namespaces and mounts, looking into or steering other processes, memory that belongs to no process
(memfd, System V IPC), the kernel's larger attack surfaces (bpf, io_uring, perf, keyrings), and ways to learn or change
which pages of a shared file are in memory, or to hold a lock on one, which another sandbox would see (mincore,
cachestat, preadv2 with RWF_NOWAIT, fadvise, readahead, MADV_PAGEOUT, inotify, flock, leases), and numbers that the
kernel counts up for all processes and sockets of the machine (pidfd, SO_COOKIE). Sockets are unix sockets only. See
seccomp(2).
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

LD_ABS, JEQ, JGE, JSET, RET = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER_AT, ARCH_AT, ARGUMENTS_AT, ARGUMENT_BYTES = 0, 4, 16, 8
REFUSED_CLONE_FLAGS = 0x7E021080  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET,TIME}, CLONE_PIDFD
AF_UNIX, SIGCHLD = 1, 17
LOCKS_AND_LEASES = (5, 6, 7, 36, 37, 38, 1024, 1025, 1026)  # F_*LK*, F_OFD_*LK*, F_SETLEASE, F_GETLEASE, F_NOTIFY
NUMBERS_READ, NUMBERS_SENT = (57, 71, 77), (76,)  # SO_COOKIE, SO_NETNS_COOKIE, SO_PEERPIDFD; SO_PASSPIDFD
PAGES_AWAY = (20, 21)  # MADV_COLD, MADV_PAGEOUT: whoever owns a file may take it out of memory with them
X32_BIT = 0x40000000

_SHARED = {
    "close_range": 436, "openat2": 437, "faccessat2": 439, "set_mempolicy_home_node": 450, "epoll_pwait2": 441,
    "futex_waitv": 449, "futex_wake": 454, "futex_wait": 455, "futex_requeue": 456,
}  # fmt: skip
"""Allowed calls that have the same number on both architectures."""
_NUMBERS = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "pwrite64": (18, 68),
    "close": (3, 57), "openat": (257, 56), "lseek": (8, 62), "dup": (32, 23), "dup3": (292, 24), "pipe2": (293, 59),
    "fstat": (5, 80), "newfstatat": (262, 79), "statx": (332, 291), "faccessat": (269, 48), "readlinkat": (267, 78),
    "getdents64": (217, 61), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "mkdirat": (258, 34),
    "renameat": (264, 38), "renameat2": (316, 276), "linkat": (265, 37), "symlinkat": (266, 36), "unlinkat": (263, 35),
    "truncate": (76, 45), "ftruncate": (77, 46), "fallocate": (285, 47), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchown": (93, 55), "fchownat": (260, 54), "utimensat": (280, 88), "umask": (95, 166), "statfs": (137, 43),
    "fstatfs": (138, 44), "fsync": (74, 82), "fdatasync": (75, 83), "sendfile": (40, 71), "copy_file_range": (326, 285),
    "splice": (275, 76), "tee": (276, 77), "vmsplice": (278, 75), "ioctl": (16, 29), "mmap": (9, 222),
    "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "msync": (26, 227), "brk": (12, 214),
    "mlock": (149, 228), "munlock": (150, 229), "mlock2": (325, 284), "mlockall": (151, 230), "munlockall": (152, 231),
    "membarrier": (324, 283), "mbind": (237, 235), "get_mempolicy": (239, 236), "set_mempolicy": (238, 237),
    "pkey_alloc": (330, 289), "pkey_free": (331, 290), "pkey_mprotect": (329, 288), "ppoll": (271, 73),
    "pselect6": (270, 72), "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_pwait": (281, 22),
    "eventfd2": (290, 19), "signalfd4": (289, 74), "timerfd_create": (283, 85), "timerfd_settime": (286, 86),
    "timerfd_gettime": (287, 87), "futex": (202, 98), "set_robust_list": (273, 99), "get_robust_list": (274, 100),
    "rseq": (334, 293), "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "execve": (59, 221),
    "execveat": (322, 281), "exit": (60, 93), "exit_group": (231, 94), "wait4": (61, 260), "waitid": (247, 95),
    "set_tid_address": (218, 96), "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178),
    "getpgid": (121, 155), "setpgid": (109, 154), "getsid": (124, 156), "setsid": (112, 157), "kill": (62, 129),
    "tkill": (200, 130), "tgkill": (234, 131), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136), "rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128), "prctl": (157, 167), "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "sched_setaffinity": (203, 122), "sched_getparam": (143, 121), "sched_setparam": (142, 118),
    "sched_getscheduler": (145, 120), "sched_setscheduler": (144, 119), "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126), "sched_rr_get_interval": (148, 127), "sched_getattr": (315, 275),
    "getpriority": (140, 141), "setpriority": (141, 140), "ioprio_get": (252, 31), "getcpu": (309, 168),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148),
    "getresgid": (120, 150), "getgroups": (115, 158), "setuid": (105, 146), "setgid": (106, 144),
    "setreuid": (113, 145), "setregid": (114, 143), "setresuid": (117, 147), "setresgid": (119, 149),
    "setfsuid": (122, 151), "setfsgid": (123, 152), "setgroups": (116, 159), "capget": (125, 90), "capset": (126, 91),
    "getrlimit": (97, 163), "setrlimit": (160, 164), "prlimit64": (302, 261), "getrusage": (98, 165),
    "uname": (63, 160), "getrandom": (318, 278), "getitimer": (36, 102), "setitimer": (38, 103),
    "timer_create": (222, 107), "timer_settime": (223, 110), "timer_gettime": (224, 108),
    "timer_getoverrun": (225, 109), "timer_delete": (226, 111), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "times": (100, 153), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "connect": (42, 203), "getsockname": (51, 204), "getpeername": (52, 205),
    "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211), "recvmsg": (47, 212), "sendmmsg": (307, 269),
    "recvmmsg": (299, 243), "shutdown": (48, 210),
}  # fmt: skip
"""Allowed calls: their numbers on x86_64 and on aarch64."""
_OLDER = {
    "open": 2, "creat": 85, "dup2": 33, "pipe": 22, "stat": 4, "lstat": 6, "access": 21, "readlink": 89, "getdents": 78,
    "mkdir": 83, "rmdir": 84, "rename": 82, "link": 86, "symlink": 88, "unlink": 87, "chmod": 90, "chown": 92,
    "lchown": 94, "utime": 132, "utimes": 235, "futimesat": 261, "poll": 7, "select": 23, "epoll_create": 213,
    "epoll_wait": 232, "eventfd": 284, "signalfd": 282, "fork": 57, "vfork": 58, "getpgrp": 111, "pause": 34,
    "alarm": 37, "time": 201, "arch_prctl": 158,
}  # fmt: skip
"""Allowed calls that only x86_64 has."""
_CHECKED = {
    "clone": (56, 220), "socket": (41, 198), "socketpair": (53, 199), "madvise": (28, 233), "getsockopt": (55, 209),
    "setsockopt": (54, 208), "fcntl": (72, 25), "rt_sigaction": (13, 134),
}  # fmt: skip
"""Calls that are allowed by their arguments, see `filter_program`."""
_XATTR = (
    "setxattr", "lsetxattr", "fsetxattr", "getxattr", "lgetxattr", "fgetxattr", "listxattr", "llistxattr", "flistxattr",
    "removexattr", "lremovexattr", "fremovexattr",
)  # fmt: skip
_ANSWERED: Mapping[str, tuple[int | None, int | None, int]] = {
    "mknod": (133, None, errno.EPERM), "mknodat": (259, 33, errno.EPERM), "flock": (73, 32, errno.ENOLCK),
    "fadvise64": (221, 223, 0), "readahead": (187, 213, 0), "sync": (162, 81, 0), "syncfs": (306, 267, 0),
    "sync_file_range": (277, 84, 0), **{name: (188 + i, 5 + i, errno.EOPNOTSUPP) for i, name in enumerate(_XATTR)},
}  # fmt: skip
"""Calls answered otherwise than by "no such call": errors that a library takes as the file's; hints, accepted (0)."""


class Machine(NamedTuple):
    """One processor architecture: its audit number, and the numbers of its calls.

    ``answered`` gives the error by number; ``checked``, the calls that are allowed by their arguments, the number by
    name.
    """

    audit: int
    checked: Mapping[str, int]
    allowed: Sequence[int]
    answered: Mapping[int, int]


def _machine(audit: int, column: int, older: Iterable[int] = ()) -> Machine:
    """Return the architecture whose numbers are in a column of the tables."""
    checked = {name: numbers[column] for name, numbers in _CHECKED.items()}
    allowed = [*_SHARED.values(), *(numbers[column] for numbers in _NUMBERS.values()), *older]
    answered = {number: code for *numbers, code in _ANSWERED.values() if (number := numbers[column]) is not None}
    return Machine(audit, checked, allowed, answered)


MACHINES: Mapping[str, Machine] = {
    "x86_64": _machine(0xC000003E, 0, _OLDER.values()),
    "aarch64": _machine(0xC00000B7, 1),
}


def filter_program(machine: Machine) -> bytes:
    """Return the filter as an array of ``struct sock_filter``.

    What happens at a child's end (SIGCHLD) may not be changed: a child that nobody waits for is charged to nobody.
    """
    program = [
        _op(LD_ABS, ARCH_AT), _op(JEQ, machine.audit, 1, 0), _op(RET, KILL),
        _op(LD_ABS, NUMBER_AT), _op(JGE, X32_BIT, 0, 1), _op(RET, ERRNO | errno.ENOSYS),
    ]  # fmt: skip
    no_namespace = [_argument(0), _op(JSET, REFUSED_CLONE_FLAGS, 0, 1), _op(RET, ERRNO | errno.EPERM)]
    unix_only = [_argument(0), _op(JEQ, AF_UNIX, 1, 0), _op(RET, ERRNO | errno.EAFNOSUPPORT)]
    no_change = [
        _argument(0), _op(JEQ, SIGCHLD, 0, 4), _argument(1), _op(JEQ, 0, 0, 3), _argument(1, high=True),
        _op(JEQ, 0, 0, 1), _op(RET, ALLOW), _op(RET, ERRNO | errno.EPERM),
    ]  # fmt: skip
    checks = {
        "clone": no_namespace,
        "socket": unix_only,
        "socketpair": unix_only,
        "madvise": [_argument(2), *_refused(PAGES_AWAY, errno.EINVAL)],
        "getsockopt": [_argument(2), *_refused(NUMBERS_READ, errno.ENOPROTOOPT)],
        "setsockopt": [_argument(2), *_refused(NUMBERS_SENT, errno.ENOPROTOOPT)],
        "fcntl": [_argument(1), *_refused(LOCKS_AND_LEASES, errno.ENOLCK)],
        "rt_sigaction": no_change,
    }
    for name, tests in checks.items():
        program += _when(machine.checked[name], tests)
    for number in machine.allowed:
        program += [_op(JEQ, number, 0, 1), _op(RET, ALLOW)]
    for number, code in machine.answered.items():
        program += [_op(JEQ, number, 0, 1), _op(RET, ERRNO | code)]
    return b"".join([*program, _op(RET, ERRNO | errno.ENOSYS)])


def this_machine() -> Machine | None:
    """Return the architecture this runs on, None when there is no table for it."""
    return MACHINES.get(platform.machine())


def _when(number: int, tests: list[bytes]) -> list[bytes]:
    """Return the tests for one call, which return a refusal; else it is allowed."""
    body = [*tests, _op(RET, ALLOW)]
    return [_op(JEQ, number, 0, len(body)), *body]


def _refused(values: tuple[int, ...], code: int) -> list[bytes]:
    return [part for value in values for part in (_op(JEQ, value, 0, 1), _op(RET, ERRNO | code))]


def _argument(number: int, high: bool = False) -> bytes:
    """Load an argument's lower half; both architectures are little-endian."""
    return _op(LD_ABS, ARGUMENTS_AT + ARGUMENT_BYTES * number + 4 * high)


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
