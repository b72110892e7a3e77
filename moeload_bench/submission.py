"""A submission to the leaderboard: one folder of text files that says which forecaster, whose, and run how.

    submissions/NAME/submission.toml     the record below
    submissions/NAME/forecaster.py       the code; absent for a baseline of this package
    submissions/NAME/requirements.txt    one pinned `name==version` a line; absent when nothing is needed
    submissions/NAME/verification.json   written by `moeload-bench verify` only
    results/SUITE/NAME.json              the result record

Reading a folder executes nothing of it.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from moeload_bench.errors import MoeloadError, SubmissionError
from moeload_bench.targets import Target, baseline_names, parse_target, source_sha256

RECORD, CODE, REQUIREMENTS, VERIFICATION = "submission.toml", "forecaster.py", "requirements.txt", "verification.json"
MAX_BYTES: Mapping[str, int] = {RECORD: 16 << 10, CODE: 256 << 10, REQUIREMENTS: 16 << 10, VERIFICATION: 256 << 10}
MAX_REQUIREMENTS = 100
_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
MAX_NAME = 40
MAX_INTEGER = 2**63  # what TOML promises, and what JSON readers elsewhere take
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==(?P<version>[0-9][A-Za-z0-9.!+_-]*)")
_CODE_TARGET = re.compile(r"forecaster\.py:[A-Za-z_]\w{0,79}", re.ASCII)
_BASELINE_TARGET = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_KEY = re.compile(r"[A-Za-z_]\w{0,39}", re.ASCII)


def _file_name(name: str) -> str:
    """A folder's name on every file system, whether it tells capitals apart or keeps names for devices."""
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise ValueError(
            f"got {name[:80]!r}, expected small letters and digits, one of . _ - between, at most {MAX_NAME}"
        )
    if re.fullmatch(r"con|prn|aux|nul|(com|lpt)[0-9]", name.partition(".")[0]):
        raise ValueError(f"{name!r} is the name of a device on Windows, where nobody could check the project out")
    return name


def _printable(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be one line of printable text without blanks at its ends")
    return text


def _simple(value: Scalar) -> bool:
    if isinstance(value, str):
        return value.isprintable() and len(value) <= 200
    return not isinstance(value, int) or -MAX_INTEGER <= value < MAX_INTEGER


Line = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Name = Annotated[str, AfterValidator(_file_name)]
Scalar = bool | int | float | str
R = TypeVar("R", bound=BaseModel)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class SuiteClaim(_Record):
    """The task list that was run, by name and content."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=40)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Submission(_Record):
    """The content of submission.toml. ``target`` is `forecaster.py:Class`, or a baseline's name without a file."""

    name: Name
    authors: Annotated[list[Line], Field(min_length=1, max_length=50)]
    link: Annotated[str, Field(pattern=r"^https://[^\s<>\"']+$", max_length=300), AfterValidator(_printable)] | None = (
        None
    )
    licence: Line
    target: str
    kwargs: Annotated[dict[str, Scalar | list[Scalar]], Field(max_length=50)] = {}
    fitted_beyond_train: bool
    hardware: Line
    suite: SuiteClaim

    @field_validator("target")
    @classmethod
    def _known_form(cls, target: str) -> str:
        if not (_CODE_TARGET.fullmatch(target) or _BASELINE_TARGET.fullmatch(target)):
            raise ValueError(f"got {target!r}, expected forecaster.py:Class or the name of a baseline")
        return target

    @field_validator("kwargs")
    @classmethod
    def _simple_values(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        for key, value in kwargs.items():
            values = value if isinstance(value, list) else [value]
            if not _KEY.fullmatch(key) or len(values) > 1000 or not all(map(_simple, values)):
                raise ValueError(f"{key[:40]!r}: expected a Python name with short printable values or 64-bit numbers")
        return kwargs

    @property
    def has_code(self) -> bool:
        return _CODE_TARGET.fullmatch(self.target) is not None

    @property
    def wrong_name(self) -> str | None:
        """Why the name cannot be this forecaster's: a baseline of the package has it; None where it can."""
        if self.name in baseline_names() and self.target != self.name:
            return f"the name {self.name!r} belongs to a baseline: choose another"
        return None

    @property
    def result_target(self) -> str:
        """The target as the result names it: a baseline's with its arguments, so that no variant passes for it."""
        if self.has_code or not self.kwargs:
            return self.target
        plain = {
            key: json.dumps(value, ensure_ascii=False, separators=(",", ":")) for key, value in self.kwargs.items()
        }
        return f"{self.target}@{','.join(f'{key}={text}' for key, text in plain.items())}"

    def to_toml(self) -> str:
        """The text of submission.toml. JSON's strings, numbers and flat lists are TOML's."""
        fields = self.model_dump(exclude={"kwargs", "suite"}, exclude_none=True)
        tables = {"": fields, "kwargs": self.kwargs, "suite": self.suite.model_dump()}
        lines = []
        for table, values in tables.items():
            lines += ["", f"[{table}]"] if table else []
            lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
        return "\n".join(lines) + "\n"


VerificationStatus = Literal["verified", "verified (sample)", "failed"]


def status_of(verified: bool, sample: float) -> VerificationStatus:
    """What a verification is called: one that re-ran a part of the runs says so."""
    return "failed" if not verified else "verified" if sample == 1 else "verified (sample)"


class Verification(_Record):
    """What the maintainers' re-run of one result found; ``result_sha256`` is `claim_sha256` of that result.

    ``ms_per_forecast`` (observing included) and ``peak_memory_bytes`` are what the re-run cost, where it was measured.
    """

    verified: bool
    date: str
    commit: str | None
    level: str
    hardware: str
    tolerance: dict[str, str]
    sample: float
    result_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    reasons: list[str] = []
    findings: dict[str, float] = Field(default={}, description="growth of the relative loss by memorisation test")
    ms_per_forecast: float | None = None
    peak_memory_bytes: int | None = None
    status: VerificationStatus

    @model_validator(mode="after")
    def _says_how(self) -> Verification:
        expected = status_of(self.verified, self.sample)
        if self.status != expected:
            raise ValueError(f"status: got {self.status!r}, expected {expected!r}, as verified and sample say")
        return self

    def to_json(self) -> str:
        """Canonical text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1) + "\n"


@dataclass(frozen=True)
class Folder:
    """A submission as read: its record, its requirements, the hash of its code and what the maintainers wrote."""

    path: Path
    record: Submission
    requirements: tuple[str, ...]
    source_sha256: str
    verification: Verification | None

    def target(self) -> Target:
        """The target to run. It has not been imported."""
        text, kwargs = self.record.target, dict(self.record.kwargs)
        if self.record.has_code:
            return Target(text, None, (self.path / CODE).resolve(), text.partition(":")[2], kwargs=kwargs)
        return replace(parse_target(text), kwargs=kwargs)


def read_folder(path: str | Path) -> Folder:
    """Read a submission without executing any of it; raises `SubmissionError` that says what to change."""
    folder = Path(path)
    texts = {name: text for name in MAX_BYTES if (text := _read_text(folder, name)) is not None}
    _refuse_others(folder)
    record = _parse_record(texts.get(RECORD), folder)
    if record.name != folder.resolve().name:
        raise SubmissionError(f"{folder}: the folder must be named {record.name!r}, as name in {RECORD} says")
    if record.has_code != (CODE in texts):
        what = f"there is no {CODE}" if record.has_code else f"{CODE} is there; a baseline has none"
        raise SubmissionError(f"{folder}: target is {record.target!r} but {what}")
    requirements = parse_requirements(texts.get(REQUIREMENTS, ""), f"{folder / REQUIREMENTS}")
    verification = _validated(Verification, texts.get(VERIFICATION), folder / VERIFICATION)
    return Folder(folder, record, requirements, _source_sha256(folder, record), verification)


def parse_requirements(text: str, where: str = REQUIREMENTS) -> tuple[str, ...]:
    """The pinned requirements of a file; raises `SubmissionError` for anything but `name==version` and comments."""
    found: dict[str, str] = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        match = _REQUIREMENT.fullmatch(line)
        if match is None:
            raise SubmissionError(
                f"{where}: line {number}: got {line[:80]!r}, expected name==version; URLs, paths, options, extras, "
                "markers and ranges are not accepted"
            )
        name = re.sub(r"[-_.]+", "-", match["name"]).lower()
        if name == "moeload-bench":
            raise SubmissionError(f"{where}: line {number}: leave moeload-bench out: the harness brings it")
        if name in found:
            raise SubmissionError(f"{where}: line {number}: {name} is pinned twice")
        found[name] = f"{name}=={match['version']}"
    if len(found) > MAX_REQUIREMENTS:
        raise SubmissionError(f"{where}: {len(found)} requirements, at most {MAX_REQUIREMENTS} are accepted")
    return tuple(found[name] for name in sorted(found))


def check_code(text: str, where: str) -> None:
    """Refuse code that is too large or holds a NUL; raises `SubmissionError`."""
    if len(text.encode()) > MAX_BYTES[CODE] or "\0" in text:
        raise SubmissionError(f"{where}: expected a text file of at most {MAX_BYTES[CODE]} bytes")


def parse_submission(fields: Mapping[str, Any], where: str) -> Submission:
    """A checked record from its fields; raises `SubmissionError` naming the field."""
    try:
        return Submission.model_validate(dict(fields))
    except ValidationError as error:
        raise SubmissionError(f"{where}: {_first(error)}") from None


def text_sha256(text: str) -> str:
    """SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def _source_sha256(folder: Path, record: Submission) -> str:
    if record.has_code:
        return hashlib.sha256((folder / CODE).read_bytes()).hexdigest()
    try:
        return source_sha256(parse_target(record.target))
    except MoeloadError as error:
        raise SubmissionError(f"{folder / RECORD}: target: {error}") from None


def _parse_record(text: str | None, folder: Path) -> Submission:
    if text is None:
        raise SubmissionError(f"{folder}: no {RECORD}; `moeload-bench submit` writes one")
    try:
        fields = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and brackets without end
        raise SubmissionError(f"{folder / RECORD}: not TOML: {error}") from None
    return parse_submission(fields, f"{folder / RECORD}")


def _validated(kind: type[R], text: str | None, where: Path) -> R | None:
    try:
        return None if text is None else kind.model_validate_json(text)
    except ValidationError as error:
        raise SubmissionError(f"{where}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))[:80] or 'record'}: {first['msg'].removeprefix('Value error, ')}"


def _read_text(folder: Path, name: str) -> str | None:
    path = folder / name
    try:
        mode = path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SubmissionError(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(mode.st_mode):
        raise SubmissionError(f"{path}: expected a regular file, got a link, folder or device")
    if mode.st_size > MAX_BYTES[name]:
        raise SubmissionError(f"{path}: {mode.st_size} bytes, at most {MAX_BYTES[name]} are accepted")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise SubmissionError(f"{path}: not text: byte {error.start} is not UTF-8") from None
    if "\0" in text:
        raise SubmissionError(f"{path}: not text: it holds a NUL")
    return text


def _refuse_others(folder: Path) -> None:
    if folder.is_symlink() or not folder.is_dir():
        raise SubmissionError(f"{folder}: expected a folder with {RECORD}")
    others = sorted(path.name for path in folder.iterdir() if path.name not in MAX_BYTES)
    if others:
        raise SubmissionError(
            f"{folder}: unexpected {others[0][:80]!r}; a submission holds only {', '.join(MAX_BYTES)}"
        )
