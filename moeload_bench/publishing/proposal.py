"""Traces of others on their way into a dataset repository: the pull request that is opened."""

from __future__ import annotations

import tempfile
from pathlib import Path

from huggingface_hub import HfApi

from moeload_bench.errors import HubError
from moeload_bench.hub.client import check_repo, check_token, explaining_failures, propose
from moeload_bench.publishing.community import FOLDER, PATH, about_of, with_traces
from moeload_bench.publishing.contribution import Contribution
from moeload_bench.traces.store import data_sha256, write_trace

CARD = "README.md"


def taken_names(repo: str, api: HfApi) -> set[str]:
    """Return the names that traces of others have in a repository."""
    files = explaining_failures(repo, lambda: api.list_repo_files(repo, repo_type="dataset"))
    return {found["name"] for name in files if (found := PATH.fullmatch(name))}


def open_contribution(contribution: Contribution, repo: str, api: HfApi) -> str:
    """Open one pull request with the traces and their rows of the card; return its address.

    A token that may open pull requests is enough. Raise `HubError`.
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
        files[CARD] = with_traces(card_of(repo, "main", api), sizes).encode()
        about = about_of(sizes[0][0].meta)
        hashes = "\n".join(f"`{trace.id}`: data_sha256 `{data_sha256(trace)}`" for trace, _ in sizes)
        title = f"Contribute {', '.join(f'{FOLDER}/{name}' for name in contribution.recipes)}"
        return propose(files, repo, title, f"{about}\n\n{hashes}", api=api)


def card_of(repo: str, revision: str, api: HfApi) -> str:
    """Return the text of the card at a revision; raises `HubError`."""
    return card_text(card_file(repo, revision, api))


def card_file(repo: str, revision: str, api: HfApi) -> Path:
    """Download the card of a revision."""
    return Path(
        explaining_failures(repo, lambda: api.hf_hub_download(repo, CARD, repo_type="dataset", revision=revision))
    )


def card_text(path: Path) -> str:
    """Return what a card says; raises `HubError` for one that is not text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise HubError(f"{CARD}: not text: byte {error.start} is not UTF-8") from None
