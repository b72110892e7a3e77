"""Publish a folder of traces as a dataset repository, or a forecaster's weights or the site as one of their kind.

A release is a tag. First all content is uploaded; it is addressed by its hash, so an interrupted upload continues where
it stopped. Then one commit makes it visible, and its tree is compared with the folder. Only then the tag is set, so a
tag that exists is complete; it is never moved. Of weights and site only files that this package writes are sent, and a
repository with others is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from moeload_bench.errors import HubError
from moeload_bench.hub.client import check_repo, check_token, explaining_failures, with_retries
from moeload_bench.publishing.card import check_card
from moeload_bench.publishing.release import (
    HUB_OWN,
    PARTS,
    LocalFile,
    Plan,
    RemoteFile,
    collect_files,
    first_names,
    is_document,
    is_trace,
    local_file,
    make_plan,
)
from moeload_bench.words import Progress, silent

TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
Kind = Literal["dataset", "model", "space"]


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
    if not TAG.fullmatch(tag) or tag == "main":
        raise HubError(f"got tag {tag!r}, expected a name such as v1.0")
    check_repo(repo)
    made = KINDS[kind]
    files = made.collect(Path(folder))
    return made(api or HfApi(), repo, tag, files, private, overwrite, report).run(dry_run)


@dataclass
class Release:
    """One folder on its way to one tag; every attempt starts from what the Hub holds at that time."""

    api: HfApi
    repo: str
    tag: str
    files: Mapping[str, LocalFile]
    private: bool
    overwrite: bool
    report: Progress
    started: Plan | None = None
    kind: ClassVar[Kind] = "dataset"
    holds: ClassVar[str] = "traces"

    @classmethod
    def collect(cls, folder: Path) -> dict[str, LocalFile]:
        """Return the files to publish by path; raise `HubError` for a folder that is not of this kind."""
        files = collect_files(folder)
        check_card(folder)
        return files

    def run(self, dry_run: bool) -> Publication:
        """Publish, or say what would be done."""
        if dry_run:
            return explaining_failures(self.repo, self.rehearse)
        check_token(self.api)
        return explaining_failures(
            self.repo, lambda: with_retries(self.attempt), again="run it again to continue from here"
        )

    def is_others(self, name: str) -> bool:
        """Return whether a path is left alone: that of a recording in progress."""
        return PARTS in name

    def is_foreign(self, name: str) -> bool:
        """Return whether a path says that the repository is something else: this package would never write it."""
        return not (is_trace(name) or is_document(name) or name == HUB_OWN)

    def is_guarded(self, name: str) -> bool:
        """Return whether a path changes only with ``overwrite``."""
        return is_trace(name)

    def rehearse(self) -> Publication:
        """Return what `attempt` would do; send nothing."""
        head = self.head()
        done = self.finished() if head else None
        if done is not None:
            return replace(done, dry_run=True)
        plan = self.plan(head)
        return Publication(self.repo, self.tag, head, plan, tagged=False, dry_run=True)

    def attempt(self) -> Publication:
        head = self.head()
        if head is None:
            sdk = "static" if self.kind == "space" else None
            self.api.create_repo(self.repo, repo_type=self.kind, private=self.private, exist_ok=True, space_sdk=sdk)
            head = self.head()
        done = self.finished()
        if done is not None:
            return done
        plan = self.plan(head)
        self.started = self.started or plan
        commit = head if plan.empty else self.upload(plan, head)
        left = make_plan(self.files, self.tree(commit))
        if not left.empty:
            raise HubError(
                f"{self.repo}: after the upload the Hub holds other content than the folder ({left}): no tag"
            )
        self.api.create_tag(self.repo, tag=self.tag, revision=commit, repo_type=self.kind)
        return Publication(self.repo, self.tag, commit, self.started, tagged=True)

    def head(self) -> str | None:
        """Return the last commit of main, None if the repository does not exist."""
        try:
            info = self.api.repo_info(self.repo, repo_type=self.kind)
        except RepositoryNotFoundError:
            return None
        if self.private and not info.private:
            raise HubError(f"{self.repo}: the repository exists and is public; --private is for a new one")
        return info.sha

    def tree(self, commit: str | None) -> dict[str, RemoteFile]:
        if commit is None:
            return {}
        rows = self.api.list_repo_tree(self.repo, recursive=True, revision=commit, repo_type=self.kind)
        files = [row for row in rows if isinstance(row, RepoFile) and not self.is_others(row.path)]
        return {file.path: RemoteFile(file.lfs.sha256 if file.lfs else None, file.blob_id) for file in files}

    def finished(self) -> Publication | None:
        """Return the release if the tag exists with the folder's content, None if there is no such tag."""
        refs = self.api.list_repo_refs(self.repo, repo_type=self.kind)
        commit = next((tag.target_commit for tag in refs.tags if tag.name == self.tag), None)
        if commit is None:
            return None
        differs = make_plan(self.files, self.tree(commit))
        if not differs.empty:
            raise HubError(
                f"{self.repo}: release {self.tag} exists with other content ({differs}); a release never changes: "
                "publish under a new tag"
            )
        return Publication(self.repo, self.tag, commit, self.started or differs, tagged=self.started is not None)

    def plan(self, head: str | None) -> Plan:
        """Return the changes to make; raise if they touch foreign files or, without ``overwrite``, published traces."""
        remote = self.tree(head)
        foreign = [name for name in remote if self.is_foreign(name)]
        if foreign:
            raise HubError(
                f"{self.repo}: the repository exists with other content ({first_names(foreign)}): use another one"
            )
        plan = make_plan(self.files, remote)
        touched = [name for name in (*plan.replace, *plan.remove) if self.is_guarded(name)]
        if touched and not self.overwrite:
            raise HubError(
                f"{self.repo}: main holds {self.holds} that the folder changes or lacks ({first_names(touched)}); "
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


class _Site(Release):
    """A static Space: its front matter is that of README.md."""

    kind: ClassVar[Kind] = "space"
    holds: ClassVar[str] = "files"
    allowed: ClassVar[str] = r"\.nojekyll|(?:[\w-][\w.-]*/)*[\w-][\w.-]*"
    needed: ClassVar[tuple[str, ...]] = ("README.md", "index.html")

    @classmethod
    def collect(cls, folder: Path) -> dict[str, LocalFile]:
        """Return the folder's files by path."""
        if not folder.is_dir():
            raise HubError(f"{folder}: no such folder")
        paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        wrong = [name for name in paths if not re.fullmatch(cls.allowed, name)]
        missing = [name for name in cls.needed if name not in paths]
        if wrong or missing:
            got = f"got {first_names(wrong)}" if wrong else f"{', '.join(missing)} missing"
            raise HubError(f"{folder}: not a {cls.kind} repository of this project: {got}")
        return {name: local_file(path) for name, path in paths.items()}

    def is_others(self, name: str) -> bool:
        """Return whether a path is left alone: none is."""
        return False

    def is_foreign(self, name: str) -> bool:
        """Return whether a path says that the repository is something else."""
        return name != HUB_OWN and not re.fullmatch(self.allowed, name)

    def is_guarded(self, name: str) -> bool:
        """Return whether a path changes only with ``overwrite``: the Hub's own card of a new repository does not."""
        return name not in ("README.md", "index.html", "style.css")


class _Model(_Site):
    """Weights in safetensors with their card; no pickle and no code."""

    kind: ClassVar[Kind] = "model"
    allowed: ClassVar[str] = r"README\.md|LICENSE|model\.safetensors|\.eval_results/[\w.-]+\.yaml"
    needed: ClassVar[tuple[str, ...]] = ("README.md", "model.safetensors")


KINDS: Mapping[Kind, type[Release]] = {"dataset": Release, "model": _Model, "space": _Site}
