"""Check a submission's name: it must be free, or its authors' own, and look like no other name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from moeload_bench.errors import SubmissionError
from moeload_bench.isolation.targets import baseline_names
from moeload_bench.schema import load_toml
from moeload_bench.submissions.folder import RECORD
from moeload_bench.submissions.record import Submission

_PLACE = re.compile(r"submissions/([^/]+)/")
"""Where a submission lies below the root of a leaderboard."""
_LOOKS = str.maketrans("015i._", "olsl--")


def look_of(name: str) -> str:
    """Return what names that are easily confused have in common: `sw_avg` and `5w-avg`, `arima` and `ar1ma`."""
    return name.translate(_LOOKS)


def refuse_lookalike(name: str, others: Iterable[str]) -> None:
    """Raise `SubmissionError` if a name differs from another one, or from a baseline's, only in its looks."""
    for other in sorted({*others, *baseline_names()} - {name}):
        if look_of(other) == look_of(name):
            raise SubmissionError(f"the name {name!r} is too like {other!r}, which is taken: choose another --name")


def check_owner(existing: str, record: Submission, where: str) -> None:
    """Raise `SubmissionError` if a name is taken by other authors; the same authors can use it again.

    ``existing`` is the text of the other submission.toml.
    """
    try:
        authors = load_toml(existing).get("authors")
    except (ValueError, RecursionError):
        authors = None
    if authors != record.authors:
        raise SubmissionError(f"{where}: the name {record.name!r} is taken by other authors: choose another --name")


def check_name(record: Submission, root: Path) -> None:
    """Run `refuse_lookalike` and `check_owner` against the submissions below a local root of a leaderboard."""
    there = [path.relative_to(root).as_posix() for path in records_below(root)]
    refuse_lookalike(record.name, names_in(there))
    for taken in records_of(there, record.name):
        check_owner((root / taken).read_bytes().decode("utf-8", "replace"), record, str(root))


def records_below(root: Path) -> list[Path]:
    """Return the records of all submissions below a local root of a leaderboard."""
    return sorted(root.glob(f"submissions/*/{RECORD}"))


def names_in(paths: Iterable[str]) -> list[str]:
    """Return the names of submissions in a list of paths below the root of a leaderboard."""
    found = (_PLACE.match(path) for path in paths)
    return sorted({match[1] for match in found if match})


def records_of(paths: Iterable[str], name: str) -> list[str]:
    """Return those of the paths that are the record of a submission of this name."""
    found = ((path, _PLACE.match(path)) for path in paths if path.endswith(f"/{RECORD}"))
    return [path for path, match in found if match and match[1] == name]
