"""How a training is recorded: the options that `record`, `LoadRecorder` and `Recorder` have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, TypedDict, get_args

from moeload_bench.errors import not_found
from moeload_bench.recording.counting import Counted, Reduce
from moeload_bench.recording.routers import Adapter
from moeload_bench.recording.writer import Row
from moeload_bench.traces.meta import TraceMeta

OnError = Literal["warn", "raise"]
IfExists = Literal["error", "number", "overwrite"]


class Monitor(Protocol):
    """An observer of a run that is recorded (`moeload_bench.LoadMonitor`); it runs on the first rank only."""

    def add(self, row: Row, meta: Callable[[], TraceMeta]) -> None:
        """Take a closed step: `step`, `tokens` [L], `load` [L, E], optional columns. ``meta`` returns the trace's
        metadata.
        """

    def recall(self, rows: Iterator[Row], meta: Callable[[], TraceMeta]) -> None:
        """Take the steps of a resumed run that are on disk, all of them closed, before its first new step."""

    def close(self) -> None:
        """Take note that training is over, or broke off."""


class RecordOptions(TypedDict, total=False):
    """Options of a recording; one that is left out has its value in `DEFAULTS`.

    ``adapters`` maps router classes to functions that read them. ``reduce`` (`rank_sum` by default) sums loads over
    the data-parallel ranks. ``on_error`` "warn" never stops training: the first error becomes a warning, recording
    ends there (on all ranks), and the trace is marked as cut short; "raise" raises it. Steps go to disk every
    ``shard_steps`` steps, and at least once a minute. ``count`` "attended" leaves out tokens that the attention mask
    hides (padding). ``layers`` are the blocks to record, for models whose layers differ in experts.
    ``imbalance_rank`` and ``micro_max`` add the columns of these names. ``monitor`` observes the run on the first rank.
    ``routing_steps``: at most 64 steps of which each token's experts and their weights are kept, in a file for each
    step and rank in the folder `seedRUN.routing` beside the trace.
    """

    adapters: dict[type, Adapter] | None
    reduce: Reduce | None
    on_error: OnError
    shard_steps: int
    count: Counted
    layers: Sequence[int] | None
    imbalance_rank: bool
    micro_max: bool
    monitor: Monitor | None
    routing_steps: Sequence[int]


DEFAULTS = RecordOptions(
    adapters=None,
    reduce=None,
    on_error="warn",
    shard_steps=250,
    count="all",
    layers=None,
    imbalance_rank=False,
    micro_max=False,
    monitor=None,
    routing_steps=(),
)


def complete_options(options: RecordOptions) -> RecordOptions:
    """Return the options with a value for each; raise `NotFoundError` for another name, or another word."""
    for name in options:
        if name not in DEFAULTS:
            raise not_found("option", name, DEFAULTS)
    complete: RecordOptions = {**DEFAULTS, **options}
    check_word("on_error", complete["on_error"], OnError)
    check_word("count", complete["count"], Counted)
    return complete


def check_word(argument: str, word: str, words: Any) -> None:
    """Raise `NotFoundError` for a word that is none of these: a mistyped "raise" would turn errors into warnings."""
    if word not in get_args(words):
        raise not_found(argument, word, get_args(words))
