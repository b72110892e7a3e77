"""A pseudo-terminal of a given width, and what nobody should find in one."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

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
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    child = subprocess.Popen(
        list(words), stdin=subprocess.DEVNULL, stdout=follower, stderr=subprocess.PIPE, cwd=cwd, env=env
    )
    os.close(follower)
    assert child.stderr is not None
    said, errors, deadline = b"", b"", time.monotonic() + timeout
    streams = {leader, child.stderr.fileno()}
    while streams:
        ready, _, _ = select.select(list(streams), [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            child.send_signal(signal.SIGKILL)
            raise AssertionError(f"{' '.join(words)} took more than {timeout:g} s")
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
    status = child.wait()
    out, said_wrong = (_CODES.sub("", text.decode(errors="replace")) for text in (said, errors))
    return Shown(out.replace("\r\n", "\n"), said_wrong, status)


def drawn_in_terminal(*words: str, width: int = 80, cwd: Path, status: int = 0) -> list[tuple[float, str]]:
    """Return what the program wrote to a terminal, errors too, piece by piece, each with its CPU seconds until then."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    command = [sys.executable, "-m", "moeload_bench", *words]
    child = psutil.Popen(command, stdin=subprocess.DEVNULL, stdout=follower, stderr=follower, cwd=cwd, env=env)
    os.close(follower)
    drawn: list[tuple[float, str]] = []
    with suppress(OSError):  # the other end of a terminal is closed
        while block := os.read(leader, 65536):
            cpu = child.cpu_times()
            drawn.append((cpu.user + cpu.system, _CODES.sub("", block.decode(errors="replace"))))
    os.close(leader)
    assert child.wait() == status, "".join(text for _, text in drawn)
    return drawn


def moeload_in_terminal(*words: str, width: int = 80, cwd: Path) -> Shown:
    """The program."""
    return in_terminal([sys.executable, "-m", "moeload_bench", *words], width=width, cwd=cwd)
