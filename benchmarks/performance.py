"""How docs/reports/performance.md opens: its answer and its figure, from the tables that stand on the page.

    python benchmarks/performance.py

`compare.py` and `real_size.py` do the same after they have measured.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from moeload_bench.style import GREY, new_figure, save_figure, style

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reports" / "performance.md"
OPENING = re.compile(r"<!-- opening -->\n.*?<!-- end -->\n", re.DOTALL)
GOALS, REAL = "| what | goal | measured | verdict |", "| run | command | CPU s | at most | peak GB | at most |"
CAPTION = (
    "A row is a command, a panel the size of a run (layers x experts x steps); the bar is the CPU time that it takes, "
    "the line the time that it may take. Shorter is better."
)


def rows_below(text: str, head: str) -> list[list[str]]:
    """Return the cells of the table with this head; none where the page has no such table."""
    lines = text.partition(head + "\n")[2].splitlines()[1:]
    end = next((at for at, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:end]]


def opened(text: str) -> str:
    """Return the page with its opening made again: under its title, from its own tables."""
    goals, sizes = rows_below(text, GOALS), by_size(text)
    met = sum(verdict == "met" for *_, verdict in goals)
    said = []
    for name, rows in [*sizes.items()][:2]:
        seconds = [float(cpu) for _, cpu, *_ in rows]
        slowest = max(rows, key=lambda row: float(row[1]))
        said.append(
            f"On a run of {name} (layers x experts x steps) commands take {min(seconds):g} to {max(seconds):g} s of "
            f"one core, `{slowest[0]}` most, and at most {max(float(row[3]) for row in rows):.2f} GB."
        )
    said.append(
        f"Of {len(goals)} goals of speed, most of them beside another package, {met} are met; the table below says by "
        "how much."
    )
    parts = (
        "<!-- opening -->",
        " ".join(said),
        "![CPU time of each command](performance.svg)",
        CAPTION,
        "<!-- end -->",
    )
    made = "\n\n".join(parts) + "\n"
    title, _, rest = OPENING.sub("", text).partition("\n\n")
    return f"{title}\n\n{made}\n{rest.lstrip()}"


def by_size(text: str) -> dict[str, list[Sequence[str]]]:
    """Return by size of the run its commands: name, CPU seconds, goal, GB."""
    found: dict[str, list[Sequence[str]]] = {}
    for run, command, cpu, most, memory, _ in rows_below(text, REAL):
        found.setdefault(run, []).append((command.strip("`").split(" --")[0], cpu, most, memory))
    return found


def draw(text: str, path: Path) -> None:
    """Draw the CPU time of each command beside its goal, a panel for each size that has goals."""
    sizes = {name: rows for name, rows in by_size(text).items() if any(most != "-" for _, _, most, _ in rows)}
    if not sizes:
        return  # of a page that `real_size.py` has not been on
    with style():
        figure = new_figure(2.2)
        panels = figure.subplots(1, len(sizes), squeeze=False)[0]
        for axes, (name, rows) in zip(panels, sizes.items(), strict=True):
            names = [command for command, *_ in rows]
            axes.barh(names, [float(cpu) for _, cpu, *_ in rows], color=GREY, height=0.6)
            for at, (_, _, most, _) in enumerate(rows):
                if most != "-":
                    axes.plot([float(most)] * 2, [at - 0.4, at + 0.4], color="black", linewidth=1.5)
            axes.invert_yaxis()
            axes.set(title=name, xlabel="CPU seconds")
        save_figure(figure, path)


def reopen(page: Path) -> None:
    """Make the opening of a page and its figure from the page's tables."""
    text = page.read_text(encoding="utf-8")
    page.write_text(opened(text), encoding="utf-8")
    draw(text, page.with_suffix(".svg"))


if __name__ == "__main__":
    ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter).parse_args()
    reopen(PAGE)
