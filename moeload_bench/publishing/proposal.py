"""Traces of others on their way into a dataset repository: the pull request that is opened, and what one is asked.

Of a pull request the names and the declared sizes of its files are looked at first; nothing of it is downloaded that is
no trace, too large, or touches what is published.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from moeload_bench.errors import HubError, TraceError
from moeload_bench.hub.client import check_repo, check_token, explaining_failures, propose
from moeload_bench.publishing.community import FOLDER, PATH, about_of, same_card, with_traces
from moeload_bench.publishing.contribution import (
    MAX_BYTES,
    Contribution,
    check_size,
    contribution_problems,
    known_traces,
)
from moeload_bench.traces.store import TraceRef, data_sha256, read_trace, write_trace

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
MAX_CARD_BYTES = 4 * 2**20
MAX_PULL_BYTES = 4 * MAX_BYTES
"""All traces of one pull request may have."""


class DeclaredFile(NamedTuple):
    """A file of a revision as the Hub lists it."""

    size: int
    content: str


def taken_names(repo: str, api: HfApi) -> set[str]:
    """The names that traces of others have in a repository."""
    files = explaining_failures(repo, lambda: api.list_repo_files(repo, repo_type="dataset"))
    return {found["name"] for name in files if (found := PATH.fullmatch(name))}


def open_contribution(contribution: Contribution, repo: str, api: HfApi) -> str:
    """One pull request with the traces and their rows of the card; returns its address.

    A token that may open pull requests is enough. Raises `HubError`.
    """
    check_repo(repo)
    check_token(api)
    with tempfile.TemporaryDirectory(prefix="moeload-") as folder:
        files: dict[str, Path | bytes] = {}
        sizes = []
        for name, trace in contribution.traces.items():
            path = write_trace(trace, Path(folder) / name)
            files[name] = path
            sizes.append((trace, path.stat().st_size))
        files[CARD] = with_traces(_card(repo, "main", api), sizes).encode()
        about = about_of(sizes[0][0].meta)
        hashes = "\n".join(f"`{trace.id}`: data_sha256 `{data_sha256(trace)}`" for trace, _ in sizes)
        title = f"Contribute {', '.join(f'{FOLDER}/{name}' for name in contribution.recipes)}"
        return propose(files, repo, title, f"{about}\n\n{hashes}", api=api)


def pull_problems(
    repo: str,
    number: int,
    api: HfApi,
    known: Sequence[TraceRef] = (),
    taken: Collection[str] = (),
    heard: Callable[[str], None] = lambda commit: None,
) -> Iterator[str]:
    """Why a pull request of traces cannot be merged, a line for each reason; none when it can.

    Compared with everything that the main branch holds, and with the ``known`` traces. ``heard`` is told the commit
    that all this is said of: what is pushed later is another one. Raises `HubError`.
    """
    check_repo(repo)
    revision = explaining_failures(repo, lambda: _commit(repo, number, api))
    heard(revision)
    added, lines = explaining_failures(repo, lambda: _added(repo, revision, api))
    yield from lines
    if lines:
        return
    with tempfile.TemporaryDirectory(prefix="moeload-") as folder:
        root = Path(folder)
        for name in added:
            explaining_failures(repo, lambda name=name: _fetch(repo, name, revision, api, root))  # type: ignore[misc]
        there = explaining_failures(repo, lambda: api.snapshot_download(
            repo, repo_type="dataset", revision="main", allow_patterns=["*.parquet"]))  # fmt: skip
        everything = [*known_traces([Path(there)]), *known]
        names = {*taken, *taken_names(repo, api)}
        for line in contribution_problems(root / FOLDER, everything, names):
            yield line.replace(f"{root}/", "")
        yield from _wrong_places(root, added)
        yield from _wrong_card(repo, revision, api, root, added)


def _added(repo: str, revision: str, api: HfApi) -> tuple[dict[str, DeclaredFile], list[str]]:
    """The traces that a pull request adds, with what else it does, a line for each; nothing is downloaded."""
    before = _tree(repo, _base(repo, revision, api), api)
    after = _tree(repo, revision, api)
    lines = [f"{name}: removed; a contribution only adds" for name in sorted(before.keys() - after.keys())]
    added = {}
    for name, file in sorted(after.items()):
        if before.get(name) == file:
            continue
        if name == CARD:
            if file.size > MAX_CARD_BYTES:
                lines.append(f"{CARD}: {file.size:,} bytes, a card has at most {MAX_CARD_BYTES:,}")
        elif name in before:
            lines.append(f"{name}: changed; a published file stays what it is")
        elif not PATH.fullmatch(name):
            lines.append(
                f"{name}: no trace; a contribution holds {FOLDER}/NAME/SPLIT/seedN.parquet and its row in {CARD}"
            )
        else:
            added[name] = file
            try:
                check_size(name, file.size)
            except TraceError as error:
                lines.append(str(error))
    total = sum(file.size for file in added.values())
    if total > MAX_PULL_BYTES and not lines:
        lines.append(f"{len(added)} traces: {total:,} bytes, one pull request has at most {MAX_PULL_BYTES:,}")
    if not added and not lines:
        lines.append("no trace is there")
    return added, lines


def _commit(repo: str, number: int, api: HfApi) -> str:
    """The newest commit of a pull request, so that everything is asked of one and the same."""
    return api.list_repo_commits(repo, repo_type="dataset", revision=f"refs/pr/{number}")[0].commit_id


def _base(repo: str, revision: str, api: HfApi) -> str:
    """The last commit of the main branch that a pull request has."""
    main = {commit.commit_id for commit in api.list_repo_commits(repo, repo_type="dataset")}
    for commit in api.list_repo_commits(repo, repo_type="dataset", revision=revision):
        if commit.commit_id in main:
            return commit.commit_id
    raise HubError(f"{repo}: {revision} has no commit of the main branch")


def _tree(repo: str, revision: str, api: HfApi) -> dict[str, DeclaredFile]:
    from huggingface_hub.hf_api import RepoFile

    rows = api.list_repo_tree(repo, recursive=True, revision=revision, repo_type="dataset")
    files = [row for row in rows if isinstance(row, RepoFile)]
    return {file.path: DeclaredFile(file.lfs.size if file.lfs else file.size, file.blob_id) for file in files}


def _fetch(repo: str, name: str, revision: str, api: HfApi, root: Path) -> None:
    api.hf_hub_download(repo, name, repo_type="dataset", revision=revision, local_dir=root)


def _wrong_places(root: Path, names: Mapping[str, DeclaredFile]) -> Iterator[str]:
    for name in names:
        try:
            got = read_trace(root / name, verify=False).id  # asked for its name alone: its content was checked
        except TraceError:
            continue  # refused by its content
        if name != f"{FOLDER}/{got}.parquet":
            yield f"{name}: holds the trace {got}, expected it at {FOLDER}/{got}.parquet"


def _wrong_card(repo: str, revision: str, api: HfApi, root: Path, names: Mapping[str, DeclaredFile]) -> Iterator[str]:
    """The card must be main's with the rows of these traces, which their metadata gives."""
    try:
        traces = [(read_trace(root / name), file.size) for name, file in names.items()]
        expected = with_traces(_card(repo, "main", api), traces)
    except TraceError as error:
        yield f"{CARD}: no row can be made: {error}"
        return
    path = _card_file(repo, revision, api)
    try:
        same = same_card(_card_text(path), expected)
    except HubError as error:
        yield str(error)
        return
    if not same:
        yield f"{CARD}: not the main branch's with a row for each trace; when that has changed, contribute again"


def _card(repo: str, revision: str, api: HfApi) -> str:
    return _card_text(_card_file(repo, revision, api))


def _card_file(repo: str, revision: str, api: HfApi) -> Path:
    return Path(
        explaining_failures(repo, lambda: api.hf_hub_download(repo, CARD, repo_type="dataset", revision=revision))
    )


def _card_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise HubError(f"{CARD}: not text: byte {error.start} is not UTF-8") from None
