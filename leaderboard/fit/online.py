"""Choose the constants of `online`, and measure it on runs unlike those that they were chosen on (`online_page`).

    python -m leaderboard fit online

Logs are the runs of leaderboard/fit/online.toml (`train` runs, and set b of season 2027-01), and of long ones every ten
rows summed to one, too. A cluster shares family, optimizer and balancing method; a summed log is in its parent's. For
each cluster the variant of `GRID` is taken that errs least on the logs of all other clusters; *unlike*, on logs of
other families and of other optimizers only. `guarded`, alone and in `online.guarded`, has weights that were fitted
without the cluster. Each forecaster's errors on a log are kept in the cache, so a run that was stopped goes on where it
was.

Axis letters: K horizons, L MoE layers, E experts.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from moeload_bench.baselines._guard import to_bytes
from moeload_bench.baselines._guard_fit import learned, samples_of

from leaderboard.committed import recipe_name
from leaderboard.fit.lists import FitList
from leaderboard.fit.online_page import OSCILLATING, WORSE, Study, study_files
from leaderboard.fit.weights import fit_runs
from moeload_bench import cache
from moeload_bench.arrays import FloatArray
from moeload_bench.harness.replay import follow
from moeload_bench.harness.truth import Truth
from moeload_bench.isolation.targets import parse_target, source_sha256
from moeload_bench.results.savings import OFFSET, savings
from moeload_bench.results.skill import interval_of
from moeload_bench.scoring.forks import share_distance
from moeload_bench.suites.suite import suite_for_trace
from moeload_bench.traces.meta import TraceMeta
from moeload_bench.traces.store import read_trace, stored_outline
from moeload_bench.traces.trace import Trace

GUARDED = parse_target("guarded")
GRID = {
    "sharpness": (6.0, 12.0),
    "breaks": (0.0, 1.0),
    "loss_free": (1.0, 2.0),
    "quantile": (0.25, 1.0),
    "aux_loss": (0.2, 0.7),
    "halves": (0.0, 1.0),
    "trust": (8.0, 32.0),
}
"""Values beside the shipped one, one at a time."""
VARIANTS = ("online", *(f"online@{name}={value}" for name, values in GRID.items() for value in values))
REFERENCE = "adaptive"
FITTED = ("guarded", "online_guarded")
FOLDS = 6
"""Fits of `guarded`; each leaves out another sixth of the runs."""
AVERAGES = (
    *("uniform", "last_value", "ema", "sw_avg@window=10", "sw_avg@window=32", "sw_avg"),
    *("sw_avg@window=320", "sw_avg@window=1000", "average_tuned"),
)
ORIGINS = 8
"""Origins taken from each state of a log."""
SUM, SUM_FROM = 10, 8000
"""Rows of a sum, and of a run that is summed, too."""
LARGE = 1448
"""Tokens per expert and row, as in `average_tuned`."""
WORSE_BY = 0.005
Cluster = tuple[str, str, str]
"""Family, optimizer, balancing method."""
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
    def cluster(self) -> Cluster:
        return self.meta.family, str(self.meta.optimizer.get("name")), self.meta.balancing.method

    @property
    def set(self) -> str:
        return "b" if "2027-01b" in self.run else "train"

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

    def errors(self, target: str, fitted: bytes | None = None) -> list[list[Any]]:
        """Return [state, origin, horizon, window_tv] of every task; from the cache where it was done before."""
        parsed = parse_target(target)
        fixed = {"target": target, "source": source_sha256(parsed), "fitted": fitted and sha256(fitted).hexdigest()}
        key = cache.task_key(kind="online", log=self.sha256, sum=self.summed, n=ORIGINS, **fixed)
        known = cache.load(key, lambda tree: list(tree["errors"]))
        if known is not None:
            return known
        trace, horizons, tasks = self.tasks
        found: list[list[Any]] = []
        with follow(parsed, trace, seed=0, fitted=fitted, level="none") as feed:
            for origin, state, true_KLE in tasks:
                error_K = share_distance(feed.at(origin, horizons).window_means(horizons), true_KLE)
                found += [[state, origin, h, float(e)] for h, e in zip(horizons, error_K, strict=True)]
        cache.save(key, {"errors": found})
        return found


def online(listed: FitList) -> dict[Path, bytes]:
    """Return page, figure and tables of the study; some twenty minutes of one core, less where a run was stopped."""
    logs = list(logs_of(listed))
    errors = table(logs, weights_without(logs))
    clusters = {log.cluster for log in logs}
    inside, outside = (chosen(errors, clusters, unlike) for unlike in (False, True))
    for name, choice in (("inside", inside), ("outside", outside)):
        errors[name] = np.select(
            [errors.index.get_level_values("cluster") == cluster for cluster in choice],
            [errors[variant] for variant in choice.values()],
        )
    choices = {name: Counter(choice.values()) for name, choice in (("inside", inside), ("outside", outside))}
    votes = pd.DataFrame(choices, index=list(VARIANTS)).fillna(0).astype(int).rename_axis("variant").reset_index()
    return study_files(Study(gains(errors), pooled(errors), worse(errors), votes))


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


def weights_without(logs: Sequence[Log]) -> dict[Cluster, bytes]:
    """Return weights of `guarded` for each cluster that has a `train` run: fitted on `train` runs of other clusters."""
    runs = [log for log in logs if log.set == "train" and not log.summed]
    samples: list[tuple[str, Any]] = []
    found = {}
    for fold in folds_of(Counter(log.cluster for log in runs)):
        rest = [log for log in runs if log.cluster not in fold]
        key = cache.task_key(kind="guarded", runs=[log.sha256 for log in rest], source=source_sha256(GUARDED))
        weights = cache.load(key, lambda tree: bytes.fromhex(tree["weights"]))
        if weights is None:
            samples = samples or samples_of(fit_runs([read_trace(log.path) for log in runs]), 0)
            weights = to_bytes(learned([one for _, one in samples if runs[one.run].cluster not in fold], 0))
            cache.save(key, {"weights": weights.hex()})
        found.update(dict.fromkeys(fold, weights))
    return found


def folds_of(runs: Mapping[Cluster, int]) -> list[set[Cluster]]:
    """Return `FOLDS` disjoint sets of clusters with about as many runs each; the largest cluster is dealt first."""
    folds: list[set[Cluster]] = [set() for _ in range(FOLDS)]
    for cluster, _ in sorted(runs.items(), key=lambda item: (-item[1], item[0])):
        min(folds, key=lambda fold: sum(runs[one] for one in fold)).add(cluster)
    return folds


def table(logs: Sequence[Log], weights: Mapping[Cluster, bytes]) -> pd.DataFrame:
    """Return `window_tv` of every task, a column per forecaster; without weights of a cluster, `guarded` as shipped."""
    rows = []
    for number, log in enumerate(logs, start=1):
        where = (log.name, recipe_name(log.run), log.cluster, log.set, log.kind)
        for target in (*VARIANTS, REFERENCE, *FITTED, *AVERAGES):
            fitted = weights.get(log.cluster) if log.set == "train" and target in FITTED else None
            rows += [(*where, state, h, origin, target, e) for state, origin, h, e in log.errors(target, fitted)]
        log.__dict__.pop("tasks", None)
        print(f"\r{number} of {len(logs)} logs: {log.name:60}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    frame = pd.DataFrame(rows, columns=[*LEVELS, "forecaster", "error"])
    return frame.set_index([*LEVELS, "forecaster"])["error"].unstack("forecaster")


def chosen(errors: pd.DataFrame, clusters: set[Cluster], unlike: bool) -> dict[Any, str]:
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


def gains(errors: pd.DataFrame) -> pd.DataFrame:
    """Return `savings` over `adaptive` by set, kind and state, over all horizons (0) and at each; clusters vote."""
    index = errors.index.to_frame(index=False).drop(columns="recipe").rename(columns={"cluster": "recipe"})
    index = index.astype({"recipe": str})
    by = ("set", "kind", "state")
    found = []
    for name in ("inside", "outside", *FITTED):
        pair = errors[[name, REFERENCE]].set_axis(pd.MultiIndex.from_frame(index))
        parts = [savings(pair, by, {}).assign(horizon=0), savings(pair, (*by, "horizon"), {})]
        found.append(pd.concat(parts).assign(forecaster=name))
    columns = ["forecaster", *by, "horizon", "saving", "low", "high", "median", "clipped_mean", "recipes"]
    return pd.concat(found)[columns].rename(columns={"recipes": "clusters"})


def pooled(errors: pd.DataFrame) -> pd.DataFrame:
    """Return a row per kind, state and horizon: geometric mean errors, with the offset, of `online` and an average.

    ``low`` and ``high`` are the 95 % interval of ``more``, by a t test over logs.
    """
    tasks, by = errors[["outside", *AVERAGES]].add(OFFSET).apply(np.log), ["kind", "state", "horizon"]
    best = _against_best(tasks.groupby(by).mean().apply(np.exp).sub(OFFSET))
    logs = dict(iter(tasks.groupby([*by, "trace"]).mean().groupby(level=by)))
    spans = [
        np.expm1(interval_of(logs[tuple(row[by])]["outside"] - logs[tuple(row[by])][row["average"]]))
        for _, row in best.iterrows()
    ]
    return best.assign(low=[low for low, _ in spans], high=[high for _, high in spans])


def worse(errors: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of logs, and whether `online` errs there both `WORSE` and `WORSE_BY` more than an average."""
    cells = _against_best(errors[["outside", *AVERAGES]].groupby(["trace", "state", "horizon"]).mean())
    return cells.assign(worse=cells["error"] > np.maximum((1 + WORSE) * cells["least"], cells["least"] + WORSE_BY))


def _against_best(cells: pd.DataFrame) -> pd.DataFrame:
    averages = cells[list(AVERAGES)]
    best = pd.DataFrame({"error": cells["outside"], "average": averages.idxmin(axis=1), "least": averages.min(axis=1)})
    return best.assign(more=(best["error"] + OFFSET) / (best["least"] + OFFSET) - 1).reset_index()
