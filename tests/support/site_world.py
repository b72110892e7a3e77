"""Small checkouts with results, submissions and traces for the tests of the site, and ways to read a built one."""

from __future__ import annotations

import json
import shutil
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from leaderboard.site.inputs import Inputs, read_inputs
from leaderboard.site.payload import FIELDS
from leaderboard.suites.freeze import to_toml
from moeload_bench.results.record import Result, load_result
from moeload_bench.submissions.folder import RECORD, parse_submission
from moeload_bench.suites.suite import Suite, SuiteTrace

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("leaderboard/results/mini", "moeload_bench/suites", "CITATION.cff", "docs")
TRACE = "moeload_bench/data/qwen3moe-tiny-8e/test/seed1.parquet"
FEW = ("window_tv", "tv", "regret@quarter", "hot_recall")
"""Metrics that thinned results keep: an error with floors, another one, a cost of plans, a score."""
HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">&lt;b&gt;\'"'


@lru_cache(maxsize=1)
def committed_inputs() -> Inputs:
    """What the site is made from in this checkout: read once in a process, in some 20 s."""
    return read_inputs(ROOT)


def copy_checkout(to: Path, traces: tuple[str, ...] = (), metrics: tuple[str, ...] | None = None) -> Path:
    """The committed files that the site is made from, with these of the traces, and with these of the metrics only."""
    for name in (*COPIED, *traces):
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / name, target)
    for path in sorted((to / "leaderboard" / "results" / "mini").glob("*.json")):
        result = load_result(path)
        write_submission(to, result)
        if metrics:
            thinned(result, metrics).save(path)
    return to


def write_submission(root: Path, result: Result, **changes: Any) -> Path:
    """The folder that belongs to a result of a baseline, without a verification."""
    suite = {"name": result.suite.name, "sha256": result.suite.sha256}
    fields = {"name": result.name, "authors": ["The maintainers"], "licence": "Apache-2.0", "hardware": "a laptop",
              "target": result.forecaster.target, "fitted_beyond_train": False, "suite": suite, **changes}  # fmt: skip
    folder = root / "leaderboard" / "submissions" / result.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).write_text(parse_submission(fields, "test").to_toml())
    return folder


def thinned(result: Result, metrics: tuple[str, ...]) -> Result:
    """The result with these metrics only."""
    runs = []
    for run in result.runs:
        tasks = [
            task.model_copy(update={"metrics": {name: task.metrics[name] for name in metrics if name in task.metrics}})
            for task in run.tasks
        ]
        runs.append(run.model_copy(update={"tasks": tuple(tasks), "per_layer": {}}))
    return result.model_copy(update={"runs": tuple(runs)})


def add_hostile(root: Path) -> list[str]:
    """Two entries full of markup: a result whose very name is, and a submission; returns their names."""
    folder = root / "leaderboard" / "results" / "mini"
    result = load_result(folder / "last_value.json")
    run = result.runs[0]
    task = run.tasks[0].model_copy(update={"failure": f"it broke: {HOSTILE}"})
    runs = (run.model_copy(update={"tasks": (task, *run.tasks[1:]), "counts": {HOSTILE: 3}}), *result.runs[1:])
    where = result.environment.model_copy(update={"hardware": HOSTILE, "commit": HOSTILE, "versions": {"a": HOSTILE}})
    for name, file in ((HOSTILE, "hostile.json"), ("evil", "evil.json")):
        made = result.forecaster.model_copy(update={"name": name, "kwargs": {"a": HOSTILE}, "requirements": (HOSTILE,)})
        update = {"forecaster": made, "runs": runs, "environment": where, "notes": (HOSTILE,), "isolation": HOSTILE}
        hostile = result.model_copy(update=update)
        hostile.save(folder / file)
    link = "https://example.org/?a=1&b=2"
    said = {"fitted_beyond_train": True, "model_type": "pretrained", "fitted_on": ["pages of a wiki"]}
    write_submission(root, hostile, authors=[HOSTILE], hardware=HOSTILE, link=link, **said)
    return [HOSTILE, "evil"]


def many_recipes(to: Path, recipes: int = 6, others: int = 3, seed: int = 0) -> Path:
    """A checkout with a suite of so many recipes, two runs each, and results drawn at random around a level each."""
    rng = np.random.default_rng(seed)
    template = load_result(ROOT / "leaderboard" / "results" / "mini" / "uniform.json")
    entries = tuple(
        SuiteTrace(id=f"recipe{r}/test/seed{s}", data_sha256=f"{r:032x}{s:032x}", transient=(20, 60), stable=(600, 900))
        for r in range(recipes)
        for s in (1, 2)
    )
    suite = Suite(name="many", horizons=(1, 10, 100), baselines=("uniform", "sw_avg"), traces=entries)
    (to / "moeload_bench" / "suites").mkdir(parents=True)
    (to / "moeload_bench" / "suites" / "many.toml").write_text(to_toml(suite))
    shutil.copy(ROOT / "CITATION.cff", to)
    level_G = rng.uniform(0.02, 0.2, recipes)
    named = {"uniform": 3.0, "sw_avg": 1.0, "sw_avg.w50": 0.9, **{f"other{i}": 0.6 + 0.2 * i for i in range(others)}}
    for name, factor in named.items():
        _drawn(template, suite, name, factor * level_G, rng).save(to / f"leaderboard/results/many/{name}.json")
    return to


def _drawn(template: Result, suite: Suite, name: str, level_G: Any, rng: np.random.Generator) -> Result:
    runs = []
    for entry in suite.traces:
        level = level_G[int(entry.id.split("/")[0].removeprefix("recipe"))]
        tasks = [
            template.runs[0].tasks[0].model_copy(
                update={"origin": origin, "state": state, "crossing": (False, False, state == "transient"),
                        "failure": None, "metrics": _scores(level, rng, quantiles=name == "other0")}
            )
            for origin, state in entry.origins()
        ]  # fmt: skip
        floors = {state: {"floor_batch": {"window_tv": (0.01, 0.003, 0.001)}} for state in ("transient", "stable")}
        new = {"trace": entry.id, "data_sha256": entry.data_sha256, "tasks": tuple(tasks), "per_layer": {}}
        runs.append(template.runs[0].model_copy(update={**new, "floors": floors}))
    target = "sw_avg@window=50" if name == "sw_avg.w50" else name
    made = template.forecaster.model_copy(update={"name": name, "target": target})
    record = template.suite.model_copy(
        update={"name": suite.name, "sha256": suite.sha256(), "horizons": suite.horizons, "reference": suite.reference}
    )
    return template.model_copy(update={"forecaster": made, "suite": record, "runs": tuple(runs)})


def _scores(level: float, rng: np.random.Generator, quantiles: bool) -> dict[str, tuple[float, ...]]:
    error = level * np.exp(rng.normal(0, 0.1, 3))
    scores = {"window_tv": tuple(error), "regret@quarter": tuple(0.1 * error), "hot_recall": tuple(1 - error)}
    return {**scores, **({"wql": tuple(0.7 * error)} if quantiles else {})}


# ---------------------------------------------------------------- reading what was built


def shown_metric(files: dict[str, bytes], suite: str, metric: str) -> Any:
    """The data of a metric as the site's page gets them."""
    text = files[f"data/{suite}.{metric.replace('@', '.')}.js"].decode()
    head, tail = f'moeload.add("{suite}","{metric}",', ");\n"
    assert text.startswith(head)
    assert text.endswith(tail)
    return json.loads(text[len(head) : -len(tail)])


def cell(view: Any, row: int, field: str) -> str:
    """One text of a view."""
    return str(view["rows"][row][FIELDS.index(field)])


class _Tables(HTMLParser):
    """Every table of a page as rows of texts."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.tables[-1][-1][-1] += data


def tables_of(page: bytes) -> list[list[list[str]]]:
    """[table][row][column] of a page's texts."""
    reader = _Tables()
    reader.feed(page.decode())
    return reader.tables
