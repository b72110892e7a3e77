"""Publish a folder as a release: traces as a dataset, a forecaster's results as a model, the site as a Space.

A release is a tag. First all content is uploaded; it is addressed by its hash, so an interrupted upload continues where
it stopped. Then one commit makes it visible, and its tree is compared with the folder. Only then the tag is set, so a
tag that exists is complete; it is never moved. Only files that this package writes are sent, and a repository with
others is left alone.

`HfApi.upload_large_folder` is not used: it splits a folder over several commits, and huggingface_hub 2 has it no more.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from moeload_bench.errors import HubError, TraceError
from moeload_bench.publishing.admission import COMMUNITY
from moeload_bench.publishing.card import check_card
from moeload_bench.publishing.routing_cases import CASES, CASES_FILE, check_cases, has_cases
from moeload_bench.traces.hub import check_token, hub_request, with_retries
from moeload_bench.traces.store import read_trace
from moeload_bench.words import Progress, silent

Kind = Literal["dataset", "model", "space"]
PARTS = ".parts/"
"""Part of every path that belongs to a recording in progress."""
_ATTRIBUTES = ".gitattributes"
"""The Hub's own file."""
RECORDS = ".eval_results/moeload.yaml"
"""What the Hub's leaderboards read of a model."""
_SHOWN = 5
_TRACE = rf"(?:{COMMUNITY}/)?(?P<id>[A-Za-z0-9][\w.-]*/\w+/seed\d+)\.parquet"
_DOCUMENT = rf"README\.md|eval\.yaml|croissant\.json|CITATION\.cff|LICENSE|{COMMUNITY}/[A-Za-z0-9][\w.-]*/README\.md"


class Content(NamedTuple):
    """What a repository of a kind holds: the paths that may be there, that must be, and that change at any time."""

    noun: str
    expected: str
    paths: str
    replaceable: str
    required: tuple[str, ...] = ()


CONTENTS: Mapping[Kind, Content] = {
    "dataset": Content(
        "traces",
        f"RECIPE/SPLIT/seedN.parquet, {CASES}/{CASES_FILE}, README.md, eval.yaml, croissant.json, CITATION.cff "
        "and LICENSE",
        f"{_TRACE}|{_DOCUMENT}|{CASES}/{re.escape(CASES_FILE)}",
        _DOCUMENT,
    ),
    "model": Content(
        "files",
        f"README.md, {RECORDS}, LICENSE and model.safetensors",
        rf"README\.md|LICENSE|model\.safetensors|{re.escape(RECORDS)}",
        rf"README\.md|{re.escape(RECORDS)}",
        ("README.md", RECORDS),
    ),
    "space": Content(
        "files",
        "README.md, index.html and pages",
        r"\.nojekyll|(?:[\w-][\w.-]*/)*[\w-][\w.-]*",
        r"README\.md|index\.html|style\.css",
        ("README.md", "index.html"),
    ),
}


class LocalFile(NamedTuple):
    """A file of the release: its place on disk, and the two names that the Hub may use for its content."""

    path: Path
    sha256: str
    git_sha1: str

    def equals(self, remote: RepoFile) -> bool:
        """Return whether the Hub's file has this content: large files are named by SHA-256, others by git's hash."""
        return remote.lfs.sha256 == self.sha256 if remote.lfs else remote.blob_id == self.git_sha1


@dataclass(frozen=True)
class Plan:
    """How a revision of a repository differs from a folder, by path."""

    add: tuple[str, ...]
    replace: tuple[str, ...]
    remove: tuple[str, ...]
    keep: tuple[str, ...]

    @property
    def empty(self) -> bool:
        return not (self.add or self.replace or self.remove)

    def __str__(self) -> str:
        parts = {"missing": self.add, "different": self.replace, "extra": self.remove}
        return "; ".join(f"{kind}: {first_names(names)}" for kind, names in parts.items() if names) or "no difference"


@dataclass(frozen=True)
class Publication:
    """What was done or, in a dry run, would be done. ``commit`` is None in a dry run of a new repository."""

    repo: str
    tag: str
    commit: str | None
    plan: Plan
    tagged: bool
    dry_run: bool = False


def publish(
    folder: str | Path,
    repo: str,
    tag: str,
    *,
    kind: Kind = "dataset",
    private: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    report: Progress = silent,
    api: HfApi | None = None,
) -> Publication:
    """Make ``repo`` at ``tag`` hold exactly the folder; do nothing if it does already.

    ``overwrite`` allows changing or removing traces of the main branch (older tags keep theirs). Raise `HubError` with
    what stands in the way: no token, no permission, no network, a tag with other content, a repository with other
    content; and for a folder with other files than those of its kind, or without its card. The folder and existing tags
    never change.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", tag) or tag == "main":
        raise HubError(f"got tag {tag!r}, expected a name such as v1.0")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise HubError(f"got repository {repo!r}, expected ORG/NAME")
    files = collect_files(Path(folder), kind)
    release = Release(api or HfApi(), repo, tag, kind, files, private, overwrite, report)
    if dry_run:
        return hub_request(repo, lambda: release.attempt(dry_run=True))
    check_token(release.api)
    return hub_request(repo, lambda: with_retries(release.attempt), again="run it again to continue from here")


def collect_files(folder: Path, kind: Kind = "dataset") -> dict[str, LocalFile]:
    """Return the files to publish by path; raise `HubError` or `TraceError` for a folder that is not of this kind.

    Every trace is read and verified, its id must be its path, and the card must name what is there. Of a folder of
    traces, hidden files are ignored. A trace may be a link out of the folder, since it is a trace then; nothing else
    may.
    """
    if not folder.is_dir():
        raise HubError(f"{folder}: no such folder")
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    if kind == "dataset":
        paths = {name: path for name, path in paths.items() if not re.search(r"(^|/)\.", name)}
    foreign = [name for name in paths if not re.fullmatch(CONTENTS[kind].paths, name)]
    missing = [name for name in CONTENTS[kind].required if name not in paths]
    if any(PARTS in name for name in foreign):
        raise HubError(f"{folder}: a recording is in progress; publish after it has ended")
    if foreign or missing:
        got = f"got {first_names(foreign)}" if foreign else f"{', '.join(missing)} missing"
        raise HubError(f"{folder}: {got}; expected a folder of {CONTENTS[kind].expected}")
    linked = [name for name, path in paths.items() if not re.fullmatch(_TRACE, name) and _leads_out(path, folder)]
    if linked:
        raise HubError(f"{folder}: {first_names(linked)}: a link out of the folder would publish what is there; "
                       "expected a file")  # fmt: skip
    if kind == "dataset":
        _check_traces(folder, paths)
        if has_cases(folder):
            check_cases(folder)
        check_card(folder)
    return {name: local_file(path) for name, path in paths.items()}


def _leads_out(path: Path, folder: Path) -> bool:
    return not path.resolve().is_relative_to(folder.resolve())


def _check_traces(folder: Path, paths: Mapping[str, Path]) -> None:
    """Raise unless there are traces, each valid and at the path that its id says."""
    traces = [(path, match["id"]) for name, path in paths.items() if (match := re.fullmatch(_TRACE, name))]
    if not traces:
        raise HubError(f"{folder}: the folder holds no trace at RECIPE/SPLIT/seedN.parquet")
    for path, expected in traces:
        got = read_trace(path).id
        if got != expected:
            raise TraceError(f"{path}: holds the trace {got}, expected it at {got}.parquet")


def local_file(path: Path) -> LocalFile:
    """Return a file with its hashes: SHA-256, and git's hash of a blob."""
    data = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return LocalFile(path, hashlib.sha256(data).hexdigest(), git)


def make_plan(files: Mapping[str, LocalFile], remote: Mapping[str, RepoFile]) -> Plan:
    """Return what must change on the Hub so that it holds exactly these files (`.gitattributes` is the Hub's own)."""
    equal = {name for name in files.keys() & remote.keys() if files[name].equals(remote[name])}
    return Plan(
        add=tuple(sorted(files.keys() - remote.keys())),
        replace=tuple(sorted((files.keys() & remote.keys()) - equal)),
        remove=tuple(sorted(remote.keys() - files.keys() - {_ATTRIBUTES})),
        keep=tuple(sorted(equal)),
    )


def first_names(names: Collection[str]) -> str:
    """Return the first few names, and how many more there are."""
    shown = ", ".join(sorted(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


@dataclass
class Release:
    """One folder on its way to one tag; every attempt starts from what the Hub holds at that time."""

    api: HfApi
    repo: str
    tag: str
    kind: Kind
    files: Mapping[str, LocalFile]
    private: bool
    overwrite: bool
    report: Progress
    first_plan: Plan | None = None

    def attempt(self, dry_run: bool = False) -> Publication:
        """Publish what the Hub lacks; return at once if the tag holds the folder. A dry run sends nothing."""
        head = self.head()
        if head is None and not dry_run:
            sdk = "static" if self.kind == "space" else None
            self.api.create_repo(self.repo, repo_type=self.kind, private=self.private, exist_ok=True, space_sdk=sdk)
            head = self.head()
        if head is not None and (published := self.published()) is not None:
            return replace(published, dry_run=dry_run)
        plan = self.plan(head)
        if dry_run:
            return Publication(self.repo, self.tag, head, plan, tagged=False, dry_run=True)
        self.first_plan = self.first_plan or plan
        commit = head if plan.empty else self.upload(plan, head)
        difference = make_plan(self.files, self.tree(commit))
        if not difference.empty:
            raise HubError(
                f"{self.repo}: after the upload the Hub holds other content than the folder ({difference}): no tag"
            )
        self.api.create_tag(self.repo, tag=self.tag, revision=commit, repo_type=self.kind)
        return Publication(self.repo, self.tag, commit, self.first_plan, tagged=True)

    def head(self) -> str | None:
        """Return the last commit of main, None if the repository does not exist."""
        try:
            info = self.api.repo_info(self.repo, repo_type=self.kind)
        except RepositoryNotFoundError:
            return None
        if self.private and not info.private:
            raise HubError(f"{self.repo}: the repository exists and is public; --private is for a new one")
        return info.sha

    def tree(self, commit: str | None) -> dict[str, RepoFile]:
        """Return the files of a commit by path, without those of recordings in progress."""
        if commit is None:
            return {}
        rows = self.api.list_repo_tree(self.repo, recursive=True, revision=commit, repo_type=self.kind)
        files = {row.path: row for row in rows if isinstance(row, RepoFile)}
        return {name: file for name, file in files.items() if self.kind != "dataset" or PARTS not in name}

    def published(self) -> Publication | None:
        """Return the release if the tag exists with the folder's content, None if there is no such tag."""
        refs = self.api.list_repo_refs(self.repo, repo_type=self.kind)
        commit = next((tag.target_commit for tag in refs.tags if tag.name == self.tag), None)
        if commit is None:
            return None
        difference = make_plan(self.files, self.tree(commit))
        if not difference.empty:
            raise HubError(
                f"{self.repo}: release {self.tag} exists with other content ({difference}); a release never changes: "
                "publish under a new tag"
            )
        return Publication(self.repo, self.tag, commit, self.first_plan or difference, self.first_plan is not None)

    def plan(self, head: str | None) -> Plan:
        """Return the changes to make; raise if they touch foreign files or, without ``overwrite``, published traces."""
        content, remote = CONTENTS[self.kind], self.tree(head)
        foreign = [name for name in remote if name != _ATTRIBUTES and not re.fullmatch(content.paths, name)]
        if foreign:
            raise HubError(
                f"{self.repo}: the repository exists with other content ({first_names(foreign)}): use another one"
            )
        plan = make_plan(self.files, remote)
        changed = [name for name in (*plan.replace, *plan.remove) if not re.fullmatch(content.replaceable, name)]
        if changed and not self.overwrite:
            raise HubError(
                f"{self.repo}: main holds {content.noun} that the folder changes or lacks ({first_names(changed)}); "
                "--overwrite changes main and leaves older releases as they are"
            )
        return plan

    def upload(self, plan: Plan, head: str | None) -> str:
        """Send content, then make it visible in one commit on top of ``head``."""
        adds = [CommitOperationAdd(name, str(self.files[name].path)) for name in (*plan.add, *plan.replace)]
        for done, addition in enumerate(adds, start=1):
            self.api.preupload_lfs_files(self.repo, additions=[addition], repo_type=self.kind)
            self.report(done, len(adds), addition.path_in_repo)
        deletes = [CommitOperationDelete(name) for name in plan.remove]
        commit = self.api.create_commit(
            self.repo, [*adds, *deletes], commit_message=f"Release {self.tag}", repo_type=self.kind, parent_commit=head
        )
        return commit.oid
