"""Measure what drawn recipes cost beside what the budget's formula says: CPU seconds of 10 steps and of a probe.

    python benchmarks/draws.py leaderboard/draws/2027-train.toml --number 16 --seed 7 [--fit]

CPU time counts this process alone, but it grows by up to half while others use the same caches: run it several times on
a busy machine, and compare means (--kept FILE gathers them). With --fit it ends with the
coefficients that fit the measured steps best (least squares of relative errors, none below 0).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from moeload_bench.recipes.distribution import CostTable, Distribution
from moeload_bench.recipes.draws import Drawn, draw_recipes, load_distribution, recipe_of
from moeload_bench.recipes.processes import Ranks
from moeload_bench.recipes.shapes import probe_seconds, step_seconds
from moeload_bench.recipes.training import Job, TrainingRun

STEPS = 10
COEFFICIENTS = ("layer", "expert", "width", "score", "value", "parameter", "vocabulary")


def measured(distribution: Distribution, drawn: Drawn) -> tuple[float, float]:
    """CPU seconds of a step, the last ones of the run, and of a probe (0 without one)."""
    recipe = recipe_of(distribution, drawn)
    with tempfile.TemporaryDirectory() as scratch:
        run = TrainingRun(Job(recipe, 1, "train", recipe.steps, Path(scratch)), Ranks())
        first = recipe.steps - STEPS - 2
        for number in (first, first + 1):
            run.step(number)
        start = time.process_time()
        for number in range(first + 2, recipe.steps):
            run.step(number)
        middle = time.process_time()
        if recipe.probe is None:
            return (middle - start) / STEPS, 0.0
        run.probe(0)
        return (middle - start) / STEPS, time.process_time() - middle


def unit_costs(distribution: Distribution, drawn: Drawn) -> list[float]:
    """Seconds of a step by each coefficient if it were 1 and the others 0: the formula is linear in them."""
    found = []
    for name in COEFFICIENTS:
        alone = CostTable(**{"processor": "", "probe": 0.0, **dict.fromkeys(COEFFICIENTS, 0.0), name: 1.0})
        unit = distribution.model_copy(update={"cost": alone})
        found.append(float(step_seconds(unit, distribution.families[drawn.family], drawn.shape)))
    return found


def gathered(path: Path, name: str, step: float, probe: float) -> tuple[float, float]:
    """Add a measurement to those in a file; returns the means over all of the recipe's."""
    kept = json.loads(path.read_text()) if path.is_file() else {}
    kept.setdefault(name, []).append([step, probe])
    path.write_text(json.dumps(kept))
    mean = np.mean(kept[name], axis=0)
    return float(mean[0]), float(mean[1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--number", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, help="a JSON file of this and earlier measurements")
    parser.add_argument("--fit", action="store_true")
    arguments = parser.parse_args()
    distribution = load_distribution(arguments.file)
    rows, steps, ratios, probes = [], [], [], []
    print(f"{'recipe':12} {'family':12} {'estimate':>9} {'measured':>9}   ratio; probe: estimate, measured, ratio")
    for drawn in draw_recipes(distribution, arguments.number, arguments.seed):
        family = distribution.families[drawn.family]
        said = float(step_seconds(distribution, family, drawn.shape))
        step, probe = measured(distribution, drawn)
        if arguments.kept is not None:
            step, probe = gathered(arguments.kept, drawn.name, step, probe)
        line = f"{drawn.name:12} {drawn.family:12} {said:9.4f} {step:9.4f} {said / step:7.2f}"
        if probe:
            table = distribution.strata[drawn.stratum].probe
            assert table is not None
            expected = float(probe_seconds(distribution, family, drawn.shape, table.tokens))
            line += f"; {expected:7.3f} {probe:7.3f} {expected / probe:7.2f}"
            probes.append(probe / expected)
        print(line, drawn.method, drawn.shape, flush=True)
        rows.append(unit_costs(distribution, drawn))
        steps.append(step)
        ratios.append(said / step)
    within = np.mean(np.abs(np.array(ratios) - 1) <= 0.25)
    print(f"within 25 % of the measured time: {within:.0%} of {len(ratios)} draws")
    if arguments.fit:
        from scipy.optimize import nnls

        unit, seconds = np.array(rows), np.array(steps)
        relative = unit / seconds[:, None]
        scale = relative.max(axis=0)
        found, _ = nnls(relative / scale, np.ones(len(steps)))
        for name, value in zip(COEFFICIENTS, found / scale, strict=True):
            print(f"{name} = {value:.3g}")
        print(f"probe: multiply by {np.median(probes):.3g}" if probes else "probe: not measured")


if __name__ == "__main__":
    main()
