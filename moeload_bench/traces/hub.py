"""The Hugging Face Hub: which repository and tag hold a trace, its file in the cache, and what a failed request means.

Places are looked up in this order: the one that the caller names (a suite's own), `$MOELOAD_HUB` (`ORG/NAME@TAG`), then
those that the suites in the package pin. `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE` are read by
huggingface_hub and mean what they mean there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from moeload_bench.errors import HashMismatchError, HubError
from moeload_bench.files import PACKAGE

if TYPE_CHECKING:
    from huggingface_hub import HfApi

HUB_ENV = "MOELOAD_HUB"
MAX_FILE_BYTES = 16 << 30
_WORD = r'(W/)?"?[\w+:=-]{1,200}"?'
_PLAIN = {
    "etag": _WORD,
    "x-linked-etag": _WORD,
    "x-repo-commit": "[0-9a-f]{40,64}",
    "x-linked-size": r"\d{1,18}",
    "content-length": r"\d{1,18}",
}
"""What the headers that the client acts on may be."""
WRITE_WAITS_S = (2.0, 8.0, 30.0)
READ_WAITS_S = (1.0, 4.0)
"""Waits before each retry of work that failed because of the network or the server."""
_PASSING = (408, 412, 429)
T = TypeVar("T")


class HubPin(NamedTuple):
    """A place that holds a trace: repository, tag, and the content hash that a suite was frozen with (None: any)."""

    repo: str
    revision: str
    data_sha256: str | None = None
    suite: str | None = None

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"


class HubFile(NamedTuple):
    """A trace's file in the cache and the place it came from."""

    path: Path
    pin: HubPin


def parse_place(text: str) -> HubPin:
    """Return `ORG/NAME@TAG` as a place; raise `HubError` for anything else, also for a repository without a tag."""
    repo, _, revision = text.partition("@")
    if repo.count("/") != 1 or not all(repo.split("/")) or not revision:
        raise HubError(f"got Hub place {text!r}, expected ORG/NAME@TAG: only a tag says which release is meant")
    return HubPin(repo, revision)


def pins_for(trace_id: str, hub: tuple[str, str] | None = None) -> list[HubPin]:
    """Return where a trace may be, in the order to try; ``hub``: (repository, tag) of the suite that asks."""
    places = [HubPin(*hub)] if hub else []
    if os.environ.get(HUB_ENV):
        places.append(parse_place(os.environ[HUB_ENV]))
    return [*places, *(pin for name, pin in suite_pins() if name == trace_id)]


def suite_pins() -> Iterator[tuple[str, HubPin]]:
    """Yield (trace id, place) for every trace of the package's suites that name a repository."""
    for path in sorted((PACKAGE / "suites").glob("*.toml")):
        suite: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        if "hub" not in suite:
            continue
        for entry in (*suite.get("traces", ()), *suite.get("fit", ())):
            pin = HubPin(suite["hub"]["repo"], suite["hub"]["revision"], entry["data_sha256"], suite["name"])
            yield entry["id"], pin


def release_order(place: tuple[str, str]) -> tuple[str, list[int]]:
    """Return what sorts a repository's tags: by the numbers in them, v0.10.0 after v0.9.0."""
    repo, tag = place
    return repo, [int(number) for number in re.findall(r"\d+", tag)]


def fetch_trace(
    trace_id: str, hub: tuple[str, str] | None = None, *, api: HfApi | None = None, cache_dir: str | Path | None = None
) -> HubFile | None:
    """Download a trace, or find it in the cache; return None if no place holds it.

    The second use works offline. Raise `HubError` if a place that should hold it cannot be used: no network and nothing
    cached, no such repository or tag, no permission.
    """
    for pin in pins_for(trace_id, hub):
        path = download(pin, f"{trace_id}.parquet", api=api, cache_dir=cache_dir)
        if path is not None:
            return HubFile(path, pin)
    return None


def download(
    pin: HubPin, filename: str, *, api: HfApi | None = None, cache_dir: str | Path | None = None
) -> Path | None:
    """Return one file of a release in the local cache; None if the release does not hold it.

    Raise `HubError`; raise `HashMismatchError` if the file's content does not match the hash that the Hub gave it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    api = api or HfApi()
    try:
        path = with_retries(lambda: _get(api, pin, filename, cache_dir), READ_WAITS_S)
    except LocalEntryNotFoundError as error:
        cause = error.__cause__ or error
        raise HubError(
            f"{pin}: {filename} is not in the local cache and the Hub cannot be reached ({type(cause).__name__}: "
            f"{first_line(cause)}); connect once, or put the file into a folder of $MOELOAD_TRACES"
        ) from None
    except EntryNotFoundError:
        return None
    except RepositoryNotFoundError:
        raise HubError(
            f"{pin.repo}: no such dataset repository at {api.endpoint}, or it is private and HF_TOKEN does not open it"
        ) from None
    except RevisionNotFoundError:
        raise HubError(f"{pin.repo}: no release {pin.revision!r}; there is: {_tags(api, pin.repo)}") from None
    except request_errors() as error:
        raise HubError(f"{pin}: cannot download {filename}: {explain(error)}") from None
    _check_blob(path)
    return path


def _get(api: HfApi, pin: HubPin, filename: str, cache_dir: str | Path | None) -> Path:
    with _answers_checked():
        return Path(
            api.hf_hub_download(pin.repo, filename, repo_type="dataset", revision=pin.revision, cache_dir=cache_dir)
        )


@contextmanager
def _answers_checked() -> Iterator[None]:
    """Look at each answer of the server before the client does: it names files of its cache by what answers say.

    Raise `HubError` for an ETag or a commit that is no plain word (`../` would lead out of the cache), and for a body
    without its length or with more than the file's size: the client would write on until the disk is full.
    """
    from huggingface_hub import get_session

    size = MAX_FILE_BYTES

    def check(answer: Any) -> None:
        nonlocal size
        for name, form in _PLAIN.items():
            text = answer.headers.get(name)
            if text is not None and not re.fullmatch(form, text, re.ASCII):
                raise HubError(f"{answer.request.url.host}: the answer's {name} is {text[:80]!r}, expected {form}")
        length = answer.headers.get("content-length")
        if answer.request.method == "HEAD":
            size = int(answer.headers.get("x-linked-size", length or MAX_FILE_BYTES))
            wrong = size > MAX_FILE_BYTES
        else:
            body = answer.is_success and not answer.request.url.path.startswith("/api/")
            wrong = body and (length is None or int(length) > size or "content-encoding" in answer.headers)
        if wrong:
            raise HubError(
                f"{answer.request.url.host}: the answer has {length or 'no stated number of'} bytes, expected at most "
                f"{min(size, MAX_FILE_BYTES)}, the file's size, and not compressed"
            )

    session = get_session()
    before = session.event_hooks
    session.event_hooks = {**before, "response": [*before["response"], check]}
    try:
        yield
    finally:
        session.event_hooks = before


def _check_blob(path: Path) -> None:
    """Check a cached file's SHA-256: the cache names large files by it, but the client never compares it."""
    blob = path.resolve()
    if not re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return
    got = hashlib.sha256(blob.read_bytes()).hexdigest()
    if got != blob.name:
        raise HashMismatchError(
            f"{path}: sha256 is {got}, the Hub says {blob.name}: remove {blob} to download it again"
        )


def _tags(api: HfApi, repo: str) -> str:
    """Return the releases of a repository, as text for a message."""
    try:
        names = sorted(tag.name for tag in api.list_repo_refs(repo, repo_type="dataset").tags)
    except request_errors():
        return "unknown (the Hub did not answer)"
    return ", ".join(names) if names else "none (a release is tagged once all its files are there)"


# ---------------------------------------------------------------- requests that fail


def with_retries(work: Callable[[], T], waits_s: Sequence[float] = WRITE_WAITS_S) -> T:
    """Do the work, and repeat it after failures that pass; the work must be safe to repeat."""
    for wait_s in waits_s:
        try:
            return work()
        except request_errors(RuntimeError, json.JSONDecodeError) as error:
            if not may_pass(error):
                raise
            time.sleep(wait_s)
    return work()


def may_pass(error: BaseException) -> bool:
    """Return whether a retry can help: lost connections, overload, a commit by somebody else in between."""
    cause = cause_of(error)
    if isinstance(cause, (FileNotFoundError, PermissionError)):
        return False
    if isinstance(cause, ValueError) and not isinstance(cause, json.JSONDecodeError):
        return False
    status = getattr(getattr(cause, "response", None), "status_code", None)
    return status is None or status >= 500 or status in _PASSING


def cause_of(error: BaseException) -> BaseException:
    """Return the failed request behind an error that the client's upload threads wrapped."""
    return error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error


def request_errors(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """Return the exceptions that the Hub's client raises for a failed request, answered or not, and ``more``."""
    from huggingface_hub import errors

    # huggingface_hub 1 is built on httpx, 2 on httpx2: both offer the base class under this name
    return (errors.HTTPError, OSError, *more)  # type: ignore[attr-defined]


def explain(error: BaseException) -> str:
    """Return one line that says what a failed request means for the user; it never holds a token."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    message = getattr(error, "server_message", None) or first_line(error)
    if status == 401:
        return "the token in HF_TOKEN (or of `hf auth login`) is not valid"
    if status == 403:
        return f"the token has no permission for this ({message})"
    if status is not None:
        return f"the Hub answered {status}: {message}"
    if isinstance(error, (ValueError, RuntimeError)):
        return " ".join(str(error).split())
    return f"the Hub cannot be reached ({type(error).__name__}: {first_line(error)})"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def check_token(api: HfApi) -> None:
    """Raise `HubError` if there is no token or it is not valid."""
    from huggingface_hub.errors import LocalTokenNotFoundError

    try:
        api.whoami()
    except LocalTokenNotFoundError:
        raise HubError("no token: set HF_TOKEN to one that may write, or run `hf auth login`") from None
    except request_errors() as error:
        raise HubError(f"{api.endpoint}: {explain(error)}") from None


def hub_request(place: str, work: Callable[[], T], again: str = "run it again") -> T:
    """Return the work's result; raise a failed request as a `HubError`, with ``again`` if the failure may pass."""
    try:
        return work()
    except request_errors(RuntimeError, ValueError) as error:
        advice = f"; {again}" if may_pass(error) else ""
        raise HubError(f"{place}: {explain(cause_of(error))}{advice}") from None
