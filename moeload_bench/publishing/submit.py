"""From a forecaster's file to a pull request: the folder of its submission, checked in isolation, sent to the Hub."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from moeload_bench.errors import IsolationError, SubmissionError
from moeload_bench.harness.conformance import check_forecaster
from moeload_bench.isolation.hosts import Level, level_available, parse_level
from moeload_bench.isolation.sources import weights_beside
from moeload_bench.isolation.targets import ADAPTERS_PACKAGE, FileTarget, ModuleTarget, Target, is_baseline, preflight
from moeload_bench.publishing.folder import (
    CARD,
    CLAIM,
    CODE,
    FILES,
    RECORD,
    check_name_among,
    check_weights,
    parse_submission,
    parse_text,
    read_folder,
)
from moeload_bench.publishing.imports import unlisted_imports
from moeload_bench.publishing.requirements import (
    REQUIREMENTS,
    install_packages,
    installed_packages,
    parse_requirements,
    pinned,
    wheel_hashes,
)
from moeload_bench.publishing.submission import Submission
from moeload_bench.results.results import Results, load_results
from moeload_bench.suites.suite import Suite
from moeload_bench.traces.hub import check_token, hub_request

if TYPE_CHECKING:
    from huggingface_hub import HfApi

UNTRUSTED: tuple[Level, ...] = ("process", "sandbox")
"""The levels of isolation at which a stranger's code may run."""
NOT_INSTALLED = (
    "not checked: that the requirements install (no network is asked); this environment's own packages are used instead"
)


UNLISTED = (
    "not listed: the code imports {}, which no requirement names. Where the entry is verified it may be missing, or "
    "have another version: pin it in the file of --requirements"
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
    """What a submission says of itself, and the content of every file of its folder by name."""

    record: Submission
    contents: Mapping[str, bytes]

    @property
    def place(self) -> str:
        """Return the folder below the root of the leaderboard."""
        return f"submissions/{self.record.name}"

    def files(self) -> dict[str, bytes]:
        """Return every file's content by path below the root of the leaderboard."""
        return {f"{self.place}/{name}": content for name, content in self.contents.items()}

    def stale(self, present: Iterable[str]) -> list[str]:
        """Return the present paths that an earlier submission of the name left: its verification, other files."""
        return sorted(path for path in set(present) - self.files().keys() if path.startswith(f"{self.place}/"))

    def write(self, root: Path) -> Path:
        """Write the folder below ``root`` and return it."""
        folder = root / self.place
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.contents.items():
            (folder / name).write_bytes(content)
        return folder

    def replace(self, root: Path) -> None:
        """Write the folder below ``root``; remove what an earlier submission of the name left."""
        for path in self.stale(f"{self.place}/{name}" for name in FILES):
            (root / path).unlink(missing_ok=True)
        self.write(root)


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
    submission = parse_submission(fields, "submission")
    if submission.wrong_name is not None:
        raise SubmissionError(submission.wrong_name)
    if requirements is not None:
        parse_requirements(requirements)
        texts[REQUIREMENTS] = requirements.encode()
    if not is_baseline(target):
        texts[CARD] = card_of(submission).encode()
    return Draft(submission, {RECORD: submission.to_toml().encode(), **texts, **weights})


def card_of(submission: Submission) -> str:
    """Return the text of a submission's README.md."""
    facts = {
        "Authors": ", ".join(submission.authors),
        "Licence": submission.licence,
        "Work": submission.link,
        "Code": f"`{submission.target}`",
        "Arguments": ", ".join(f"`{key}={value!r}`" for key, value in submission.kwargs.items()),
        "Learned from": ", ".join(submission.fitted_on),
        "Suite": f"{submission.suite.name} ({submission.suite.sha256[:12]})",
    }
    lines = [f"- {name}: {fact}" for name, fact in facts.items() if fact]
    return (
        f"# {submission.name}\n\nA forecaster of expert loads, submitted to the leaderboard of moeload-bench.\n\n"
        + "\n".join(lines)
        + "\n\nIts numbers are those of the maintainers' own run of this folder.\n"
    )


def with_claim(draft: Draft, results: Path) -> Draft:
    """Return the draft with its author's own run; raise `SubmissionError` unless the file has one of this very code."""
    run, record = load_results(results), draft.record
    with tempfile.TemporaryDirectory(prefix="moeload-submit-") as scratch:
        code = read_folder(draft.write(Path(scratch))).source_sha256
        wanted = (code, record.kwargs, record.suite.sha256)
        entries = [
            entry for entry in run.entries.values() if (entry.source_sha256, entry.kwargs, entry.suite.sha256) == wanted
        ]
        if len(entries) != 1:
            raise SubmissionError(
                f"{results}: {len(entries)} runs of this very code and these arguments on suite {record.suite.name}, "
                "expected one: `moeload-bench run TARGET --out FILE.parquet` writes it"
            )
        own = run.select([entries[0].name])
        fields = {"name": record.name, "target": record.result_target, "status": "claimed"}
        entry = entries[0].model_copy(update=fields)
        file = Results({entry.name: entry}, own.table.assign(forecaster=entry.name), own.facts).save(
            Path(scratch) / CLAIM
        )
        return replace(draft, contents={**draft.contents, CLAIM: file.read_bytes()})


def untrusted_level(text: str) -> Level:
    """Return a level at which untrusted code may run, and that this machine offers.

    Raise `IsolationError` for one that does not exist or cannot be used here, `SubmissionError` for one too low.
    """
    level = parse_level(text)
    if level not in UNTRUSTED:
        raise SubmissionError(
            f"isolation: got {text!r}, expected {' or '.join(UNTRUSTED)}: a submission runs at one of these"
        )
    require_level(level)
    return level


def require_level(level: Level, advice: str = "or say --level process") -> None:
    """Raise `IsolationError` if a level cannot be used, with what to do instead: it is not the forecaster's fault."""
    reason = level_available(level)
    if reason is not None:
        raise IsolationError(f"isolation level {level!r} is not available here: {reason}; {advice}")


def prepare_submission(
    draft: Draft,
    *,
    level: Level = "sandbox",
    find_links: Path | None = None,
    no_index: bool = False,
    offline: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Draft:
    """Check that exactly the files that are submitted keep the contract, at one level of isolation; return the draft.

    Requirements without a hash get that of the wheel that was taken; ``offline``, they are taken from ``find_links``,
    from what an earlier call installed, or not at all, and ``say`` says so. ``say`` is called at the start of every
    part. Raise `SubmissionError` if a rule is broken.
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
            text = "".join(f"{line}\n" for line in lines)
            draft = replace(draft, contents={**draft.contents, REQUIREMENTS: text.encode()})
            folder = read_folder(draft.write(Path(scratch)))
        target = replace(folder.target(), packages=packages)
        for name in unlisted_imports(draft.contents.get(CODE, b""), folder.requirements):
            say(UNLISTED.format(name))
        say("checking the contract on small synthetic runs")
        checked = check_forecaster(
            target, level=level, progress=lambda number, count, rule: say(f"rule {number + 1} of {count}: {rule}")
        )
        broken = [rule for rule in checked if rule.required and not rule.passed]
        if broken:
            raise SubmissionError(f"conformance: {broken[0].rule}: {broken[0].message}; see `moeload-bench check`")
    return draft


@dataclass(frozen=True)
class ResultsRepository:
    """A dataset repository of the Hub that takes submissions, and the paths that it holds."""

    repo: str
    paths: Sequence[str]
    api: HfApi

    @classmethod
    def open(cls, repo: str, api: HfApi | None = None) -> ResultsRepository:
        """List what a repository holds; raise `HubError` if it, or the token to write, is missing."""
        from huggingface_hub import HfApi

        client = api or HfApi()
        check_token(client)
        return cls(repo, hub_request(repo, lambda: client.list_repo_files(repo, repo_type="dataset")), client)

    def check_name(self, submission: Submission) -> None:
        """Raise `SubmissionError` if the name belongs to other authors there, or looks like another."""
        check_name_among(submission, self.paths, self.read, self.repo)

    def read(self, path: str) -> bytes:
        """Return the content of a file."""
        download = hub_request(self.repo, lambda: self.api.hf_hub_download(self.repo, path, repo_type="dataset"))
        return Path(download).read_bytes()

    def open_pull_request(self, draft: Draft) -> str:
        """Open one pull request that holds the folder and removes an earlier one's other files; return its address."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        submission, suite = draft.record, draft.record.suite
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(name, content) for name, content in draft.files().items()),
            *(CommitOperationDelete(name) for name in draft.stale(self.paths)),
        ]
        commit = hub_request(
            self.repo,
            lambda: self.api.create_commit(
                self.repo,
                operations,
                commit_message=f"Submission {submission.name} on {suite.name}",
                commit_description=f"`{submission.target}` on suite {suite.name} ({suite.sha256[:12]}), by "
                f"{', '.join(submission.authors)}.",
                repo_type="dataset",
                create_pr=True,
            ),
            again="look there whether the pull request was opened before you run it again",
        )
        return str(commit.pr_url)
