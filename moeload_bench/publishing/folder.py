"""A submission to the leaderboard: one folder of text (and weights) that names the forecaster, its author and target.

    submissions/NAME/submission.toml     the record below
    submissions/NAME/forecaster.py       the code; absent for a baseline or an adapter of this package
    submissions/NAME/forecaster.npz      its weights, or forecaster.safetensors; absent if it has none
    submissions/NAME/requirements.txt    one `name==version --hash=sha256:...` a line; absent if nothing is needed
    submissions/NAME/README.md           its card, for readers; baselines of this package have none
    submissions/NAME/claimed.parquet     its author's own run, shown while the request is open; absent if none was sent
    submissions/NAME/verification.json   written by `python -m leaderboard verify` only
    submissions/NAME/fitted.bin          written by it too: what `fit` returned, absent if the code has none
    results/SUITE/NAME.parquet           the result, written by it too, from its own run

Nothing of a folder is executed when it is read. Weights are npz (a zip archive of numpy arrays, without pickled
objects) or safetensors, neither of which can hold code; the forecaster finds them as
``Path(__file__).with_suffix(".npz")``, at every level of isolation.
"""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moeload_bench.errors import MoeloadError, SubmissionError, not_found
from moeload_bench.isolation.sources import bytes_sha256, file_sha256
from moeload_bench.isolation.targets import FileTarget, StoredTarget, baseline_names, source_sha256, stored_target
from moeload_bench.names import look_of
from moeload_bench.publishing.requirements import REQUIREMENTS, parse_requirements
from moeload_bench.publishing.submission import Submission, Verification
from moeload_bench.schema import first_problem, load_toml, read_json, read_toml
from moeload_bench.suites.suite import Suite
from moeload_bench.traces.archives import npy_header
from moeload_bench.traces.tensors import read_header

RECORD, CODE, CARD, VERIFICATION = "submission.toml", "forecaster.py", "README.md", "verification.json"
MAX_BYTES: Mapping[str, int] = {
    RECORD: 16 << 10,
    CODE: 256 << 10,
    REQUIREMENTS: 64 << 10,
    CARD: 64 << 10,
    VERIFICATION: 256 << 10,
}
FITTED, CLAIM = "fitted.bin", "claimed.parquet"
WEIGHTS = ("forecaster.npz", "forecaster.safetensors")
FILES = (*MAX_BYTES, *WEIGHTS, FITTED, CLAIM)
MAX_WEIGHTS_BYTES, MAX_CLAIM_BYTES = 64 << 20, 4 << 20
MAX_ARRAYS = 10_000


@dataclass(frozen=True)
class Folder:
    """A submission as read: its own words, its requirements, the hash of its code and the maintainers' verification."""

    path: Path
    record: Submission
    requirements: tuple[str, ...]
    source_sha256: str
    verification: Verification | None

    def target(self) -> StoredTarget:
        """Return the target to run. It has not been imported."""
        text, kwargs = self.record.target, dict(self.record.kwargs)
        if self.record.has_code:
            file = (self.path / CODE).resolve()
            return FileTarget(text=text, file=file, class_name=text.partition(":")[2], kwargs=kwargs)
        return replace(_package_target(self.record), kwargs=kwargs)

    @property
    def claim(self) -> Path | None:
        """Return the file of its author's own run; None without any."""
        path = self.path / CLAIM
        return path if is_regular(path) else None

    def fitted(self) -> bytes | None:
        """Return the bytes that its `fit` returned and that its published result was scored with; None without any."""
        path = self.path / FITTED
        return path.read_bytes() if is_regular(path) else None


def read_folder(path: str | Path) -> Folder:
    """Read a submission without executing any of it; raise `SubmissionError` that says what to change."""
    folder = Path(path)
    texts = {name: text for name in MAX_BYTES if (text := _read_text(folder, name)) is not None}
    _refuse_foreign(folder)
    if RECORD not in texts:
        raise SubmissionError(f"{folder}: no {RECORD}; `moeload-bench submit` writes one")
    submission = read_toml(Submission, folder / RECORD, "record", SubmissionError)
    if submission.name != folder.resolve().name:
        raise SubmissionError(f"{folder}: the folder must be named {submission.name!r}, as name in {RECORD} says")
    if submission.has_code != (CODE in texts):
        fault = f"there is no {CODE}" if submission.has_code else f"{CODE} is there; the package's own code has none"
        raise SubmissionError(f"{folder}: target is {submission.target!r} but {fault}")
    _check_weights(folder, submission)
    if is_regular(folder / CLAIM) and (size := (folder / CLAIM).stat().st_size) > MAX_CLAIM_BYTES:
        raise SubmissionError(f"{folder / CLAIM}: {size} bytes, at most {MAX_CLAIM_BYTES} are accepted")
    requirements = parse_requirements(texts.get(REQUIREMENTS, ""), f"{folder / REQUIREMENTS}")
    verification = None
    if VERIFICATION in texts:
        place, most = folder / VERIFICATION, MAX_BYTES[VERIFICATION]
        verification = read_json(Verification, place, most, "record", SubmissionError)
    return Folder(folder, submission, requirements, _source_sha256(folder, submission), verification)


def _check_weights(folder: Path, submission: Submission) -> None:
    """Raise unless there is at most one file of weights, next to code, with the hash that the submission names."""
    names = [name for name in WEIGHTS if is_regular(folder / name)]
    if len(names) > 1:
        raise SubmissionError(f"{folder}: {names[0]} and {names[1]}: a submission has one file of weights at most")
    if names and not submission.has_code:
        raise SubmissionError(f"{folder}: {names[0]} is there; the package's own code has none")
    expected = check_weights(folder / names[0]) if names else None
    if expected != submission.weights_sha256:
        short = ["none" if sha256 is None else repr(sha256[:12]) for sha256 in (submission.weights_sha256, expected)]
        raise SubmissionError(
            f"{folder / RECORD}: weights_sha256: got {short[0]}, expected {short[1]}, the hash of "
            f"{names[0] if names else 'no file'}"
        )


def parse_submission(fields: Mapping[str, Any], where: str) -> Submission:
    """Return a checked submission from its fields; raise `SubmissionError` that names the field."""
    try:
        return Submission.model_validate(dict(fields))
    except ValidationError as error:
        raise SubmissionError(f"{where}: {first_problem(error, 'record')}") from None


def _package_target(submission: Submission) -> StoredTarget:
    """Return the baseline or adapter that is named; never what a plug-in of that name on this machine would run."""
    if not submission.has_adapter and submission.target not in baseline_names():
        raise not_found("baseline", submission.target, baseline_names())
    return stored_target(submission.target)


def _source_sha256(folder: Path, submission: Submission) -> str:
    if submission.has_code:
        return file_sha256(folder / CODE)
    try:
        return source_sha256(_package_target(submission))
    except MoeloadError as error:
        raise SubmissionError(f"{folder / RECORD}: target: {error}") from None


def _read_text(folder: Path, name: str) -> str | None:
    path = folder / name
    if not is_regular(path):
        return None
    _check_size(path.stat().st_size, name, str(path))
    return parse_text(path.read_bytes(), name, str(path))


def parse_text(content: bytes, name: str, where: str) -> str:
    """Return the text of a submission's file; raise `SubmissionError` if it is too large or not text."""
    _check_size(len(content), name, where)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SubmissionError(f"{where}: not text: byte {error.start} is not UTF-8") from None
    if "\0" in text:
        raise SubmissionError(f"{where}: not text: it holds a NUL")
    return text


def _check_size(size: int, name: str, where: str) -> None:
    if size > MAX_BYTES[name]:
        raise SubmissionError(f"{where}: {size} bytes, at most {MAX_BYTES[name]} are accepted")


def is_regular(path: Path) -> bool:
    """Return whether the file exists; raise `SubmissionError` if it is not a regular file."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SubmissionError(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise SubmissionError(f"{path}: expected a regular file, got a link, folder or device")
    return True


def _refuse_foreign(folder: Path) -> None:
    if folder.is_symlink() or not folder.is_dir():
        raise SubmissionError(f"{folder}: expected a folder with {RECORD}")
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in FILES)
    if foreign:
        raise SubmissionError(f"{folder}: unexpected {foreign[0][:80]!r}; a submission holds only {', '.join(FILES)}")


# ---------------------------------------------------------------- weights


def check_weights(path: Path) -> str:
    """Return the SHA-256 of a file of weights; raise `SubmissionError` if it is too large or not plain arrays."""
    size = path.stat().st_size
    if size > MAX_WEIGHTS_BYTES:
        raise SubmissionError(
            f"{path}: {size} bytes, at most {MAX_WEIGHTS_BYTES} are accepted; larger weights come in a pinned wheel"
        )
    problem = next(_npz_problems(path) if path.suffix == ".npz" else _safetensors_problems(path), None)
    if problem is not None:
        raise SubmissionError(f"{path}: {problem}")
    return bytes_sha256(path)


def _safetensors_problems(path: Path) -> Iterator[str]:
    try:
        read_header(path)
    except ValueError as error:
        yield str(error)


def _npz_problems(path: Path) -> Iterator[str]:
    """Yield what is wrong with an archive, the bounds first."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ARRAYS:
                yield f"{len(entries)} arrays, at most {MAX_ARRAYS} are accepted"
            if sum(entry.file_size for entry in entries) > MAX_WEIGHTS_BYTES:
                yield f"more than {MAX_WEIGHTS_BYTES} bytes when unpacked"
            for entry in entries:
                if not entry.filename.endswith(".npy"):
                    yield f"{entry.filename[:80]!r} is not an array: an npz archive holds NAME.npy only"
                with archive.open(entry) as member:
                    _, _, dtype = npy_header(member)
                if dtype.hasobject or dtype.kind not in "biufc":
                    yield f"{entry.filename[:80]!r} has the type {str(dtype)[:40]}, expected plain numbers"
    except Exception as error:  # zipfile and numpy raise many kinds of errors for a broken archive
        yield f"not an npz archive: {type(error).__name__}"


# ---------------------------------------------------------------- names and suite


def folder_problems(folder: Folder, suite: Suite) -> Iterator[str]:
    """Yield what is wrong with a submission that `read_folder` could read: its name, and the suite that it is for."""
    submission = folder.record
    if submission.wrong_name is not None:
        yield submission.wrong_name
    expected = {
        "suite name": (submission.suite.name, suite.name),
        "suite hash": (submission.suite.sha256, suite.sha256()),
    }
    for field, (got, wanted) in expected.items():
        if got != wanted:
            yield f"{field}: submission.toml says {got!r}, expected {wanted!r}: run `moeload-bench submit` again"


def check_name(submission: Submission, root: Path) -> None:
    """Run `check_name_among` against the submissions below a local root of a leaderboard, and look at their authors.

    Raise `SubmissionError` also for an author whose name differs from another one's only in its looks.
    """
    paths = [path.relative_to(root).as_posix() for path in root.glob(f"submissions/*/{RECORD}")]
    check_name_among(submission, paths, lambda path: (root / path).read_bytes(), str(root))
    others = {author for path in sorted(paths) for author in _authors_in((root / path).read_bytes())}
    looks = {look_of(author): author for author in others}
    for author in submission.authors:
        if author not in others and (twin := looks.get(look_of(author))) is not None:
            raise SubmissionError(f"the author {author!r} is too like {twin!r}, who is there: expected one spelling")


def check_name_among(
    submission: Submission, paths: Collection[str], read: Callable[[str], bytes], leaderboard: str
) -> None:
    """Raise `SubmissionError` if a name differs from another one only in its looks, or is taken by other authors.

    ``paths``: the files of the leaderboard, baselines are always part of it; ``read`` returns the content of one. The
    same authors can use their name again.
    """
    folders = [path.split("/") for path in paths]
    names = {parts[1] for parts in folders if parts[0] == "submissions" and len(parts) > 2}
    for name in sorted({*names, *baseline_names()} - {submission.name}):
        if look_of(name) == look_of(submission.name):
            raise SubmissionError(
                f"the name {submission.name!r} is too like {name!r}, which is taken: choose another --name"
            )
    path = f"submissions/{submission.name}/{RECORD}"
    if path in paths and _authors_in(read(path)) != submission.authors:
        raise SubmissionError(
            f"{leaderboard}: the name {submission.name!r} is taken by other authors: choose another --name"
        )


def _authors_in(content: bytes) -> list[str]:
    """Return the authors that a submission names, none of one that cannot be read."""
    try:
        authors = load_toml(content.decode("utf-8", "replace")).get("authors")
    except (ValueError, RecursionError):
        return []
    return [str(author) for author in authors] if isinstance(authors, list) else []
