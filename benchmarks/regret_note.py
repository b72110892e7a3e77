"""Fill docs/regret.md: the table of disagreements and the figure, from result records.

python benchmarks/regret_note.py RESULT.json... [--docs docs]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from moeload_bench.placement_cost import HEADLINE
from moeload_bench.plots_regret import disagreements, draw_regret
from moeload_bench.plots_style import save_figure
from moeload_bench.results import load_result

START, END = "<!-- made by benchmarks/regret_note.py -->", "<!-- end -->"
MOST = 8


def main() -> None:
    """Rewrite what stands between the two marks, and the figure beside the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    args = parser.parse_args()
    results = [load_result(path) for path in args.results]
    apart = disagreements(results)
    lines = [
        f"Suite `{results[0].suite.name}`, {len(results)} forecasters; {len(apart)} ordered pairs disagree, the "
        f"{min(MOST, len(apart))} largest:",
        "",
        f"| state | horizon | lower window_tv | lower regret@{HEADLINE} | window_tv ratio | regret gap, points |",
        "|---|---|---|---|---|---|",
    ]
    for d in apart[:MOST]:
        lines.append(
            f"| {d.state} | {d.horizon:,} | `{d.by_error}` | `{d.by_regret}` | {d.error_ratio:.2f} | "
            f"{100 * d.regret_gap:.2f} |"
        )
    page = args.docs / "regret.md"
    before, _, rest = page.read_text().partition(START)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{START}\n" + "\n".join(lines) + f"\n{END}{after}")
    save_figure(draw_regret(results), args.docs / "regret.svg")


if __name__ == "__main__":
    main()
