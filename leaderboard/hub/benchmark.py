"""The benchmark as the Hub registers it: its tasks, `eval.yaml` of the dataset, the lines for the list of frameworks.

Form: huggingface.co/docs/hub/eval-results and packages/tasks/src/eval.ts of huggingface.js. They have no field for a
metric or a version, and other fields may be refused: the description says both.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

import moeload_bench
from leaderboard.committed import RESULTS, ROOT
from leaderboard.pages.inputs import largest_suite, newest_season
from leaderboard.site.board import Board, Cell
from leaderboard.site.inputs import season_boards, suite_board
from moeload_bench.publishing.yaml_text import yaml_text
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.words import listed

FRAMEWORK = "moeload-bench"
ABOUT = "Forecasts of the load of each expert while a Mixture-of-Experts model trains"


@dataclass(frozen=True)
class Task:
    """A leaderboard of the Hub: a board's runs of one size of batches in one state, which are never pooled.

    ``folder``: where the board's results lie in `leaderboard/`, and so in the results repository.
    """

    board: Board
    cell: Cell
    folder: str

    @property
    def id(self) -> str:
        return "-".join(part for part in (self.board.name, self.cell.stratum, self.cell.state) if part)

    @functools.cached_property
    def saved(self) -> dict[str, float]:
        """Return by entry the per cent of the reference's error that it saves, as many digits as the site shows."""
        rows = self.cell.of(self.board.summary).dropna(subset="skill")
        skills = zip(rows["forecaster"], rows["skill"], strict=True)
        return {name: round(100 * round(float(skill), 3), 1) for name, skill in skills}


@functools.cache
def tasks() -> tuple[Task, ...]:
    """Return the tasks: those of the newest scored season, then those of the largest public suite."""
    season, suite = newest_season(), largest_suite().name
    boards = [(board, f"seasons/{season.name}/results") for board in season_boards(season)] if season else []
    boards.append((suite_board(ROOT, RESULTS / suite), f"results/{suite}"))
    return tuple(Task(board, cell, folder) for board, folder in boards for cell in board.state_cells)


def metric_words() -> str:
    """Return what a value is, by which code and on which task lists."""
    suites = {task.board.suite.name: task.board.suite for task in tasks()}
    pins = listed([f"{name} (SHA-256 {suite.sha256()[:12]})" for name, suite in suites.items()])
    reference = listed(sorted({suite.reference for suite in suites.values()}))
    return (
        f"the per cent of the error of {reference} that an entry saves; higher is better, 100 is no error, {reference} "
        f"has 0. The error is {PRIMARY}, over all horizons. {FRAMEWORK}@{moeload_bench.__version__} on {pins}."
    )


def eval_yaml() -> str:
    """Return `eval.yaml`, which makes a dataset a benchmark.

    A task names no config: its recipes have different shapes, and each is a config of its own.
    """
    record = {
        "name": FRAMEWORK,
        "description": f"{ABOUT}. A value is {metric_words()}",
        "evaluation_framework": FRAMEWORK,
        "tasks": [{"id": task.id} for task in tasks()],
    }
    return yaml_text(record, width=120)


def framework_lines(dataset: str) -> str:
    """Return what the list of frameworks lacks, in its form; ``dataset``: the repository that says more."""
    about = f"{FRAMEWORK} scores f{ABOUT[1:]}: on recorded trainings, against the mean of the last 100 steps."
    name = json.dumps(FRAMEWORK)
    lines = [
        f"\t{name}: {{",
        f"\t\tname: {name},",
        "\t\tdescription:",
        f"\t\t\t{json.dumps(about)},",
        f"\t\turl: {json.dumps(f'https://huggingface.co/datasets/{dataset}')},",
        "\t},",
    ]
    return "\n".join(lines) + "\n"
