"""A public value that nobody could choose: the hash of a project's first source distribution after a moment.

It is read from the JSON page of a Python package index (PEP 691, with upload times as PEP 700 has them): the one that
pip is configured with. Times are compared in whole seconds, ties go by file name, and files that were yanked count.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import IO, Any

from pydantic import Field, ValidationError

from moeload_bench.bounds import parse_json
from moeload_bench.errors import SeasonError, printable
from moeload_bench.schema import Schema, first_problem

MOST_BYTES = 64 << 20
TIMEOUT_S = 60
KNOWN = 3
"""Releases that a season stores when it opens; an index that disagrees with one of them draws nothing."""
_PAGE = "application/vnd.pypi.simple.v1+json"
_DEFAULT = re.compile(r"--index-url <url>.*?\(default (\S+?)\)")


class Release(Schema):
    """A source distribution as an index lists it; ``uploaded`` in whole seconds."""

    uploaded: datetime
    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}\.tar\.gz$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @property
    def order(self) -> tuple[datetime, str]:
        """Return what releases are ordered by."""
        return self.uploaded, self.file


def listed_releases(project: str, index: str | None = None) -> list[Release]:
    """Return the source distributions that an index lists, oldest first; ``index``: its address, pip's own if None.

    Raise `SeasonError` where there is no index, it cannot be read, or its page is none.
    """
    return releases_of(index_page(index or configured_index(), project), project)


def configured_index() -> str:
    """Return the address of the index that pip is configured with, as its help states it."""
    words = [sys.executable, "-m", "pip", "download", "--help"]
    text = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "400"})
    match = _DEFAULT.search(" ".join(text.stdout.split()))
    if match is None:
        raise SeasonError("pip names no index here, expected one; `season draw --index ADDRESS` names it")
    return match[1]


def index_page(index: str, project: str) -> bytes:
    """Return what an index says of a project; raise `SeasonError` where it cannot be read."""
    address = f"{index.rstrip('/')}/{project}/"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(address, headers={"Accept": _PAGE}), timeout=TIMEOUT_S
        ) as answer:
            page = _read_in_time(answer)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise SeasonError(f"project {project} cannot be read from the index: {printable(str(error))}") from None
    if len(page) > MOST_BYTES:
        raise SeasonError(f"the index's page of {project} has more than {MOST_BYTES} bytes")
    return page


def _read_in_time(answer: IO[bytes]) -> bytes:
    """Return at most MOST_BYTES + 1 bytes; raise `TimeoutError` for a page that drips in for longer than TIMEOUT_S."""
    ends, parts, size = time.monotonic() + TIMEOUT_S, list[bytes](), 0
    while size <= MOST_BYTES and (part := answer.read1(1 << 20)):  # type: ignore[attr-defined]
        parts.append(part)
        size += len(part)
        if time.monotonic() > ends:
            raise TimeoutError(f"no whole page in {TIMEOUT_S} s")
    return b"".join(parts)


def releases_of(page: bytes, project: str) -> list[Release]:
    """Return the source distributions on a page, oldest first.

    Raise `SeasonError` for what is no such page, lacks the upload time or hash of one, or lists a file twice.
    """
    try:
        data: Any = parse_json(page)
        files = [file for file in data["files"] if str(file["filename"]).endswith(".tar.gz")]
        releases = [_release(file) for file in files]
    except ValidationError as error:
        raise SeasonError(f"the index's page of {project}: {first_problem(error, 'file')}") from None
    except (KeyError, TypeError, ValueError, json.JSONDecodeError) as error:
        raise SeasonError(
            f"the index's page of {project}: {type(error).__name__} {printable(str(error))}, expected JSON with files, "
            "each with filename, upload-time and hashes.sha256 (PEP 700)"
        ) from None
    twice = [name for name, times in Counter(release.file for release in releases).items() if times > 1]
    if twice:
        raise SeasonError(f"the index's page of {project} lists {twice[0]} twice, expected each file once")
    return sorted(releases, key=lambda release: release.order)


def _release(file: dict[str, Any]) -> Release:
    uploaded = datetime.fromisoformat(file["upload-time"]).replace(microsecond=0)
    if uploaded.tzinfo is None:
        raise ValueError(f"upload-time {file['upload-time']!r} without a zone")
    return Release(uploaded=uploaded, file=file["filename"], sha256=file["hashes"]["sha256"])


def newest_before(releases: Iterable[Release], moment: datetime) -> tuple[Release, ...]:
    """Return the newest releases before a moment, oldest first; raise `SeasonError` where there are too few."""
    older = [release for release in releases if release.uploaded < moment]
    if len(older) < KNOWN:
        raise SeasonError(f"the index lists {len(older)} releases before {moment:%Y-%m-%d}, expected {KNOWN} or more")
    return tuple(older[-KNOWN:])


def first_release(releases: Sequence[Release], listed: Sequence[Release], moment: datetime) -> tuple[Release, ...]:
    """Return the first release at or after a moment, which draws, and the next that is later.

    Raise `SeasonError` where the list lacks one of ``listed`` or has it otherwise, and until both releases are listed.
    """
    for release in listed:
        if release not in releases:
            raise SeasonError(
                f"the index disagrees with season.toml about {release.file}, uploaded {release.uploaded:%Y-%m-%d}"
            )
    after = [release for release in releases if release.uploaded >= moment]
    if not after:
        raise SeasonError(f"the index lists no release at or after {moment:%Y-%m-%d %H:%M} yet: draw later")
    following = [release for release in after if release.uploaded > after[0].uploaded]
    if not following:
        raise SeasonError(
            f"the index lists {after[0].file} and nothing after it, so it may lag behind an earlier one: draw later"
        )
    return after[0], following[0]
