"""A trace of others is published only if it is valid, free, says what it counts, names nobody, and is new."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moeload_bench.cli.app import app
from moeload_bench.publishing.admission import identifying_fields, publishing_problems
from moeload_bench.traces.lookup import bundled_folder
from moeload_bench.traces.meta import TraceMeta
from moeload_bench.traces.store import stored_meta, write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import needs_traces, synthetic_trace
from tests.support.synthetic import break_a_sum

ROOT = Path(__file__).resolve().parents[2]
FREE = {"recipe": "mine", "licence": "CC-BY-4.0", "count_semantics": "pre_drop"}


def put(folder: Path, trace: Trace) -> Path:
    return write_trace(trace, folder / f"{trace.id}.parquet")


def validate(*arguments: str | Path) -> tuple[int, list[str]]:
    """The exit status and the lines of `validate`."""
    done = CliRunner().invoke(app, ["validate", *map(str, arguments)])
    return done.exit_code, done.output.splitlines()


@pytest.mark.parametrize(
    ("meta", "says"),
    [
        ({"licence": "unknown"}, "licence is 'unknown', expected one of CC0-1.0, CC-BY-4.0"),
        ({"licence": "CC-BY-NC-4.0"}, "licence is 'CC-BY-NC-4.0'"),
        ({"count_semantics": "unknown"}, "say what the counts are"),
        ({"notes": ("trained in /home/jo/runs",)}, "notes.0 holds '/home/jo/runs', which identifies a machine or a"),
        ({"hardware": {"node": "gpu7.cluster"}}, "hardware.node holds 'gpu7.cluster'"),
        ({"optimizer": {"by": "jo@example.org"}}, "optimizer.by holds 'jo@example.org'"),
    ],
)
def test_what_the_metadata_says_decides(tmp_path: Path, meta: dict[str, object], says: str) -> None:
    """No open licence, no meaning of the counts, a name of a machine or a person: each by its field."""
    path = put(tmp_path, synthetic_trace(100, **{**FREE, **meta}))
    (line,) = publishing_problems(path, {})
    assert says in line


def test_the_command_names_each_reason(tmp_path: Path) -> None:
    """`ok` and status 0 for a sound trace; a line for each reason and status 1 for others, only with --public."""
    good = put(tmp_path / "good", synthetic_trace(100, seed=1, **FREE))
    bad = put(tmp_path / "bad", synthetic_trace(100, seed=2, count_semantics="unknown"))
    assert validate(good, "--public") == (0, [f"ok      {good}"])
    assert validate(bad) == (0, [f"ok      {bad}"])
    status, lines = validate(bad, "--public")
    assert (status, len(lines)) == (1, 2)
    assert all(line.startswith(f"refused {bad}: ") for line in lines)
    found = json.loads("".join(validate(bad, "--public", "--json")[1]))
    assert [entry["ok"] for entry in found] == [False, False]


def test_a_damaged_trace_is_refused_before_it_is_asked_more(tmp_path: Path) -> None:
    """Counts that do not add up are one line, with step and layer."""
    path = put(tmp_path, synthetic_trace(100, **FREE))
    break_a_sum(path)
    status, (line,) = validate(path, "--public")
    assert status == 1
    assert "step 5" in line


def test_a_copy_is_refused_under_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal `data_sha256` as a trace that is found here, also below `community`, or twice in one folder."""
    registry = tmp_path / "known"
    theirs = put(registry / "community", synthetic_trace(100, seed=1, **{**FREE, "recipe": "theirs"}))
    monkeypatch.setenv("MOELOAD_TRACES", str(registry))
    copy = put(tmp_path / "mine", synthetic_trace(100, seed=1, **FREE))
    status, (line,) = validate(copy, "--public")
    assert (status, line) == (1, f"refused {copy}: a copy of {theirs}: its data_sha256 is equal")
    names = ("again", "mine")
    first, second = (put(tmp_path / "two", synthetic_trace(100, seed=2, **{**FREE, "recipe": name})) for name in names)
    status, lines = validate(tmp_path / "two", "--public")
    assert status == 1
    assert lines == [f"ok      {first}", f"refused {second}: a copy of {first}: its data_sha256 is equal"]


def test_a_trace_is_no_copy_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace that lies where traces are found is checked in its place."""
    path = put(tmp_path / "community", synthetic_trace(100, **FREE))
    monkeypatch.setenv("MOELOAD_TRACES", str(tmp_path))
    assert validate(tmp_path / "community", "--public") == (0, [f"ok      {path}"])


# ---------------------------------------------------------------- what names a machine or a person


def meta(**fields: Any) -> TraceMeta:
    return TraceMeta(recipe="own", layers=(), experts=4, **fields)


@pytest.mark.parametrize(
    "text",
    [
        "node17.hpc.uni-bonn.de",
        "c123-005.ls6.tacc.utexas.edu",
        "login.leonardo.cineca.it",
        "ip-10-0-3-7.eu-central-1.compute.internal",
        "jolanda@cluster",
        "jo@example.org",
        "user=jolanda",
        "SLURM_JOB_USER=jolanda",
        "owner = jolanda",
        'user": "jolanda',
        "https://wandb.ai/jolanda/proj",
        "wandb.ai/jolanda/proj",
        "s3://jo-bucket/x",
        "gs://jo-bucket/x",
        "ssh://jo@gpu7/runs",
        "~/run",
        "~jo/run",
        "../jo/run",
        "./../jo/run",
    ],
)
def test_what_stands_in_a_sentence_is_found(text: str) -> None:
    """Hosts, logins, pages of runs, buckets and folders, whole, without the sentence around them."""
    assert identifying_fields(meta(notes=(f"from {text}, by hand",))) == [("notes.0", text)]


@pytest.mark.parametrize("name", [
    "SLURM_NODELIST", "slurm_job_user", "hostname", "hosts", "users", "user_name", "owner", "entity", "wandb_entity",
    "machine", "output_dir", "log_dir", "master_addr", "account",
])  # fmt: skip
def test_a_field_whose_name_says_whose_it_is_is_found(name: str) -> None:
    """Whatever stands in it, in a list too; not a number, nor a kind of processor, which Python calls machine."""
    assert identifying_fields(meta(config={name: "colossus"})) == [(f"config.{name}", "colossus")]
    assert identifying_fields(meta(config={name: ["colossus"]})) == [(f"config.{name}.0", "colossus")]
    assert identifying_fields(meta(config={name: "16"}, hardware={name: "x86_64"}, parallel={name: None})) == []


@pytest.mark.parametrize("text", [
    "1.2.3", "torch==2.1.0", "2.1.0.dev20240101+cu121", "v1.2.rc1", "1/2 of tokens", "~5/6 of them", "about ~half",
    "https://huggingface.co/datasets/allenai/c4", "huggingface.co/datasets/allenai/c4", "allenai/c4@v2.0",
    "https://arxiv.org/abs/2404.16914", "arxiv.org/abs/2404.16914", "export.arxiv.org", "dumps.wikimedia.org",
    "https://www2.census.gov/x", "https://s3.amazonaws.com/x", "https://github.com/a/b/pull/1", "docs.h5py.org",
    "mistralai/Mixtral-8x7B-v0.1", "Mixtral@main", "recall@ten", "regret@half", "sw_avg@window=10", "sha@1234567abc",
    "qwen3moe.layers.0.mlp", "mixtral8x7b.step100.pt", "layer1.proj.in", "model.gpu.weight", "config.cluster.size",
    "node=8 gpus=4", "num_nodes=16", "machine=x86_64", "user: none", "the author is unknown",
])  # fmt: skip
def test_versions_public_pages_and_names_in_code_stay(text: str) -> None:
    """What tells how a trace was made, and of what, is what metadata is there for."""
    assert identifying_fields(meta(notes=(f"from {text}, by hand",), config={"model": text})) == []


@needs_traces
def test_no_trace_of_this_project_names_anybody() -> None:
    """Those of the package, of the suites and of the seasons: the rule has no false alarm on their metadata."""
    folders = (bundled_folder(), ROOT / "traces", ROOT / "leaderboard")
    paths = [path for folder in folders for path in folder.rglob("seed*.parquet")]
    assert len(paths) > 100
    assert {path: found for path in paths if (found := identifying_fields(stored_meta(path)))} == {}


@pytest.mark.parametrize("text", ["a", "a-", "a."])
def test_a_long_text_is_read_in_linear_time(text: str) -> None:
    """A stranger's record may have 4 MiB; in time by the square, a twentieth of that would already take minutes."""
    note = text * (200_000 // len(text)) + " by jo@example.org"
    assert identifying_fields(meta(notes=(note,)))[-1] == ("notes.0", "jo@example.org")
