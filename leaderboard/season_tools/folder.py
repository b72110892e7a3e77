"""The folder of a season: its records, its log, the frozen entries, and the secret that no commit may hold.

Everything in `private/` (the secret, secret recipes, traces and checkpoints before the reveal) is kept out of git by a
`.gitignore` of its own beside the project's. An open season has only checkpoints there: its traces can be committed as
they are finished, so that it can be recorded in several sittings and on several machines.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from leaderboard.season_tools import records
from moeload_bench.errors import MoeloadError, SeasonError, printable
from moeload_bench.files import read_at_most, write_whole
from moeload_bench.isolation.sources import bytes_sha256
from moeload_bench.schema import first_problem

R = TypeVar("R", bound=BaseModel)
P = TypeVar("P", bound=records.Published)
MAX_RECORD_BYTES = 16 << 20
NO_LINE = "0" * 64
IGNORED = "# never committed: the secret of the season, and what is not revealed yet\n*\n"


@dataclass(frozen=True)
class SeasonFolder:
    """Where the parts of a season lie."""

    path: Path

    @property
    def private(self) -> Path:
        return self.path / "private"

    def make_private(self) -> Path:
        """Return the folder `private`, which no commit sees."""
        self.private.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.private / ".gitignore").write_text(IGNORED)
        return self.private

    @property
    def traces(self) -> Path:
        """Return the revealed traces, RECIPE/SPLIT/seedN.parquet; before that they are below `private`."""
        return self.path / "traces"

    @property
    def recipes(self) -> Path:
        """Return the recipes that were drawn, NAME.toml."""
        return self.path / "recipes"

    @property
    def public_value(self) -> Path:
        """Return the files that the public value of a season of drawn recipes is taken from."""
        return self.path / "public_value"

    @property
    def recordings(self) -> Path:
        """Return where traces lie before the reveal: those of an open season where they will be then."""
        return self.private / "traces" if self.plan().secret is None else self.traces

    @property
    def entries(self) -> Path:
        return self.path / "entries"

    @property
    def results(self) -> Path:
        return self.path / "results"

    @property
    def forks(self) -> Path:
        return self.path / "forks"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    def plan(self) -> records.Plan:
        return self._need(records.Plan, "plan.json", "new")

    def commitment(self) -> records.Commitment:
        return self._need(records.Commitment, "commitment.json", "close")

    def draw(self) -> records.Draw | None:
        return self._read(records.Draw, "draw.json")

    def witness(self) -> records.Witness | None:
        return self._read(records.Witness, "witness.json")

    def abandoned(self) -> records.Abandoned | None:
        return self._read(records.Abandoned, "abandoned.json")

    def others(self) -> list[records.PastSeason]:
        """Return the seasons beside this one, and those that `past.json` there names."""
        here = self.path.resolve()
        past = here.parent / "past.json"
        found = list(read_record(records.PastSeasons, past).seasons) if past.is_file() else []
        for folder in (SeasonFolder(path.parent) for path in sorted(here.parent.glob("*/plan.json"))):
            if folder.path != here:
                plan, draw = folder.plan(), folder.draw()
                found.append(
                    records.PastSeason(
                        name=folder.path.name,
                        opened=plan.opened,
                        secret_sha256=plan.secret_sha256,
                        value=None if draw is None else draw.value,
                    )
                )
        return found

    def number(self) -> int:
        """Return how many seasons were opened up to this one."""
        opened = self.plan().opened
        return 1 + sum(other.opened < opened for other in self.others())

    def scores(self) -> records.Scores | None:
        return self._read(records.Scores, "scores.json")

    def reveal(self) -> records.Reveal | None:
        return self._read(records.Reveal, "reveal.json")

    def runs(self) -> list[records.RunHashes]:
        """Return the published hashes of all runs that were recorded so far."""
        return [read_record(records.RunHashes, path) for path in self._run_files()]

    def _run_files(self) -> list[Path]:
        return sorted((self.path / "runs").glob("*.json"))

    def misnamed_runs(self) -> Iterator[str]:
        """Yield a line for each file of hashes that is not named as its run: it could be a second trace of one."""
        for path, run in zip(self._run_files(), self.runs(), strict=True):
            expected = run_record(run.recipe, run.run), f"{run.recipe}/{self.plan().split}/seed{run.run}"
            if (f"runs/{path.name}", run.trace) != expected:
                yield f"runs/{path.name}: got the hashes of {run.trace[:80]!r}, expected {expected[1]} in {expected[0]}"

    def secret(self) -> str:
        """Return the secret; raise `SeasonError` on a machine that does not have it."""
        public = self.plan().secret
        if public is not None:
            return public
        path = self.private / "secret.txt"
        if not path.is_file():
            raise SeasonError(f"{path}: no secret; only the machine on which `season new` ran has it")
        return path.read_text().strip()

    def lines(self) -> list[records.LogLine]:
        """Return the log."""
        return self._lines(read_bytes(self.log)) if self.log.is_file() else []

    def log_head(self) -> str:
        """Return the hash of the log's last line, which is bound to all before it."""
        lines = self.lines()
        return lines[-1].sha256() if lines else NO_LINE

    def append(self, action: records.Action, outcome: records.Outcome, detail: str) -> None:
        """Append one more line to the log, whole or not at all; two processes that record at once wait for each other.

        A clock that was set back does not count: no line is earlier than the one before.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            content = file.read()
            size = content.rfind(b"\n") + 1  # what follows was torn off by a full disk or a kill
            before = self._lines(content[:size])
            line = records.LogLine(
                number=len(before),
                at=max(utc_now(), before[-1].at) if before else utc_now(),
                action=action,
                outcome=outcome,
                detail=printable(detail),
                before=before[-1].sha256() if before else NO_LINE,
            )
            file.truncate(size)
            try:
                left = f"{line.model_dump_json()}\n".encode()
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise

    def _lines(self, content: bytes) -> list[records.LogLine]:
        """Return the whole lines of a log's content; one without its newline was torn off, and is none."""
        try:
            texts = content.decode("utf-8").split("\n")[:-1]
        except UnicodeDecodeError as error:
            raise SeasonError(f"{self.log}: not text: byte {error.start} is not UTF-8") from None
        return [parse_record(records.LogLine, text, f"{self.log}: line {i}") for i, text in enumerate(texts, start=1)]

    def write(self, record: records.Published, name: str) -> None:
        """Write a record once; raise `SeasonError` where another one stands: what is published stays."""
        path = self.path / name
        if path.is_file():
            if read_text(path) == record.to_json():
                return
            raise SeasonError(f"{path} is there and says something else: what is published is not written again")
        write_whole(path, record.to_json().encode())

    def _read(self, kind: type[P], name: str) -> P | None:
        path = self.path / name
        return read_record(kind, path) if path.is_file() else None

    def _need(self, kind: type[P], name: str, command: str) -> P:
        found = self._read(kind, name)
        if found is None:
            raise SeasonError(f"{self.path / name}: not there; `python -m leaderboard season {command}` writes it")
        return found


@contextmanager
def logged_attempt(folder: SeasonFolder, action: records.Action, detail: str = "") -> Iterator[None]:
    """Log that something is tried, and how it ended; a refusal is logged with its words.

    Raises `SeasonError` for a season that was abandoned.
    """
    abandoned = folder.abandoned()
    if abandoned is not None:
        raise SeasonError(f"season {abandoned.season} was abandoned at {abandoned.at}: {abandoned.reason}")
    folder.append(action, "begun", detail)
    try:
        yield
    except MoeloadError as error:
        folder.append(action, "refused", str(error)[:500])
        raise
    folder.append(action, "done", detail)


def run_record(recipe: str, run: int) -> str:
    """Return where a run's hashes lie in the folder."""
    return f"runs/{recipe}.{run}.json"


def utc_now() -> str:
    """Return the time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def stated_time(text: str) -> datetime:
    """Return a record's time, in UTC; raise `SeasonError` for what is none."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise SeasonError(f"got {text[:80]!r}, expected a time such as 2026-12-01T12:00:00+00:00") from None


def later_than(text: str, what: str) -> None:
    """Raise `SeasonError` where this machine's clock is before a time that a record holds."""
    if utc_now() < text:
        raise SeasonError(f"the clock of this machine says {utc_now()}, {what} at {text}: set it first")


def read_record(kind: type[R], path: Path) -> R:
    """Return a record of a file; raise `SeasonError` naming file and field."""
    return parse_record(kind, read_text(path), str(path))


def read_text(path: Path) -> str:
    """Return a file's text; raise `SeasonError` for what is none, and for more than `MAX_RECORD_BYTES`."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise SeasonError(f"{path}: not text: byte {error.start} is not UTF-8") from None


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes; raise `SeasonError` where it cannot be read, or has more than `MAX_RECORD_BYTES`."""
    try:
        return read_at_most(path, MAX_RECORD_BYTES)
    except OSError as error:
        raise SeasonError(f"{path}: cannot be read: {error.strerror}") from None


def record_sha256(path: Path) -> str:
    """Return the hash of what a file holds; raise `SeasonError` as `read_bytes`."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def parse_record(kind: type[R], text: str, where: str) -> R:
    """Return a record of a text; raise `SeasonError` naming the field that is wrong."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise SeasonError(f"{where}: {first_problem(error, 'record')}") from None


def file_hashes(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder, by its path from there."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): bytes_sha256(path) for path in paths}


def tree_sha256(files: dict[str, str]) -> str:
    """Return one hash of all files of a folder."""
    return hashlib.sha256("".join(f"{name} {files[name]}\n" for name in sorted(files)).encode()).hexdigest()


def published_at(paths: list[Path]) -> str | None:
    """Return the commit that holds all of these files as they are; None where there is none."""
    if not paths:
        return None
    paths = [path.resolve() for path in paths]  # git runs in their folder, from where a relative path leads elsewhere
    git = partial(_git, paths[0].parent)
    top, commit = git("rev-parse", "--show-toplevel"), git("rev-parse", "HEAD")
    if top is None or commit is None:
        return None
    for path in paths:
        name = path.relative_to(Path(top).resolve()).as_posix()
        held = git("rev-parse", f"HEAD:{name}")
        if held is None or held != git("hash-object", str(path)):
            return None
    return commit


def is_shallow(folder: Path) -> bool:
    """Return whether a folder is of a clone that lacks older commits."""
    return _git(folder, "rev-parse", "--is-shallow-repository") == "true"


def _git(where: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(where), *words], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
