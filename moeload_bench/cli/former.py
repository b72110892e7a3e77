"""Spellings of version 0.1, each as the command that took its place: they run for one release."""

from __future__ import annotations

from collections.abc import Sequence

from moeload_bench.cli.progress import say
from moeload_bench.errors import NotFoundError

FORMER = {
    "merge": "import merge",
    "permute": "export checkpoint",
    "plot": "export figure",
    "corpora": "recipes corpora",
    "rescore": "run",
    "capacity": "inspect --capacity",
    "report": "inspect",
    "traces show --meta": "traces meta",
    "traces show --wide": "inspect --details",
    "traces show": "inspect",
    "watch --once": "inspect",
    "watch": "inspect --follow",
}
"""What begins a call, with an option that it may hold anywhere, and what begins it now; the other words stay."""

CLUSTER = (
    *("--devices", "--slots", "--nodes", "--groups", "--expert-mb", "--bandwidth", "--step-ms", "--expert-fraction"),
    *("--overlap", "--replan-ms"),
)
RENAMED = {"capacity": {"--steps": "--horizon"}, "report": {"--out": "--html"}}
"""Options of a command that have another name now."""
DECISION = (*CLUSTER, "--forecaster", "--horizon", "--every")
GONE = {
    "run": dict.fromkeys(CLUSTER, "plan"),
    "report": dict.fromkeys(DECISION, "plan"),
    "watch": {**dict.fromkeys(DECISION, "plan"), "--layer": "inspect --details", "--svg": "inspect --html"},
}
"""Options of a command that none of its own took the place of, and the command that answers in their place."""


def translate(words: Sequence[str]) -> list[str]:
    """Return the words of a call in today's spelling; name it on standard error where another one was used.

    Raise `NotFoundError` for an option that has no successor.
    """
    for word in words[1:]:
        option = word.partition("=")[0]
        if instead := GONE.get(words[0], {}).get(option):
            raise NotFoundError(f"`{words[0]} {option}` is gone: see `moeload-bench {instead}`")
    words = _renamed(words)
    for former, now in FORMER.items():
        beginning = [word for word in former.split() if not word.startswith("-")]
        options = set(former.split()) - set(beginning)
        rest = words[len(beginning) :]
        if list(words[: len(beginning)]) == beginning and options <= set(rest):
            say(f"`{former}` is `{now}` now; this spelling goes in 0.3", err=True)
            return [*now.split(), *(word for word in rest if word not in options)]
    return list(words)


def _renamed(words: Sequence[str]) -> list[str]:
    """Return the words with today's names of options; a report without a file's name is `report.html`."""
    names = RENAMED.get(words[0], {}) if words else {}
    parts = [word.partition("=") for word in words]
    renamed = [f"{names.get(option, option)}{equals}{value}" for option, equals, value in parts]
    named = any(word.partition("=")[0] in ("--html", "--help") for word in renamed)
    return [*renamed, "--html", "report.html"] if words[:1] == ["report"] and not named else renamed
