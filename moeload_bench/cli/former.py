"""Spellings of version 0.1, each as the command that took its place: they run for one release."""

from __future__ import annotations

from collections.abc import Sequence

from moeload_bench.cli.progress import say

FORMER = {
    "merge": "import merge",
    "permute": "export checkpoint",
    "plot": "export figure",
    "corpora": "recipes corpora",
    "rescore": "run",
}
"""What begins a call, and what begins it now; the words that follow stay."""


def translate(words: Sequence[str]) -> list[str]:
    """Return the words of a call in today's spelling; name it on standard error where another one was used."""
    for former, now in FORMER.items():
        beginning = former.split()
        if list(words[: len(beginning)]) == beginning:
            say(f"`{former}` is `{now}` now; this spelling goes in 0.3", err=True)
            return [*now.split(), *words[len(beginning) :]]
    return list(words)
