"""`python -m leaderboard paper`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from leaderboard.paper.claims import Study, read_study
from leaderboard.paper.facts import paper as facts
from leaderboard.paper.figures import draw_figures
from leaderboard.paper.measuring import describe_run, mean_errors, score_run
from leaderboard.paper.page import folder_of, paper_page
from moeload_bench.cli.progress import pair_progress, say
from moeload_bench.files import write_whole
from moeload_bench.style import save_figure
from moeload_bench.traces.lookup import find_trace, list_traces
from moeload_bench.traces.store import read_trace


def paper(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for paper.md, and paper/ with tables and figures.")],
    trace: Annotated[
        list[str] | None,
        typer.Option(help="An id or .parquet file instead of the runs of paper.toml; may be repeated."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Forecasters that run at a time.")] = 1,
) -> None:
    """Redo the figures, the error table and the claims of arXiv 2404.16914, which named the two states.

    Its LSTM, ARIMA and SW_Avg forecast the next 1,000 and 2,000 steps, sliding and in blocks, on the runs that
    leaderboard/paper/paper.toml names. A run of 10,000 steps takes about a minute of one core; what is finished is kept
    in the cache. Works offline.
    """
    runs, errors = [], []
    names = trace or [*facts().runs, *(setup.run for setup in facts().setups)]
    with pair_progress(unit="runs") as report:
        for done, name in enumerate(names):
            report(done, len(names), name)
            run = read_trace(find_trace(name))
            recipe = run.id.split("/")[0]
            train = [ref for ref in list_traces() if ref.id.startswith(f"{recipe}/train/")][:1]
            scores = score_run(run, train, jobs=jobs)
            runs.append(describe_run(run, train))
            errors.append(mean_errors(scores, int(run.step_S[0])))
            if done < facts().pictures:
                for kind, figure in draw_figures(run, scores):
                    save_figure(figure, out / "paper" / folder_of(run.id) / f"{kind}.png")
    Study(pd.DataFrame(runs).convert_dtypes().set_index("run"), pd.concat(errors)).write(out / "paper")
    write_whole(out / "paper.md", paper_page(read_study(out / "paper")).encode())
    say(str(out / "paper.md"))
