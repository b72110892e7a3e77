"""Freeze a suite: traces by content hash and origins by the state rule, written as one TOML file.

    python leaderboard/freeze_suite.py mini moeload_bench/data --description "..."

Splits say what is what: `test` runs are scored, `train` runs are open for fitting. Origins are spread evenly over the
rows where all layers agree on the state and the largest horizon still fits; a run with fewer than 20 in a state is
refused. Deterministic: the same traces give the same file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from moeload_bench.errors import SuiteError
from moeload_bench.states import StateRule, choose_origins, label_states
from moeload_bench.store import data_sha256, list_traces, read_trace
from moeload_bench.suite import HORIZONS, ORIGINS_PER_STATE, FitTrace, Suite, SuiteTrace

SUITES = Path(__file__).resolve().parent.parent / "moeload_bench" / "suites"
QUANTILES = (0.1, 0.5, 0.9)


def freeze(name: str, folder: Path, description: str, baselines: tuple[str, ...], per_state: int) -> Suite:
    """The suite over all traces of a folder; raises `SuiteError` for a run without enough origins in a state."""
    rule = StateRule()
    fit, scored = [], []
    for ref in sorted(list_traces(folder)):
        trace = read_trace(ref.path)
        sha256 = data_sha256(trace)
        if trace.meta.split == "train":
            fit.append(FitTrace(id=trace.id, data_sha256=sha256))
            continue
        labels = label_states(trace.load_SLE, stride=trace.meta.stride, rule=rule)
        chosen = choose_origins(labels, trace.step_S, HORIZONS[-1], per_state)
        for state, origins in chosen.items():
            if len(origins) < ORIGINS_PER_STATE:
                raise SuiteError(f"{trace.id}: {len(origins)} origins are {state}, expected {ORIGINS_PER_STATE}")
        entry = {state: tuple(origins) for state, origins in chosen.items()}
        scored.append(SuiteTrace(id=trace.id, data_sha256=sha256, **entry))
    return Suite(
        name=name,
        description=description,
        horizons=HORIZONS,
        quantiles=QUANTILES,
        baselines=baselines,
        rule=rule,
        fit=tuple(fit),
        traces=tuple(scored),
    )


def to_toml(suite: Suite) -> str:
    """The suite as TOML; `load_suite` reads the same suite back."""
    content = suite.model_dump(mode="json", exclude={"fit", "traces", "rule", "hub"})
    lines = [f"{key} = {_value(value)}" for key, value in content.items()]
    lines += ["", "[rule]"]
    lines += [f"{key} = {_value(value)}" for key, value in suite.model_dump(mode="json")["rule"].items()]
    for key, entries in (("fit", suite.fit), ("traces", suite.traces)):
        for entry in entries:
            lines += ["", f"[[{key}]]"]
            lines += [f"{k} = {_value(v)}" for k, v in entry.model_dump(mode="json").items() if v != []]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return str(value)


def main() -> None:
    """Write the suite's TOML file and print its hash."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--description", required=True)
    parser.add_argument("--baselines", nargs="+", default=["uniform", "last_value", "sw_avg", "arima", "lstm"])
    parser.add_argument("--per-state", type=int, default=ORIGINS_PER_STATE)
    args = parser.parse_args()
    suite = freeze(args.name, args.folder, args.description, tuple(args.baselines), args.per_state)
    path = SUITES / f"{args.name}.toml"
    path.write_text(to_toml(suite))
    print(f"{path}: suite {suite.name}, sha256 {suite.sha256()}")


if __name__ == "__main__":
    main()
