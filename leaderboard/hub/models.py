"""`python -m leaderboard models`: a model repository for each entry, and the lines for the Hub's list of frameworks.

A repository holds a card and `.eval_results`, what the Hub's leaderboards read, by huggingface_hub's own classes; that
of `gated` its weights besides (safetensors: no pickle, no code). `moeload-bench publish --as model` sends one.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from leaderboard.committed import ROOT
from leaderboard.hub import require_empty
from leaderboard.hub.benchmark import Task, framework_lines, metric_words, tasks
from leaderboard.site.words import run_command
from leaderboard.templates import render_text
from moeload_bench.errors import MoeloadError, counted, short
from moeload_bench.files import file_name, write_whole
from moeload_bench.names import name_problem
from moeload_bench.publishing.pretrained import PINNED, WEIGHTS, archive_of
from moeload_bench.publishing.release import RECORDS
from moeload_bench.publishing.yaml_text import front_text, yaml_text
from moeload_bench.results.render import markdown_table
from moeload_bench.traces.hub import release_order, suite_pins

WITH_WEIGHTS = "gated"
_ARCHIVE = ROOT / "baselines" / "_gate.npz"
FRAMEWORK_LINES = "eval.ts.txt"
OURS, LICENCES = "Apache-2.0", ("Apache-2.0", "MIT", "BSD-3-Clause")
"""The licence whose text goes along, and those that the Hub knows by this name in small letters."""
PAPER = "arxiv:2404.16914"
_ORG = re.compile(r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*")
_MODEL = re.compile(r"(?!.*\.git\Z)[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")


class Places(NamedTuple):
    """Where the Hub holds what records name: the organisation, and the commit of the dataset."""

    org: str
    revision: str

    @property
    def dataset(self) -> str:
        """Return the dataset's repository, that which a suite names where one does."""
        pinned = {(pin.repo, pin.revision) for _, pin in suite_pins()}
        return max(pinned, key=release_order)[0] if pinned else f"{self.org}/moeload-traces"

    def model(self, name: str) -> str:
        """Return the repository of an entry; a name that the Hub would refuse is there as its hash."""
        plain = name if _MODEL.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest()[:12]
        return f"{self.org}/moeload-{plain}"

    def rows(self, task: Task, name: str) -> str:
        """Return the address of the rows that a value is the mean of."""
        place = f"{self.org}/moeload-results/blob/main/{task.folder}/{file_name(name)}.parquet"
        return f"https://huggingface.co/datasets/{place}"


def places_of(org: str, revision: str) -> Places:
    """Return the places; raise `MoeloadError` for what is no organisation or no commit."""
    if not _ORG.fullmatch(org):
        raise MoeloadError(f"got organisation {short(org)}, expected letters, digits and single - between")
    if not re.fullmatch("[0-9a-f]{40}", revision):
        raise MoeloadError(f"got revision {short(revision)}, expected the dataset's commit, which `publish` prints")
    return Places(org, revision)


def entry_names() -> list[str]:
    """Return the entries that have a value in a task."""
    return sorted({name for task in tasks() for name in task.saved})


def model_files(name: str, places: Places) -> dict[str, bytes]:
    """Return the files of an entry's repository by path; raise `MoeloadError` for a name that is none."""
    if (problem := name_problem("entry", name)) is not None:
        raise MoeloadError(problem)
    scored = [task for task in tasks() if name in task.saved]
    licence = next((entry.record.licence for task in scored if (entry := task.board.entry(name)).record), None)
    files = {"README.md": _card(name, scored, licence, places).encode(), RECORDS: _records(name, scored, places)}
    if licence == OURS:
        files["LICENSE"] = (ROOT / "LICENSE").read_bytes()
    return files | ({WEIGHTS: _weights()} if name == WITH_WEIGHTS else {})


def _weights() -> bytes:
    from safetensors.numpy import save

    with np.load(_ARCHIVE, allow_pickle=False) as archive:
        arrays = {name: np.ascontiguousarray(archive[name]) for name in sorted(archive.files)}
    return save(arrays, metadata={"format": "np"})


def _card(name: str, scored: list[Task], licence: str | None, places: Places) -> str:
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        license=licence.lower() if licence in LICENCES else "other",
        library_name="moeload-bench",
        tags=["mixture-of-experts", "expert-load", "timeseries", PAPER],
        pipeline_tag="time-series-forecasting",
        datasets=[places.dataset],
        model_name=name,
    )
    lines = [(task.id, f"{task.saved[name]:+.1f}", task.board.entry(name).standing) for task in scored]
    with np.load(_ARCHIVE, allow_pickle=False) as archive:
        parameters = sum(archive[part].size for part in archive.files if archive[part].dtype == np.float32)
    entries = [task.board.entry(name) for task in scored]
    return render_text(
        Path(__file__).with_suffix(".md.j2"),
        front=front_text(data), name=name, place=places.model(name),
        weights=WEIGHTS if name == WITH_WEIGHTS else "", parameters=f"{parameters:,}", kind=entries[0].model_type,
        authors=next((", ".join(entry.record.authors) for entry in entries if entry.record), "not given"),
        licence=licence or "not given", command=run_command(entries[-1].entry),
        metric=metric_words(), results=markdown_table(("Task", "Saved, %", "Standing"), lines),
    )  # fmt: skip


def _records(name: str, scored: list[Task], places: Places) -> bytes:
    """Return the evaluation records of an entry.

    The Hub's own mark "verified" needs a token that only its jobs give: `notes` says how far we checked a result.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    records: list[Any] = [
        EvalResultEntry(
            dataset_id=places.dataset,
            task_id=task.id,
            value=task.saved[name],
            dataset_revision=places.revision,
            date=task.board.entry(name).entry.environment.created,
            source_url=places.rows(task, name),
            source_name="scores of every forecast",
            source_org=places.org,
            notes=f"standing: {task.board.entry(name).standing}",
        )
        for task in scored
    ]
    return yaml_text(eval_result_entries_to_yaml(records)).encode()


def write_models(out: Path, places: Places) -> list[Path]:
    """Write the folders; raise `MoeloadError` if ``out`` holds something, or weights are not the pinned ones."""
    require_empty(out)
    folders = []
    for name in entry_names():
        folders.append(out / places.model(name).split("/")[1])
        for path, data in model_files(name, places).items():
            write_whole(folders[-1] / path, data)
        if name == WITH_WEIGHTS:
            archive_of(folders[-1] / WEIGHTS, PINNED[name])
    write_whole(out / FRAMEWORK_LINES, framework_lines(places.dataset).encode())
    return folders


def models(
    revision: Annotated[str, typer.Option(help="The dataset's commit, which `publish` prints.")],
    org: Annotated[str, typer.Option(help="The organisation on the Hub that holds all repositories.")] = "ORG",
    out: Annotated[Path, typer.Option(help="The folder to write.")] = ROOT / "build" / "models",
) -> None:
    """Write a model repository for each entry, and the lines for the Hub's list of frameworks.

    The same committed files give the same bytes. `moeload-bench publish FOLDER --repo ORG/NAME --tag TAG --as model`
    sends one.
    """
    folders = write_models(out, places_of(org, revision))
    print(f"{out}: model repositories of {counted(len(folders), 'forecaster')}, and {FRAMEWORK_LINES}")
