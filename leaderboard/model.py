"""`python -m leaderboard model`: the model repository of `gated`, the best forecaster, as a folder.

Weights are safetensors (no pickle, no code), the card is made from committed results, and `.eval_results` holds what
the Hub's leaderboards read, by huggingface_hub's own classes. `moeload-bench publish --as model` sends it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml

from leaderboard.committed import ROOT, committed_results
from leaderboard.templates import render_text
from moeload_bench.errors import MoeloadError
from moeload_bench.files import write_whole
from moeload_bench.publishing.pretrained import PINNED, WEIGHTS, archive_of
from moeload_bench.results.render import markdown_table
from moeload_bench.states.rule import LABELS
from moeload_bench.traces.hub import release_order, suite_pins

NAME, METRIC = "gated", "window_tv"
SUITES = ("v3",)
TRACES = "ORG/moeload-traces"
"""Stands for the dataset until a suite names it."""
PAPER = "arxiv:2404.16914"


def model_files(place: str = "ORG/moeload-gated") -> dict[str, bytes]:
    """Return the files of the repository ``place`` by path; raise `MoeloadError` if the weights are not the pinned."""
    rows = {suite: _rows(suite) for suite in SUITES}
    files = {
        WEIGHTS: _weights(),
        "README.md": _card(place, rows).encode(),
        "LICENSE": (ROOT / "LICENSE").read_bytes(),
    }
    return files | {f".eval_results/moeload-{suite}.yaml": _records(suite, found) for suite, found in rows.items()}


def _weights() -> bytes:
    from safetensors.numpy import save

    with np.load(ROOT / "baselines" / "_gate.npz", allow_pickle=False) as archive:
        arrays = {name: np.ascontiguousarray(archive[name]) for name in sorted(archive.files)}
    return save(arrays, metadata={"format": "np"})


def _rows(suite: str) -> list[Any]:
    """Return the forecaster's row of each state that all suites have."""
    rows = committed_results(suite).summarize(["state"], METRIC)
    rows = rows[(rows["forecaster"] == NAME) & rows["state"].isin(LABELS) & rows["skill"].notna()]
    return list(rows.itertuples())


def _card(place: str, rows: dict[str, list[Any]]) -> str:
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        license="apache-2.0",
        library_name="moeload-bench",
        tags=["mixture-of-experts", "expert-load", "timeseries", PAPER],
        pipeline_tag="time-series-forecasting",
        datasets=[_traces()[0]],
        model_name=NAME,
    )
    lines = [(f"`{suite}`", row.state, f"{row.skill:+.3f}") for suite, found in rows.items() for row in found]
    with np.load(ROOT / "baselines" / "_gate.npz", allow_pickle=False) as archive:
        parameters = sum(archive[name].size for name in archive.files if archive[name].dtype == np.float32)
    results = markdown_table(("Suite", "State", "Skill"), lines)
    front = str(data.to_yaml(line_break="\n")).strip()
    return render_text(
        Path(__file__).with_suffix(".md.j2"),
        front=front, place=place, weights=WEIGHTS, results=results, parameters=f"{parameters:,}",
    )  # fmt: skip


def _records(suite: str, rows: list[Any]) -> bytes:
    """Return the evaluation records of a suite: what rises is better, so skill in percent."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    repo, revision = _traces()
    entries: list[Any] = [
        EvalResultEntry(
            dataset_id=repo,
            task_id=f"{suite}-{row.state}",
            value=round(100 * (row.skill), 2),
            dataset_revision=revision,
            notes=f"skill of {METRIC} against sw_avg, percent, all horizons",
        )
        for row in rows
    ]
    return str(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)).encode()


def _traces() -> tuple[str, str | None]:
    """Return the dataset's repository and tag, as a suite names them."""
    places = {(pin.repo, pin.revision) for _, pin in suite_pins()}
    return max(places, key=release_order) if places else (TRACES, None)


def write_model(out: Path, place: str) -> Path:
    """Write the folder; raise `MoeloadError` if it holds something already, or the weights are not the pinned ones."""
    if out.exists() and any(out.iterdir()):
        raise MoeloadError(f"{out}: the folder is not empty; name another one or empty it")
    for name, data in model_files(place).items():
        write_whole(out / name, data)
    archive_of(out / WEIGHTS, PINNED[NAME])
    return out


def model(
    out: Annotated[Path, typer.Option(help="The folder to write.")] = ROOT / "build" / "model",
    repo: Annotated[
        str, typer.Option(help="The model repository that the card names, ORG/NAME.")
    ] = "ORG/moeload-gated",
) -> None:
    """Write the model repository of `gated`: weights in safetensors, card, evaluation records.

    The same committed files give the same bytes. `moeload-bench publish FOLDER --repo ORG/NAME --tag TAG --as model`
    sends it.
    """
    print(f"{write_model(out, repo)}: model repository of {NAME}, weights {PINNED[NAME][:16]}")
