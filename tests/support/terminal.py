"""A pseudo-terminal of a given width, and what nobody should find in one."""

from __future__ import annotations

import fcntl
import importlib
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import psutil

from moeload_bench.__main__ import main

PRELOADED = (
    "scipy.optimize",
    "scipy.special",
    "rich.progress",
    "moeload_bench.cli.run",
    "moeload_bench.ops.commands.plan",
)
"""What most commands import, the slowest first."""
_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True)
class Shown:
    """What a command wrote to a terminal, without its control codes, to standard error, and its exit status."""

    out: str
    errors: str
    status: int

    @property
    def text(self) -> str:
        return self.out + self.errors

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def faults(self, width: int) -> list[str]:
        """Lines over the width, cells cut by an ellipsis, tracebacks; a word that cannot be broken may be long."""
        wrong = [f"over {width}: {line}" for line in self.lines if len(line) > width and _breakable(line, width)]
        wrong += [f"cut: {line}" for line in self.lines if ELLIPSIS in line]
        return wrong + ["traceback"] * ("Traceback (most recent call last)" in self.text)


def _breakable(line: str, width: int) -> bool:
    return len(line.strip().removesuffix("\\").split()) > 1 and max(map(len, line.split())) <= width - 8


def in_terminal(words: Sequence[str], *, width: int, cwd: Path, timeout: float = 900.0) -> Shown:
    """Run a command with its standard output a terminal of this width; standard error is a pipe."""

    def start(out: int, errors: int) -> psutil.Process:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": errors}
        return psutil.Popen(list(words), **pipes, cwd=cwd, env=environment())

    return _shown(start, " ".join(words), width, timeout)


def environment() -> dict[str, str]:
    """The variables of a program in a terminal, which itself knows its size."""
    return {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}


def _shown(start: Callable[[int, int], psutil.Process], words: str, width: int, timeout: float) -> Shown:
    """Read what the process writes that ``start`` begins with these two descriptors, and wait for it."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    errors_read, errors_write = os.pipe()
    child = start(follower, errors_write)
    os.close(follower)
    os.close(errors_write)
    said, errors, deadline = b"", b"", time.monotonic() + timeout
    streams = {leader, errors_read}
    while streams:
        ready, _, _ = select.select(list(streams), [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            child.kill()
            raise AssertionError(f"{words} took more than {timeout:g} s")
        for stream in ready:
            try:
                block = os.read(stream, 65536)
            except OSError:  # the other end of a terminal is closed
                block = b""
            if not block:
                streams.discard(stream)
            elif stream == leader:
                said += block
            else:
                errors += block
    os.close(leader)
    os.close(errors_read)
    status = int(child.wait() or 0)
    out, said_wrong = (_CODES.sub("", text.decode(errors="replace")) for text in (said, errors))
    return Shown(out.replace("\r\n", "\n"), said_wrong, status)


def drawn_in_terminal(*words: str, width: int = 80, cwd: Path, status: int = 0) -> list[tuple[float, str]]:
    """Return what the program wrote to a terminal, errors too, piece by piece, each with its CPU seconds until then."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    command = [sys.executable, "-m", "moeload_bench", *words]
    child = psutil.Popen(
        command, stdin=subprocess.DEVNULL, stdout=follower, stderr=follower, cwd=cwd, env=environment()
    )
    os.close(follower)
    screens: list[tuple[float, str]] = []
    with suppress(OSError):  # the other end of a terminal is closed
        while block := os.read(leader, 65536):
            cpu = child.cpu_times()
            screens.append((cpu.user + cpu.system, _CODES.sub("", block.decode(errors="replace"))))
    os.close(leader)
    assert child.wait() == status, "".join(text for _, text in screens)
    return screens


def moeload_in_terminal(*words: str, width: int = 80, cwd: Path) -> Shown:
    """The program, in a fork of this process: what it imports is there already."""
    for module in PRELOADED:
        importlib.import_module(module)

    def start(out: int, errors: int) -> psutil.Process:
        child = os.fork()
        if child == 0:
            _be_the_program(words, out, errors, cwd)
        return psutil.Process(child)

    return _shown(start, " ".join(words), width, timeout=900.0)


def _be_the_program(words: Sequence[str], out: int, errors: int, cwd: Path) -> NoReturn:
    status = 1
    try:
        for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), out, errors)):
            os.dup2(descriptor, number)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environment())
        sys.argv = ["moeload-bench", *words]
        main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
