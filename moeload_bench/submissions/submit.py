"""From a forecaster's file to the content of a pull request: its folder, and its result from a run in the sandbox."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from moeload_bench.errors import SubmissionError
from moeload_bench.evaluation.conformance import check_forecaster
from moeload_bench.evaluation.evaluate import evaluate
from moeload_bench.isolation.hosts import Level
from moeload_bench.isolation.sources import weights_beside
from moeload_bench.isolation.targets import ADAPTERS_PACKAGE, FileTarget, ModuleTarget, Target, is_baseline, preflight
from moeload_bench.results.record import Result
from moeload_bench.submissions.check import check_submission, require_level
from moeload_bench.submissions.folder import (
    CODE,
    FILES,
    RECORD,
    REQUIREMENTS,
    Folder,
    parse_requirements,
    parse_submission,
    parse_text,
    read_folder,
)
from moeload_bench.submissions.record import Submission
from moeload_bench.submissions.requirements import install_packages, installed_packages, pinned, wheel_hashes
from moeload_bench.submissions.weights import check_weights
from moeload_bench.suites.suite import Suite
from moeload_bench.words import FineProgress

NOT_INSTALLED = (
    "not checked: that the requirements install (no network is asked); this environment's own packages are used instead"
)


@dataclass(frozen=True)
class Author:
    """What a submitter says: names, address of the work, licence, whether it learned from other data, hardware.

    ``model_type``: the type of forecaster. ``fitted_on``: the names of other data.
    """

    authors: list[str]
    licence: str
    link: str | None
    fitted_beyond_train: bool
    hardware: str
    model_type: str | None = None
    fitted_on: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Draft:
    """The record of a submission, and every file of its folder by name."""

    record: Submission
    files: Mapping[str, bytes]

    def write(self, root: Path) -> Path:
        """Write the folder ``root/submissions/NAME``."""
        folder = root / "submissions" / self.record.name
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder


@dataclass(frozen=True)
class Prepared:
    """A submission that passed its check, with its result."""

    draft: Draft
    result: Result

    def files(self) -> dict[str, bytes]:
        """Return every file's content by path below the root of the leaderboard."""
        name = self.draft.record.name
        found = {f"submissions/{name}/{file}": content for file, content in self.draft.files.items()}
        return {**found, result_path(self.result.suite.name, name): self.result.to_json().encode()}

    def stale(self, present: Iterable[str]) -> list[str]:
        """Return the present paths that an earlier submission of the name left: its verification, other files."""
        own = f"submissions/{self.draft.record.name}/"
        return sorted(path for path in set(present) - self.files().keys() if path.startswith(own))

    def write(self, root: Path) -> None:
        """Write folder and result below ``root``; remove what an earlier submission of the name left."""
        folder = f"submissions/{self.draft.record.name}"
        for name in self.stale(f"{folder}/{file}" for file in FILES):
            (root / name).unlink(missing_ok=True)
        for name, content in self.files().items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def result_path(suite: str, name: str) -> str:
    """Return where a result lies below the root of the leaderboard."""
    return f"results/{suite}/{name}.json"


def make_draft(target: Target, name: str, author: Author, suite: Suite, requirements: str | None = None) -> Draft:
    """Return the folder of a forecaster in one file (with weights next to it), of a baseline, or of an adapter.

    Raise `SubmissionError` for anything else.
    """
    texts: dict[str, bytes] = {}
    weights: dict[str, bytes] = {}
    sha256 = None
    if isinstance(target, FileTarget):
        texts[CODE] = target.file.read_bytes()
        parse_text(texts[CODE], CODE, str(target.file))
        text = f"{CODE}:{target.class_name}"
        for suffix, file in weights_beside(target.file).items():
            sha256 = check_weights(file)
            weights[Path(CODE).with_suffix(suffix).name] = file.read_bytes()
    elif is_baseline(target):
        text = target.baseline
    elif isinstance(target, ModuleTarget) and target.module.startswith(f"{ADAPTERS_PACKAGE}."):
        text = f"{target.module}:{target.class_name}"
    else:
        raise SubmissionError(f"{target.text!r}: a submission is one file: name it as FILE.py:Class")
    fields = {
        **asdict(author),
        "name": name,
        "target": text,
        "kwargs": dict(target.kwargs),
        "weights_sha256": sha256,
        "suite": {"name": suite.name, "sha256": suite.sha256()},
    }
    record = parse_submission(fields, "submission")
    if record.wrong_name is not None:
        raise SubmissionError(record.wrong_name)
    if requirements is not None:
        parse_requirements(requirements)
        texts[REQUIREMENTS] = requirements.encode()
    return Draft(record, {RECORD: record.to_toml().encode(), **texts, **weights})


def prepare_submission(
    draft: Draft,
    suite: Suite,
    *,
    paths: Mapping[str, Path] | None = None,
    level: Level = "sandbox",
    find_links: Path | None = None,
    no_index: bool = False,
    offline: bool = False,
    jobs: int = 1,
    progress: Callable[[], AbstractContextManager[FineProgress | None]] = nullcontext,
    say: Callable[[str], None] = lambda text: None,
) -> Prepared:
    """Check conformance, then run the suite, both on exactly the files that are submitted, at one level of isolation.

    Requirements without a hash get that of the wheel that was taken; ``offline``, they are taken from ``find_links``,
    from what an earlier call installed, or not at all, and ``say`` says so. ``progress`` is opened when the runs begin;
    ``say`` is called at the start of every part. Raise `SubmissionError` if a rule is broken, a task fails or the check
    would refuse the outcome.
    """
    require_level(level)
    with tempfile.TemporaryDirectory(prefix="moeload-submit-") as scratch:
        folder = read_folder(draft.write(Path(scratch)))
        preflight(folder.target())
        if offline and find_links is None:
            packages = installed_packages(folder.requirements)
            if folder.requirements and packages is None:
                say(NOT_INSTALLED)
        else:
            if folder.requirements:
                say(f"installing {len(folder.requirements)} requirements")
            packages = install_packages(folder.requirements, find_links=find_links, no_index=no_index or offline)
        if packages is not None and any("--hash" not in requirement for requirement in folder.requirements):
            lines = pinned(folder.requirements, wheel_hashes(packages))
            draft = replace(draft, files={**draft.files, REQUIREMENTS: "".join(f"{line}\n" for line in lines).encode()})
            folder = read_folder(draft.write(Path(scratch)))
        target = replace(folder.target(), packages=packages)
        say("checking the contract on small synthetic runs")
        broken = [rule for rule in check_forecaster(target, level=level) if rule.required and not rule.passed]
        if broken:
            raise SubmissionError(f"conformance: {broken[0].rule}: {broken[0].message}; see `moeload-bench check`")
        say(f"running suite {suite.name}: {len(suite.traces)} runs at level {level}")
        with progress() as report:
            (result,) = evaluate(target, suite, paths=paths, level=level, jobs=jobs, progress=report)
        result = as_submitted(result, folder)
        if result.failures:
            trace, task = result.failures[0]
            raise SubmissionError(f"{len(result.failures)} tasks failed; {trace}, origin {task.origin}: {task.failure}")
        wrong = check_submission(folder, result, suite)
        if wrong:
            raise SubmissionError(wrong[0])
    return Prepared(draft, result)


def as_submitted(result: Result, folder: Folder) -> Result:
    """Return the result under the submission's name, with its requirements, and without paths of this machine."""
    made = {"name": folder.record.name, "target": folder.record.result_target, "requirements": folder.requirements}
    return result.model_copy(update={"forecaster": result.forecaster.model_copy(update=made)})
