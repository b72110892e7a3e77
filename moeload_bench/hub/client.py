"""Requests to the Hugging Face Hub: what a failed one means, when to try again, and files proposed by pull request."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from moeload_bench.errors import HubError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

WRITE_WAITS_S = (2.0, 8.0, 30.0)
READ_WAITS_S = (1.0, 4.0)
"""Waits before each retry of work that failed because of the network or the server."""
_PASSING = (408, 412, 429)
T = TypeVar("T")


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
    said = getattr(error, "server_message", None) or first_line(error)
    if status == 401:
        return "the token in HF_TOKEN (or of `hf auth login`) is not valid"
    if status == 403:
        return f"the token has no permission for this ({said})"
    if status is not None:
        return f"the Hub answered {status}: {said}"
    if isinstance(error, (ValueError, RuntimeError)):
        return " ".join(str(error).split())
    return f"the Hub cannot be reached ({type(error).__name__}: {first_line(error)})"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def propose(
    files: Mapping[str, Path | bytes],
    repo: str,
    title: str,
    description: str = "",
    *,
    remove: Sequence[str] = (),
    api: HfApi | None = None,
) -> str:
    """Open one pull request that adds, replaces or removes files, and return its address. Raises `HubError`."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    check_repo(repo)
    api = api or HfApi()
    check_token(api)
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationAdd(name, content) for name, content in files.items()),
        *(CommitOperationDelete(name) for name in remove),
    ]
    made = explaining_failures(
        repo,
        lambda: api.create_commit(
            repo, operations, commit_message=title, commit_description=description, repo_type="dataset", create_pr=True
        ),
        again="look there whether the pull request was opened before you run it again",
    )
    return str(made.pr_url)


def check_token(api: HfApi) -> str:
    """Return the user that the token belongs to; raise `HubError` if there is none or it is not valid."""
    from huggingface_hub.errors import LocalTokenNotFoundError

    try:
        return str(api.whoami()["name"])
    except LocalTokenNotFoundError:
        raise HubError("no token: set HF_TOKEN to one that may write, or run `hf auth login`") from None
    except request_errors() as error:
        raise HubError(f"{api.endpoint}: {explain(error)}") from None


def explaining_failures(repo: str, work: Callable[[], T], again: str = "run it again") -> T:
    """Return the work's result; raise a failed request as a `HubError` that says what to do (``again``: if it may
    pass).
    """
    try:
        return work()
    except request_errors(RuntimeError, ValueError) as error:
        advice = f"; {again}" if may_pass(error) else ""
        raise HubError(f"{repo}: {explain(cause_of(error))}{advice}") from None


def check_repo(repo: str) -> None:
    """Raise `HubError` unless the text is ORG/NAME."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise HubError(f"got repository {repo!r}, expected ORG/NAME")
