"""What docs/methods/isolation.md says of the sandbox's cost, from benchmarks/isolation.json."""

from __future__ import annotations

import json
from collections.abc import Mapping

from leaderboard.committed import ROOT
from leaderboard.pages.parts import Maker
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.tables import three_digits

MEASURED = ROOT / "benchmarks" / "isolation.json"


def costs_table() -> str:
    """CPU time of a start-up and of a call beside those of an older commit."""
    found = json.loads(MEASURED.read_text(encoding="utf-8"))
    lines = [
        (f"{row['shape']}, {row['what']}", three_digits(row["here_ms"]), three_digits(row["there_ms"]),
         f"{row['here_ms'] / row['there_ms']:.2f}")
        for row in found["rows"]
    ]  # fmt: skip
    heads = ("`sw_avg` in the sandbox, layers x experts", "ms", f"ms at {found['there']}", "ratio")
    words = f"CPU time of harness, watch and sandbox; least of {found['repetitions']} harnesses of each."
    return f"{markdown_table(heads, lines)}\n\n{words}"


PARTS: Mapping[str, Maker] = {"costs": lambda _: costs_table()}
