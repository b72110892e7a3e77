"""Every exception this package raises on purpose.

MoeloadError
├── TraceError            a trace breaks an invariant of the format
│   └── HashMismatchError the content is not the content that was named
├── NotFoundError         a trace, suite, recipe or forecaster that does not exist
├── SuiteError            a task list that cannot be used
├── TargetError           a forecaster target that cannot be parsed or loaded
├── ForecastError         a forecaster broke its contract: its task fails, others go on
│   └── IsolationError    the child process died, hung, flooded or could not be started
├── RecordingError        a recording that cannot start or go on
│   ├── RecipeError       a recipe that cannot be used
│   ├── InterruptedRecordingError  a recording that was told to stop, and can go on
│   └── DivergedError     a training whose loss is no number any more
├── PlacementError        a cluster shape or cost constant that makes no plan
├── PlotError             a figure that cannot be drawn or written
├── MissingExtraError     an optional dependency is needed
├── HubError              the Hugging Face Hub refused, or does not hold what was named
├── ResultError           a result record that cannot be used
├── SubmissionError       a submission to the leaderboard that cannot be used
└── SeasonError           a season that cannot go on, or does not hold what it committed to
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Any

MOST_CHARACTERS = 80
"""Of a value that a message quotes."""
MOST_LISTED = 40
"""Names that a message lists in full."""


class MoeloadError(Exception):
    """Base of all errors raised on purpose; its message is one line fit for a terminal."""


class TraceError(MoeloadError):
    """A trace breaks an invariant of the format."""


class HashMismatchError(TraceError):
    """The content found is not the content that was named."""


class NotFoundError(MoeloadError):
    """A name that does not exist; the message lists what does."""


class SuiteError(MoeloadError):
    """A task list that cannot be used."""


class TargetError(MoeloadError):
    """A forecaster target that cannot be parsed or loaded."""


class ForecastError(MoeloadError):
    """A forecaster broke its contract; ``rule`` names which rule of `check_forecast`, None for anything else."""

    def __init__(self, message: str, rule: str | None = None) -> None:
        super().__init__(message)
        self.rule = rule


class IsolationError(ForecastError):
    """A forecaster's process died, hung, flooded its pipe or could not be started."""


class RecordingError(MoeloadError):
    """A recording that cannot start or go on."""


class RecipeError(RecordingError):
    """A recipe that cannot be used."""


class InterruptedRecordingError(RecordingError):
    """A recording that was told to stop; all of its steps are on disk and it can go on."""


class DivergedError(RecordingError):
    """A training whose loss is no number any more: with its seed it cannot be recorded."""


class PlacementError(MoeloadError):
    """A cluster shape or cost constant that makes no plan."""


class PlotError(MoeloadError):
    """A figure that cannot be drawn or written."""


class HubError(MoeloadError):
    """The Hub refused, cannot be reached, or does not hold what was named."""


class ResultError(MoeloadError):
    """A result record that cannot be used."""


class SubmissionError(MoeloadError):
    """A submission to the leaderboard that cannot be used."""


class SeasonError(MoeloadError):
    """A season that cannot go on, or does not hold what it committed to."""


class MissingExtraError(MoeloadError):
    """An optional dependency is needed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed: pip install 'moeload-bench[{extra}]'"
        )
        self._made_of = (package, extra, purpose)

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        """Return how to make it again: errors come back from other processes pickled."""
        return type(self), self._made_of


def not_found(kind: str, got: str, names: Iterable[str]) -> NotFoundError:
    """Return one line that says what was asked for and what exists instead."""
    return NotFoundError(f"unknown {kind} {short(got)}; {_existing(got, sorted(names))}")


def _existing(got: str, names: Sequence[str]) -> str:
    """Return all names if they are few, else those most like what was asked for."""
    if len(names) <= MOST_LISTED:
        return f"there is: {', '.join(names) or 'none'}"
    close = difflib.get_close_matches(got, names, 5, 0.4) or names[:5]
    return f"of {len(names)} the closest: {', '.join(close)}"


def first_ten(values: Iterable[object]) -> str:
    """Return values in one line: the first ten, and how many more there are."""
    texts = [str(value) for value in values]
    more = f" and {len(texts) - 10:,} more" if len(texts) > 10 else ""
    return ", ".join(texts[:10]) + more


def short(value: object) -> str:
    """Return a value for a message in at most some 80 characters; of an array its shape, dtype and first values."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        array: Any = value
        first = ", ".join(f"{item}" for item in array.reshape(-1)[:3].tolist())
        return f"an array of shape {tuple(array.shape)}, {array.dtype}, {first}{', ...' if array.size > 3 else ''}"
    text = repr(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 20]}... ({len(text):,} characters)"


def counted(number: int, noun: str) -> str:
    """Return `1 expert`, `1,200 experts`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """Return the text with everything that would move a terminal's cursor, or begin a line of a log, as an escape.

    A message may quote what a stranger wrote: names of files and of fields, and what their code raised. The escapes are
    those of JSON, so that a document stays one; tabs stay.
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    if char.isprintable() or char == "\t":
        return char
    return "\\u007f" if char == "\x7f" else json.dumps(char)[1:-1]
