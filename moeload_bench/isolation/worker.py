"""The process that a forecaster lives in: set up before any of its code, or of this package, is imported.

Run as a script by `isolation.process`. What the forecaster prints goes nowhere; its limits are set before any of
its code runs. Nothing here is trusted by the harness. Then `isolation.serving` answers requests.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
SIGKILL = 9


def main() -> None:
    """Set up the process, then serve until the pipe closes."""
    settings = json.loads(sys.argv[1])
    _limit(settings)
    if settings["first"]:
        _leave_first_process()
    read_fd, write_fd = _private_pipes()
    _die_with(settings["parent"])
    # Only now: a submission's own packages come first and may shadow what is imported from here on.
    if settings["path"] is not None:
        sys.path[:] = settings["path"]
    sys.path[:0] = settings["first_path"]
    sys.path.extend(settings["extra_path"])
    from moeload_bench.isolation.serving import Worker

    os._exit(Worker(read_fd, write_fd).serve())


def _private_pipes() -> tuple[int, int]:
    """Move the pipes away from where a print would reach them, and close whatever else was inherited."""
    os.dup2(0, 10)
    os.dup2(1, 11)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.closerange(3, 10)
    os.closerange(12, 4096)
    return 10, 11


def _limit(settings: dict[str, Any]) -> None:
    """Set hard limits that this process and its children cannot raise; memory and CPU hold per process here."""
    import resource

    for name, value in settings["limits"].items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # One second between the signal that says which limit it was and the one that cannot be ignored.
        hard = value + 1 if name == "RLIMIT_CPU" and hard == resource.RLIM_INFINITY else value
        resource.setrlimit(kind, (value, hard))
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass  # not Linux


def _leave_first_process() -> None:
    """Go on in a child of the sandbox's first process, which waits for processes that have lost their parent.

    It belongs to the same user as the forecaster and may neither be looked into nor written to by it (PR_SET_DUMPABLE).
    It holds no pipe, and ends as the child does: 128 + the number of a signal.
    """
    import signal

    _prctl(PR_SET_DUMPABLE, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _prctl(PR_SET_DUMPABLE, 1)  # else its own files under /proc were the superuser's
        return
    os.closerange(0, 4096)
    ended, status = 0, 0
    while ended != child:
        ended, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _prctl(option: int, value: int) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(option, value)


def _die_with(parent: int | None) -> None:
    """Let the kernel kill this process when its parent dies, where it can (bubblewrap does so itself).

    Descendants that lose their parent become its children, so that the watch finds them.
    """
    if parent is None or sys.platform != "linux":
        return
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    _prctl(PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


if __name__ == "__main__":
    main()
