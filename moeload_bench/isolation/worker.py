"""The process that a forecaster lives in: reads frames from standard input, answers on standard output.

Run as a script by `isolation.process`. What the forecaster prints goes nowhere; its limits are set before any of
its code runs. Nothing here is trusted by the harness.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moeload_bench.arrays import Array
    from moeload_bench.isolation.frames import Header

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
    from moeload_bench.errors import IsolationError

    worker = Worker(read_fd, write_fd)
    while True:
        try:
            worker.serve_one()
        except (EOFError, BrokenPipeError):
            os._exit(0)
        except IsolationError:
            os._exit(3)


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


def _flush_denormals() -> None:
    """Let numbers below 1e-38 be zero once the forecaster has loaded torch: they slow an LSTM on Intel's processors."""
    flush = getattr(sys.modules.get("torch"), "set_flush_denormal", None)
    if flush is not None:
        flush(True)


class Worker:
    """Answers one request at a time."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd, self._write_fd = read_fd, write_fd
        self._forecaster: Any = None
        self._class: Any = None
        self._init: Header = {}
        self._runs: list[Any] = []

    def serve_one(self) -> None:
        """Read a request, do it, answer with the same number."""
        from moeload_bench.errors import ForecastError, MissingExtraError, TargetError
        from moeload_bench.isolation import frames

        header, arrays = frames.read_frame(self._read_into, None)
        reply: Header = {"seq": header["seq"]}
        out: dict[str, Array] = {}
        _flush_denormals()
        try:
            extra, out = getattr(self, f"_do_{header['op']}")(header, arrays)
            reply |= {"status": "ok", **extra}
        except ForecastError as error:
            reply |= {"status": "forecast_error", "text": str(error), "rule": error.rule}
        except (TargetError, MissingExtraError) as error:
            reply |= {"status": "target_error", "text": str(error)}
        self._write(frames.encode_frame(reply, out))

    def _do_init(self, header: Header, arrays: dict[str, Array]) -> tuple[Header, dict[str, Array]]:
        from moeload_bench.isolation import local, messages

        os.dup2(0, 2)  # from here on warnings go nowhere: nobody reads them, and a full pipe would hang it
        target = messages.target_from(header["target"])
        self._class = self._class or local.import_class(target, trail=header["trail"])
        self._init = header
        if header["info"] is None:
            return {"has_fit": local.has_fit(self._class)}, {}
        info = messages.info_from(header["info"])
        fitted = messages.fitted_from(arrays)
        self._forecaster = local.construct_forecaster(
            self._class, target, info, header["seed"], fitted, trail=header["trail"]
        )
        return {}, {}

    def _do_observe(self, header: Header, arrays: dict[str, Array]) -> tuple[Header, dict[str, Array]]:
        from moeload_bench.isolation import local, messages

        block = messages.block_from(arrays)
        local.guarded_call(lambda: self._forecaster.observe(block), "observe", trail=self._init["trail"])
        return {}, {}

    def _do_forecast(self, header: Header, arrays: dict[str, Array]) -> tuple[Header, dict[str, Array]]:
        from moeload_bench.forecaster import check_forecast
        from moeload_bench.isolation import local, messages

        request = messages.request_from(header, arrays)
        answer = local.guarded_call(lambda: self._forecaster.forecast(request), "forecast", trail=self._init["trail"])
        info = messages.info_from(self._init["info"])
        out = messages.forecast_arrays(check_forecast(answer, request, info))
        return {"counts": local.read_counts(self._forecaster)}, out

    def _do_run(self, header: Header, arrays: dict[str, Array]) -> tuple[Header, dict[str, Array]]:
        from moeload_bench.isolation import messages

        self._runs.append((messages.info_from(header["info"]), messages.block_from(arrays)))
        return {}, {}

    def _do_fit(self, header: Header, arrays: dict[str, Array]) -> tuple[Header, dict[str, Array]]:
        from moeload_bench.isolation import local, messages

        target = messages.target_from(self._init["target"])
        seed, trail = self._init["seed"], self._init["trail"]
        fitted = local.run_fit(self._class, target, self._runs, seed, header["most"], trail=trail)
        return {}, messages.fitted_array(fitted)

    def _read_into(self, view: memoryview) -> None:
        while len(view):
            count = os.readv(self._read_fd, [view])
            if not count:
                raise EOFError
            view = view[count:]

    def _write(self, buffers: list[memoryview]) -> None:
        for buffer in buffers:
            while len(buffer):
                buffer = buffer[os.write(self._write_fd, buffer) :]


if __name__ == "__main__":
    main()
