"""What names a machine or a person is found wherever the metadata has it; what says how a trace was made stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moeload_bench.publishing.admission import identifying_fields
from moeload_bench.traces.meta import TraceMeta
from moeload_bench.traces.store import bundled_folder, stored_meta
from tests.conftest import needs_traces

ROOT = Path(__file__).resolve().parents[2]


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
