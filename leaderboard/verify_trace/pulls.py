"""What a pull request of traces is asked before it is merged.

The names and the declared sizes of its files are looked at first; nothing of it is downloaded that is no trace, too
large, or touches what is published.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile

from leaderboard.verify_trace.problems import contribution_problems
from moeload_bench.errors import HubError, TraceError
from moeload_bench.hub.client import check_repo, explaining_failures
from moeload_bench.publishing.community import FOLDER, PATH, same_card, with_traces
from moeload_bench.publishing.contribution import MAX_BYTES, check_size, known_traces
from moeload_bench.publishing.proposal import CARD, card_file, card_of, card_text, taken_names
from moeload_bench.traces.store import TraceRef, read_trace

MAX_CARD_BYTES = 4 * 2**20
MAX_PULL_BYTES = 4 * MAX_BYTES
"""All traces of one pull request may have."""


class DeclaredFile(NamedTuple):
    """A file of a revision as the Hub lists it."""

    size: int
    content: str


def newest_commit(repo: str, number: int, api: HfApi) -> str:
    """Return the newest commit of a pull request, of which everything is asked; raise `HubError`."""
    check_repo(repo)
    commits = explaining_failures(
        repo, lambda: api.list_repo_commits(repo, repo_type="dataset", revision=f"refs/pr/{number}")
    )
    return str(commits[0].commit_id)


def pull_problems(
    repo: str, revision: str, api: HfApi, known: Sequence[TraceRef] = (), taken: Collection[str] = ()
) -> Iterator[str]:
    """Say why a pull request of traces cannot be merged at a commit, a line for each reason; none when it can.

    Compared with everything that the main branch holds, and with the ``known`` traces. Raises `HubError`.
    """
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
    """Return the traces that a pull request adds, with what else it does, a line for each; nothing is downloaded."""
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
                f"{name}: not a trace; a contribution holds {FOLDER}/NAME/SPLIT/seedN.parquet and its row in {CARD}"
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


def _base(repo: str, revision: str, api: HfApi) -> str:
    """Return the last commit of the main branch that a pull request has."""
    main = {commit.commit_id for commit in api.list_repo_commits(repo, repo_type="dataset")}
    for commit in api.list_repo_commits(repo, repo_type="dataset", revision=revision):
        if commit.commit_id in main:
            return commit.commit_id
    raise HubError(f"{repo}: {revision} has no commit of the main branch")


def _tree(repo: str, revision: str, api: HfApi) -> dict[str, DeclaredFile]:
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
    """Say where the card is not main's with the rows of these traces, which their metadata gives."""
    try:
        traces = [(read_trace(root / name), file.size) for name, file in names.items()]
        expected = with_traces(card_of(repo, "main", api), traces)
    except TraceError as error:
        yield f"{CARD}: no row can be made: {error}"
        return
    path = card_file(repo, revision, api)
    try:
        same = same_card(card_text(path), expected)
    except HubError as error:
        yield str(error)
        return
    if not same:
        yield f"{CARD}: not the main branch's with a row for each trace; when that has changed, contribute again"
