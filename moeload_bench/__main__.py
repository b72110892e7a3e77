"""`python -m moeload_bench` and the console script `moeload-bench`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn


def main() -> None:
    """Run `moeload-bench`."""
    from moeload_bench.cli.app import app

    run_program("moeload-bench", app)


def run_program(name: str, app: Callable[[], Any]) -> None:
    """Run a command line; an error raised on purpose or by the system is one line on standard error and status 2."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    _speak_any_name()
    _warn_in_a_line()
    ended = _end_like_an_interrupt()
    from moeload_bench.errors import MoeloadError, printable

    try:
        app()
        sys.stdout.flush()
    except MoeloadError as error:
        text = str(error)
    except BrokenPipeError:  # whoever read the output has seen enough
        _leave_output(141)
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error) or type(error).__name__
    except (SystemExit, KeyboardInterrupt):
        if ended:
            sys.exit(128 + ended[0])
        raise
    else:
        return
    with suppress(OSError, AttributeError):  # standard error may be closed: the status says it
        print(_broken_between_words(f"{name}: {printable(text)}"), file=sys.stderr)
    sys.exit(2)


def _warn_in_a_line() -> None:
    """Print that a name has changed as one line of text."""
    import warnings

    shown = warnings.formatwarning

    def line(message: Warning | str, category: type[Warning], *where: Any, **source: Any) -> str:
        return f"{message}\n" if category is FutureWarning else shown(message, category, *where, **source)

    warnings.formatwarning = line


def _broken_between_words(text: str) -> str:
    """Return a text in lines of the terminal's width; as it is where standard error is no terminal."""
    import textwrap

    if not sys.stderr.isatty():
        return text
    width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _end_like_an_interrupt() -> list[int]:
    """Let SIGTERM and SIGHUP end the program as Ctrl-C does: with what it started, and with what it began put away.

    Returns the list that then holds the signal's number. A signal that is ignored (`nohup`) stays so.
    """
    ended: list[int] = []

    def end(number: int, frame: Any) -> NoReturn:
        for signal_number in numbers:
            signal.signal(signal_number, signal.SIG_IGN)
        ended.append(number)
        raise KeyboardInterrupt

    named = (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP"))
    numbers = [number for number in named if number is not None and signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, end)
    return ended


def _speak_any_name() -> None:
    """Write names with escapes: a file's name need not be UTF-8, nor in the terminal's encoding."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout is None or sys.stderr is None:  # closed by whoever started this
        null = open(os.devnull, "w")  # noqa: SIM115
        sys.stdout, sys.stderr = sys.stdout or null, sys.stderr or null


def _leave_output(status: int) -> NoReturn:
    """End where standard output is closed: the interpreter would try to flush it once more, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


if __name__ == "__main__":
    main()
