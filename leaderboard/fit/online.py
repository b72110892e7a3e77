"""Choose the constants of `online`, and say how well it does on runs unlike those that they were chosen on.

    python -m leaderboard fit online

Logs are the runs of leaderboard/fit/online.toml (`train` runs, and set b of season 2027-01), and of long ones every ten
rows summed to one, too. A cluster shares family, optimizer and balancing method; a summed log is in its parent's. For
each cluster the variant of `GRID` is taken that errs least on the logs of all other clusters; *unlike*, on logs of
other families and of other optimizers only. Each forecaster's errors on a log are kept in the cache, so a run that was
stopped goes on where it was.

Axis letters: K horizons, L MoE layers, E experts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leaderboard.committed import ROOT, recipe_name
from leaderboard.fit.lists import FitList
from moeload_bench import cache
from moeload_bench.arrays import FloatArray
from moeload_bench.harness.replay import follow
from moeload_bench.harness.truth import Truth
from moeload_bench.isolation.targets import parse_target, source_sha256
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.savings import OFFSET, savings
from moeload_bench.suites.suite import suite_for_trace
from moeload_bench.traces.meta import TraceMeta
from moeload_bench.traces.store import read_trace, stored_outline
from moeload_bench.traces.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

TABLE = ROOT / "leaderboard" / "fit" / "online-table.md"
GRID = {
    "sharpness": (6.0, 12.0),
    "breaks": (0.0, 1.0),
    "loss_free": (0.7, 1.5),
    "quantile": (0.25, 1.0),
    "aux_loss": (0.2, 0.7),
    "halves": (0.0, 1.0),
    "trust": (8.0, 32.0),
}
"""Values beside the shipped one, one at a time."""
VARIANTS = ("online", *(f"online@{name}={value}" for name, values in GRID.items() for value in values))
RIVALS = ("adaptive", "guarded")
AVERAGES = (
    *("uniform", "last_value", "ema", "sw_avg@window=10", "sw_avg@window=32", "sw_avg"),
    *("sw_avg@window=320", "sw_avg@window=1000", "average_tuned"),
)
ORIGINS = 8
"""How many origins are taken of each state of a log."""
SUM, SUM_FROM = 10, 8000
"""Rows of a sum, and of a run that is summed, too."""
LARGE = 1448
"""Tokens per expert and row, as in `average_tuned`."""
OSCILLATING = ("2027-01b-s06", "2027-01b-l02")
"""Recipes of set b whose loads swing from step to step (docs/reports/results.md, *Kinds of runs*)."""
WORSE, WORSE_BY = 0.05, 0.005
LEVELS = ("trace", "recipe", "cluster", "set", "kind", "state", "horizon", "origin")
STATES = ("transient", "stable")


@dataclass(frozen=True)
class Log:
    """A run as recorded, or its rows summed by tens."""

    run: str
    path: Path
    sha256: str
    meta: TraceMeta
    summed: bool

    @property
    def name(self) -> str:
        return f"{self.run}, summed" if self.summed else self.run

    @property
    def cluster(self) -> tuple[str, str, str]:
        """Family, optimizer, balancing method."""
        return self.meta.family, str(self.meta.optimizer.get("name")), self.meta.balancing.method

    @property
    def kind(self) -> str:
        if recipe_name(self.run) in OSCILLATING:
            return "oscillating"
        if self.summed or self.meta.stride > 1:
            return "ten steps a row"
        tokens = (self.meta.global_batch_tokens or 0) * (self.meta.top_k or 1) / self.meta.experts
        return "large batch" if tokens >= LARGE else "small batch"

    @cached_property
    def tasks(self) -> tuple[Trace, tuple[int, ...], list[tuple[int, str, FloatArray]]]:
        """The log, its horizons, and origins with state and true mean shares [K, L, E]."""
        trace = read_trace(self.path, expected_sha256=self.sha256)
        trace = summed(trace) if self.summed else trace
        suite = suite_for_trace(trace, per_state=ORIGINS)
        truth = Truth(trace, suite.rule, suite.horizons, ())
        origins = [(origin, state) for origin, state in suite.traces[0].origins() if state in STATES]
        stride = trace.meta.stride
        means = [
            np.stack([truth.window(origin)[: h // stride].mean(axis=0) for h in suite.horizons])
            for origin, _ in origins
        ]
        return trace, suite.horizons, [(*origin, mean) for origin, mean in zip(origins, means, strict=True)]

    def errors(self, target: str) -> list[list[Any]]:
        """Return [state, origin, horizon, window_tv] of every task; from the cache where it was done before."""
        parsed = parse_target(target)
        source = source_sha256(parsed)
        key = cache.task_key(kind="online", log=self.sha256, sum=self.summed, target=target, source=source, n=ORIGINS)
        known = cache.load(key, lambda tree: list(tree["errors"]))
        if known is not None:
            return known
        trace, horizons, tasks = self.tasks
        found: list[list[Any]] = []
        with follow(parsed, trace, seed=0, level="none") as feed:
            for origin, state, true_KLE in tasks:
                gap_KLE = feed.at(origin, horizons).window_means(horizons) - true_KLE
                error_K = np.nanmean(0.5 * np.abs(gap_KLE).sum(axis=2), axis=1)
                found += [[state, origin, h, float(e)] for h, e in zip(horizons, error_K, strict=True)]
        cache.save(key, {"errors": found})
        return found


def online(listed: FitList) -> dict[Path, bytes]:
    """Return the tables of the study; some ten minutes of one core, less where a run was stopped."""
    logs = list(logs_of(listed))
    errors = table(logs)
    inside, outside = (chosen(errors, {log.cluster for log in logs}, unlike) for unlike in (False, True))
    for name, choice in (("inside", inside), ("outside", outside)):
        errors[name] = np.select(
            [errors.index.get_level_values("cluster") == cluster for cluster in choice],
            [errors[variant] for variant in choice.values()],
        )
    return {TABLE: page(errors, inside, outside).encode()}


def logs_of(listed: FitList) -> Iterator[Log]:
    """Yield every run, and the sums of those that are long enough."""
    for ref in listed.files():
        meta, rows = stored_outline(ref.path)
        yield Log(ref.id, ref.path, listed.runs[ref.id], meta, False)
        if meta.stride == 1 and rows >= SUM_FROM:
            yield Log(ref.id, ref.path, listed.runs[ref.id], meta, True)


def summed(trace: Trace) -> Trace:
    """Return a log of every ten rows as one; what is left over is cut."""
    rows = trace.steps // SUM
    load_SLE, tokens_SL = (
        one[: rows * SUM].reshape(rows, SUM, *one.shape[1:]).sum(axis=1) for one in (trace.load_SLE, trace.tokens_SL)
    )
    batch = trace.meta.global_batch_tokens
    meta = trace.meta.model_copy(
        update={"stride": SUM, "row_steps": SUM, "global_batch_tokens": None if batch is None else batch * SUM}
    )
    step_S = trace.step_S[: rows * SUM : SUM]
    return Trace(meta=meta, step_S=step_S, load_SLE=load_SLE, tokens_SL=tokens_SL, columns={})


def table(logs: Sequence[Log]) -> pd.DataFrame:
    """Return `window_tv` of every task, a column per forecaster."""
    import pandas as pd

    rows = []
    for number, log in enumerate(logs, start=1):
        where = (log.name, recipe_name(log.run), log.cluster, "b" if "2027-01b" in log.run else "train", log.kind)
        for target in (*VARIANTS, *RIVALS, *AVERAGES):
            rows += [(*where, state, h, origin, target, e) for state, origin, h, e in log.errors(target)]
        log.__dict__.pop("tasks", None)
        print(f"\r{number} of {len(logs)} logs: {log.name:60}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    frame = pd.DataFrame(rows, columns=[*LEVELS, "forecaster", "error"])
    return frame.set_index([*LEVELS, "forecaster"])["error"].unstack("forecaster")


def chosen(errors: pd.DataFrame, clusters: set[tuple[str, str, str]], unlike: bool) -> dict[Any, str]:
    """Return, for each cluster, the variant with the least mean log error on the logs that may be learned from.

    Every log, state and horizon counts the same within its kind, every kind the same.
    """
    log_errors = errors[list(VARIANTS)].add(OFFSET).apply(np.log)
    cells = log_errors.groupby(["trace", "cluster", "kind", "state", "horizon"]).mean()
    found = {}
    for cluster in clusters:
        others = [
            (not set(one[:2]) & set(cluster[:2])) if unlike else one != cluster
            for one in cells.index.get_level_values("cluster")
        ]
        found[cluster] = str(cells[others].groupby(["kind", "state"]).mean().mean().idxmin())
    return found


def page(errors: pd.DataFrame, inside: dict[Any, str], outside: dict[Any, str]) -> str:
    """Return the page: gains, the choice of constants, robustness."""
    return "\n".join(
        [
            "# A forecaster that learns on the run itself",
            "",
            "*Answers: what does `online` gain on runs unlike those that its constants were chosen on?*",
            "",
            "Made by `python -m leaderboard fit online`. Errors are `window_tv`; a gain is less error in %, by the",
            f"ratio of errors + {OFFSET}, with a 95 % interval for a new cluster (family x optimizer x balancing).",
            "*Inside*: constants chosen without the cluster. *Outside*: without any log of its family or optimizer.",
            "`guarded` was fitted on the `train` runs, so its gains there are too high.",
            "",
            *gains(errors, ("set", "kind", "state")),
            "",
            *gains(errors, ("set", "kind", "state", "horizon")),
            "",
            "## Constants",
            "",
            "A row is a variant; a column says for how many clusters it was chosen.",
            "",
            markdown_table(
                ("variant", "inside", "outside"),
                [(f"`{v}`", *(list(one.values()).count(v) for one in (inside, outside))) for v in VARIANTS],
            ),
            "",
            "## Robustness",
            "",
            *robustness(errors),
            "",
        ]
    )


def gains(errors: pd.DataFrame, by: tuple[str, ...]) -> list[str]:
    """Return a table of gains over `adaptive`: inside and outside, and of `guarded`."""
    index = errors.index.to_frame(index=False).drop(columns="recipe").rename(columns={"cluster": "recipe"})
    rows: dict[Any, list[str]] = {}
    for name in ("inside", "outside", "guarded"):
        pair = errors[[name, "adaptive"]].set_axis(_multi(index.astype({"recipe": str})))
        for row in savings(pair, by, {}).itertuples(index=False):
            where = tuple(getattr(row, level) for level in by)
            values = tuple(100 * getattr(row, column) for column in ("saving", "low", "high", "median", "clipped_mean"))
            rows.setdefault(where, []).append(
                "{:+.1f} [{:+.1f}, {:+.1f}]; {:+.1f}; {:+.1f}".format(*values).replace("+nan", "?")
            )
    head = (
        "A row is a kind of log, a column what a forecaster gains on `adaptive`: mean [interval]; median; clipped mean."
    )
    return [
        head,
        "",
        markdown_table((*by, "inside", "outside", "`guarded`"), [(*where, *r) for where, r in rows.items()]),
    ]


def robustness(errors: pd.DataFrame) -> list[str]:
    """Return the pooled cells against the best average in hindsight, and the recipe-cells that are clearly worse."""
    tried = ["outside", *AVERAGES]
    cells = (
        errors[tried].add(OFFSET).apply(np.log).groupby(["kind", "state", "horizon"]).mean().apply(np.exp).sub(OFFSET)
    )
    pooled = [(*where, *_against_best(cells.loc[where])) for where in cells.index]
    recipes = errors[tried].groupby(["trace", "state", "horizon"]).mean()
    best = recipes[list(AVERAGES)].min(axis=1)
    worse = recipes[(recipes["outside"] > (1 + WORSE) * best) & (recipes["outside"] > best + WORSE_BY)]
    return [
        "A row is a kind of log, with constants chosen outside. The last column says how much more `online` errs than",
        "the average that is best there in hindsight; less is better.",
        "",
        markdown_table(("kind", "state", "horizon", "error", "best average", "its error", "more error, %"), pooled),
        "",
        f"Of {len(recipes)} cells of a log, {len(worse)} ({100 * len(worse) / len(recipes):.1f} %) err both",
        f"{100 * WORSE:.0f} % and {WORSE_BY} more than the best average there:",
        "",
        markdown_table(
            ("log", "state", "horizon", "error", "best average", "its error", "more error, %"),
            [(*where, *_against_best(worse.loc[where])) for where in worse.index],
        ),
    ]


def _against_best(row: pd.Series) -> tuple[str, str, str, str]:
    best = str(row[list(AVERAGES)].idxmin())
    ratio = (row["outside"] + OFFSET) / (row[best] + OFFSET)
    return f"{row['outside']:.4f}", f"`{best}`", f"{row[best]:.4f}", f"{100 * (ratio - 1):+.1f}"


def _multi(index: pd.DataFrame) -> pd.MultiIndex:
    import pandas as pd

    return pd.MultiIndex.from_frame(index)
