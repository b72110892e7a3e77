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
from collections.abc import Mapping
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

# Those with the same number on both architectures, then each one's own.
_SHARED = {
    "close_range": 436, "openat2": 437, "faccessat2": 439, "set_mempolicy_home_node": 450, "epoll_pwait2": 441,
    "futex_waitv": 449, "futex_wake": 454, "futex_wait": 455, "futex_requeue": 456,
}  # fmt: skip
_X86_64 = {
    "read": 0, "write": 1, "readv": 19, "writev": 20, "pread64": 17, "pwrite64": 18, "close": 3, "openat": 257,
    "lseek": 8, "dup": 32, "dup3": 292, "pipe2": 293, "fstat": 5, "newfstatat": 262, "statx": 332, "faccessat": 269,
    "readlinkat": 267, "getdents64": 217, "getcwd": 79, "chdir": 80, "fchdir": 81, "mkdirat": 258, "renameat": 264,
    "renameat2": 316, "linkat": 265, "symlinkat": 266, "unlinkat": 263, "truncate": 76, "ftruncate": 77,
    "fallocate": 285, "fchmod": 91, "fchmodat": 268, "fchown": 93, "fchownat": 260, "utimensat": 280, "umask": 95,
    "statfs": 137, "fstatfs": 138, "fsync": 74, "fdatasync": 75, "sendfile": 40, "copy_file_range": 326,
    "splice": 275, "tee": 276, "vmsplice": 278, "ioctl": 16, "mmap": 9, "munmap": 11, "mprotect": 10, "mremap": 25,
    "msync": 26, "brk": 12, "mlock": 149, "munlock": 150, "mlock2": 325, "mlockall": 151,
    "munlockall": 152, "membarrier": 324, "mbind": 237, "get_mempolicy": 239, "set_mempolicy": 238,
    "pkey_alloc": 330, "pkey_free": 331, "pkey_mprotect": 329, "ppoll": 271, "pselect6": 270, "epoll_create1": 291,
    "epoll_ctl": 233, "epoll_pwait": 281, "eventfd2": 290, "signalfd4": 289, "timerfd_create": 283,
    "timerfd_settime": 286, "timerfd_gettime": 287, "futex": 202, "set_robust_list": 273, "get_robust_list": 274,
    "rseq": 334, "nanosleep": 35, "clock_nanosleep": 230, "execve": 59, "execveat": 322, "exit": 60,
    "exit_group": 231, "wait4": 61, "waitid": 247, "set_tid_address": 218, "getpid": 39, "getppid": 110,
    "gettid": 186, "getpgid": 121, "setpgid": 109, "getsid": 124, "setsid": 112, "kill": 62, "tkill": 200,
    "tgkill": 234, "rt_sigprocmask": 14, "rt_sigreturn": 15, "rt_sigpending": 127, "rt_sigsuspend": 130,
    "rt_sigtimedwait": 128, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "sigaltstack": 131,
    "restart_syscall": 219, "prctl": 157, "sched_yield": 24, "sched_getaffinity": 204, "sched_setaffinity": 203,
    "sched_getparam": 143, "sched_setparam": 142, "sched_getscheduler": 145, "sched_setscheduler": 144,
    "sched_get_priority_max": 146, "sched_get_priority_min": 147, "sched_rr_get_interval": 148,
    "sched_getattr": 315, "getpriority": 140, "setpriority": 141, "ioprio_get": 252, "getcpu": 309, "getuid": 102,
    "geteuid": 107, "getgid": 104, "getegid": 108, "getresuid": 118, "getresgid": 120, "getgroups": 115,
    "setuid": 105, "setgid": 106, "setreuid": 113, "setregid": 114, "setresuid": 117, "setresgid": 119,
    "setfsuid": 122, "setfsgid": 123, "setgroups": 116, "capget": 125, "capset": 126, "getrlimit": 97,
    "setrlimit": 160, "prlimit64": 302, "getrusage": 98, "uname": 63, "getrandom": 318,
    "getitimer": 36, "setitimer": 38, "timer_create": 222, "timer_settime": 223, "timer_gettime": 224,
    "timer_getoverrun": 225, "timer_delete": 226, "clock_gettime": 228, "clock_getres": 229, "gettimeofday": 96,
    "times": 100, "bind": 49, "listen": 50, "accept": 43, "accept4": 288, "connect": 42, "getsockname": 51,
    "getpeername": 52, "sendto": 44, "recvfrom": 45, "sendmsg": 46,
    "recvmsg": 47, "sendmmsg": 307, "recvmmsg": 299, "shutdown": 48, "open": 2, "creat": 85, "dup2": 33, "pipe": 22,
    "stat": 4, "lstat": 6, "access": 21, "readlink": 89, "getdents": 78, "mkdir": 83, "rmdir": 84, "rename": 82,
    "link": 86, "symlink": 88, "unlink": 87, "chmod": 90, "chown": 92, "lchown": 94, "utime": 132, "utimes": 235,
    "futimesat": 261, "poll": 7, "select": 23, "epoll_create": 213, "epoll_wait": 232, "eventfd": 284,
    "signalfd": 282, "fork": 57, "vfork": 58, "getpgrp": 111, "pause": 34, "alarm": 37, "time": 201,
    "arch_prctl": 158,
}  # fmt: skip
_AARCH64 = {
    "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "pwrite64": 68, "close": 57, "openat": 56,
    "lseek": 62, "dup": 23, "dup3": 24, "pipe2": 59, "fstat": 80, "newfstatat": 79, "statx": 291, "faccessat": 48,
    "readlinkat": 78, "getdents64": 61, "getcwd": 17, "chdir": 49, "fchdir": 50, "mkdirat": 34, "renameat": 38,
    "renameat2": 276, "linkat": 37, "symlinkat": 36, "unlinkat": 35, "truncate": 45, "ftruncate": 46,
    "fallocate": 47, "fchmod": 52, "fchmodat": 53, "fchown": 55, "fchownat": 54, "utimensat": 88, "umask": 166,
    "statfs": 43, "fstatfs": 44, "fsync": 82, "fdatasync": 83, "sendfile": 71, "copy_file_range": 285, "splice": 76,
    "tee": 77, "vmsplice": 75, "ioctl": 29, "mmap": 222, "munmap": 215, "mprotect": 226, "mremap": 216,
    "msync": 227, "brk": 214, "mlock": 228, "munlock": 229, "mlock2": 284, "mlockall": 230,
    "munlockall": 231, "membarrier": 283, "mbind": 235, "get_mempolicy": 236, "set_mempolicy": 237,
    "pkey_alloc": 289, "pkey_free": 290, "pkey_mprotect": 288, "ppoll": 73, "pselect6": 72, "epoll_create1": 20,
    "epoll_ctl": 21, "epoll_pwait": 22, "eventfd2": 19, "signalfd4": 74, "timerfd_create": 85,
    "timerfd_settime": 86, "timerfd_gettime": 87, "futex": 98, "set_robust_list": 99, "get_robust_list": 100,
    "rseq": 293, "nanosleep": 101, "clock_nanosleep": 115, "execve": 221, "execveat": 281, "exit": 93,
    "exit_group": 94, "wait4": 260, "waitid": 95, "set_tid_address": 96, "getpid": 172, "getppid": 173,
    "gettid": 178, "getpgid": 155, "setpgid": 154, "getsid": 156, "setsid": 157, "kill": 129, "tkill": 130,
    "tgkill": 131, "rt_sigprocmask": 135, "rt_sigreturn": 139, "rt_sigpending": 136, "rt_sigsuspend": 133,
    "rt_sigtimedwait": 137, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "sigaltstack": 132,
    "restart_syscall": 128, "prctl": 167, "sched_yield": 124, "sched_getaffinity": 123, "sched_setaffinity": 122,
    "sched_getparam": 121, "sched_setparam": 118, "sched_getscheduler": 120, "sched_setscheduler": 119,
    "sched_get_priority_max": 125, "sched_get_priority_min": 126, "sched_rr_get_interval": 127,
    "sched_getattr": 275, "getpriority": 141, "setpriority": 140, "ioprio_get": 31, "getcpu": 168, "getuid": 174,
    "geteuid": 175, "getgid": 176, "getegid": 177, "getresuid": 148, "getresgid": 150, "getgroups": 158,
    "setuid": 146, "setgid": 144, "setreuid": 145, "setregid": 143, "setresuid": 147, "setresgid": 149,
    "setfsuid": 151, "setfsgid": 152, "setgroups": 159, "capget": 90, "capset": 91, "getrlimit": 163,
    "setrlimit": 164, "prlimit64": 261, "getrusage": 165, "uname": 160, "getrandom": 278,
    "getitimer": 102, "setitimer": 103, "timer_create": 107, "timer_settime": 110, "timer_gettime": 108,
    "timer_getoverrun": 109, "timer_delete": 111, "clock_gettime": 113, "clock_getres": 114, "gettimeofday": 169,
    "times": 153, "bind": 200, "listen": 201, "accept": 202, "accept4": 242, "connect": 203, "getsockname": 204,
    "getpeername": 205, "sendto": 206, "recvfrom": 207, "sendmsg": 211,
    "recvmsg": 212, "sendmmsg": 269, "recvmmsg": 243, "shutdown": 210,
}  # fmt: skip
# Answered otherwise than by "no such call": what a library takes as an error of the file; hints, taken as heard (0).
_XATTR = (
    "setxattr", "lsetxattr", "fsetxattr", "getxattr", "lgetxattr", "fgetxattr", "listxattr", "llistxattr", "flistxattr",
    "removexattr", "lremovexattr", "fremovexattr",
)  # fmt: skip
_ANSWERS = {
    "mknod": errno.EPERM, "mknodat": errno.EPERM, "flock": errno.ENOLCK, "fadvise64": 0, "readahead": 0, "sync": 0,
    "syncfs": 0, "sync_file_range": 0, **dict.fromkeys(_XATTR, errno.EOPNOTSUPP),
}  # fmt: skip
_ANSWERED_X86_64 = {
    "mknod": 133, "mknodat": 259, "flock": 73, "fadvise64": 221, "readahead": 187, "sync": 162, "syncfs": 306,
    "sync_file_range": 277, **dict(zip(_XATTR, range(188, 200), strict=True)),
}  # fmt: skip
_ANSWERED_AARCH64 = {
    "mknodat": 33, "flock": 32, "fadvise64": 223, "readahead": 213, "sync": 81, "syncfs": 267, "sync_file_range": 84,
    **dict(zip(_XATTR, range(5, 17), strict=True)),
}  # fmt: skip


class Machine(NamedTuple):
    """One processor architecture: its audit number and the numbers of its calls.

    ``clone`` and those after it are allowed by their arguments, see `filter_program`.
    """

    audit: int
    clone: int
    socket: int
    socketpair: int
    fcntl: int
    rt_sigaction: int
    madvise: int
    getsockopt: int
    setsockopt: int
    allowed: Mapping[str, int]
    answered: Mapping[str, int]


MACHINES: Mapping[str, Machine] = {
    "x86_64": Machine(0xC000003E, 56, 41, 53, 72, 13, 28, 55, 54, _SHARED | _X86_64, _ANSWERED_X86_64),
    "aarch64": Machine(0xC00000B7, 220, 198, 199, 25, 134, 233, 209, 208, _SHARED | _AARCH64, _ANSWERED_AARCH64),
}


def filter_program(machine: Machine, *, keeps_children: bool = False) -> bytes:
    """Return the filter as an array of ``struct sock_filter``.

    ``keeps_children``: what happens at a child's end (SIGCHLD) may not be changed. A child that nobody waits for is
    charged to nobody, which matters where no control group counts.
    """
    program = [
        _op(LD_ABS, ARCH_AT), _op(JEQ, machine.audit, 1, 0), _op(RET, KILL),
        _op(LD_ABS, NUMBER_AT), _op(JGE, X32_BIT, 0, 1), _op(RET, ERRNO | errno.ENOSYS),
    ]  # fmt: skip
    no_namespace = [_argument(0), _op(JSET, REFUSED_CLONE_FLAGS, 0, 1), _op(RET, ERRNO | errno.EPERM)]
    unix_only = [_argument(0), _op(JEQ, AF_UNIX, 1, 0), _op(RET, ERRNO | errno.EAFNOSUPPORT)]
    no_lock = [_argument(1), *_refused(LOCKS_AND_LEASES, errno.ENOLCK)]
    no_change = [
        _argument(0), _op(JEQ, SIGCHLD, 0, 4), _argument(1), _op(JEQ, 0, 0, 3), _argument(1, high=True),
        _op(JEQ, 0, 0, 1), _op(RET, ALLOW), _op(RET, ERRNO | errno.EPERM),
    ]  # fmt: skip
    program += _when(machine.clone, no_namespace)
    program += _when(machine.socket, unix_only) + _when(machine.socketpair, unix_only)
    program += _when(machine.madvise, [_argument(2), *_refused(PAGES_AWAY, errno.EINVAL)])
    program += _when(machine.getsockopt, [_argument(2), *_refused(NUMBERS_READ, errno.ENOPROTOOPT)])
    program += _when(machine.setsockopt, [_argument(2), *_refused(NUMBERS_SENT, errno.ENOPROTOOPT)])
    program += _when(machine.fcntl, no_lock) + _when(machine.rt_sigaction, no_change if keeps_children else [])
    for number in machine.allowed.values():
        program += [_op(JEQ, number, 0, 1), _op(RET, ALLOW)]
    for name, number in machine.answered.items():
        program += [_op(JEQ, number, 0, 1), _op(RET, ERRNO | _ANSWERS[name])]
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
