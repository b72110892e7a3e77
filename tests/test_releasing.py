"""RELEASING.md from end to end: a Hub and an index of this machine, real clients, a kill where most is sent."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import moeload_bench
from leaderboard.committed import ROOT
from leaderboard.hub.dataset import write_dataset
from leaderboard.hub.models import places_of, write_models
from leaderboard.site.cite import dois
from moeload_bench.publishing.release import RECORDS, publish
from tests.conftest import needs_traces
from tests.support.hub import LocalHub
from tests.support.hub.helpers import folder_bytes, run_python
from tests.test_installed import Installed, install, offline

pytest_plugins = ("tests.support.hub.fixtures",)

DATASET, TAG, VERSION = "acme/moeload-traces", "v3.0", moeload_bench.__version__
SEASON = ("moeload-bench", "run", "last_value", "--suite", "2027-02", "--fresh")


def output_of(child: subprocess.Popen[str]) -> str:
    """What a child printed that ended well."""
    output = child.communicate()[0]
    assert child.returncode == 0, output
    return output


def killed_and_again(hub: LocalHub, home: Path, stop_after: int, *words: str) -> str:
    """What `publish` says after one that was killed when it had made so many requests."""
    stop_at = len(hub.seen) + stop_after
    child = run_python(hub, home, "-m", "moeload_bench", "publish", *words)
    while child.poll() is None and len(hub.seen) < stop_at:
        time.sleep(0.001)
    assert child.poll() is None, "it ended before it could be killed"
    child.kill()
    child.communicate()
    return output_of(run_python(hub, home, "-m", "moeload_bench", "publish", *words))


def nothing_is_sent(hub: LocalHub, api: Any, folder: Path, repo: str, tag: str, **kind: Any) -> None:
    """A second time what is there is compared, and that is all."""
    before = len(hub.seen)
    assert publish(folder, repo, tag, api=api(), **kind).plan.empty
    assert {seen.method for seen in hub.seen[before:]} <= {"GET", "HEAD"}


def check_season_from_the_hub(installed: Installed, hub: LocalHub) -> None:
    """A wheel without a checkout scores on the season: from the Hub, then without a network."""
    variables = {**hub.environment(installed.home / "hf", token=None), "MOELOAD_HUB": f"{DATASET}@{TAG}"}
    before = len(hub.seen)
    shown = [installed.run(*SEASON, prefix=prefix, **variables) for prefix in ([], offline())]
    assert [done.returncode for done in shown] == [0, 0], [done.stderr for done in shown]
    tables = [re.sub(r" +[\d.]+$", "", done.stdout, flags=re.M) for done in shown]  # without times
    assert tables[0] == tables[1]
    assert len({seen.path for seen in hub.seen[before:] if "/s2027_02/" in seen.path}) == 26


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_traces
def test_the_whole_way_is_rehearsed(hub: LocalHub, api: Any, snapshot: Any, tmp_path: Path) -> None:
    """Dataset, wheel, results, models and site, each whole after a kill or at once; a second time sends nothing.

    What the Hub holds agrees: a wheel scores on its runs, records name tasks of its `eval.yaml` and the commit of its
    tag, its card has the DOIs of its CITATION.cff.
    """
    home, dataset = tmp_path / "home", tmp_path / "dataset"
    write_dataset(dataset)
    said = killed_and_again(hub, home, 9, str(dataset), "--repo", DATASET, "--tag", TAG)
    commit = re.findall("commit ([0-9a-f]{40})", said)[-1]
    held = snapshot(DATASET, TAG)
    assert held == folder_bytes(dataset)
    assert [tag.target_commit for tag in api().list_repo_refs(DATASET, repo_type="dataset").tags] == [commit]
    assert held["CITATION.cff"] == (ROOT / "CITATION.cff").read_bytes()
    assert re.findall(r"\(https://doi\.org/(\S+)\)", held["README.md"].decode()) == dois(held["CITATION.cff"].decode())

    installed = install(tmp_path / "wheel")
    assert VERSION in installed.run("moeload-bench", "--version").stdout
    check_season_from_the_hub(installed, hub)

    kinds = [word for one in ("submissions", "results", "seasons/*/results") for word in ("--include", f"{one}/**")]
    results = ("upload", "acme/moeload-results", str(ROOT / "leaderboard"), ".", "--repo-type", "dataset", *kinds)
    output_of(run_python(hub, home, "-m", "huggingface_hub.cli.hf", *results))
    sent, place = snapshot("acme/moeload-results", "main"), "results/mini/sw_avg.parquet"
    assert sent[place] == (ROOT / "leaderboard" / place).read_bytes()
    assert not [name for name in sent if re.search(r"(^|/)(traces|entries)/", name)]

    folders = write_models(tmp_path / "models", places_of("acme", commit))
    weights = next(folder for folder in folders if (folder / "model.safetensors").is_file())
    killed_and_again(hub, home, 3, str(weights), "--repo", f"acme/{weights.name}", "--tag", VERSION, "--as", "model")
    for folder in folders:
        publish(folder, f"acme/{folder.name}", VERSION, kind="model", api=api())
    tasks = {task["id"] for task in yaml.safe_load(held["eval.yaml"])["tasks"]}
    for folder in folders:
        cache = tmp_path / "models.cache"
        there = Path(api().snapshot_download(f"acme/{folder.name}", revision=VERSION, cache_dir=cache))
        assert folder_bytes(there) == folder_bytes(folder)
        datasets = [record["dataset"] for record in yaml.safe_load((there / RECORDS).read_text())]
        assert {(one["id"], one["revision"]) for one in datasets} == {(DATASET, commit)}
        assert {one["task_id"] for one in datasets} <= tasks

    site, space = tmp_path / "site", "acme/moeload-leaderboard"
    output_of(run_python(hub, home, "-m", "leaderboard", "site", "--out", str(site), PYTHONPATH=str(ROOT)))
    publish(site, space, VERSION, kind="space", api=api())
    there = api().snapshot_download(space, repo_type="space", revision=VERSION, cache_dir=tmp_path / "site.cache")
    assert folder_bytes(Path(there)) == folder_bytes(site)

    nothing_is_sent(hub, api, dataset, DATASET, TAG)
    nothing_is_sent(hub, api, weights, f"acme/{weights.name}", VERSION, kind="model")
    nothing_is_sent(hub, api, site, space, VERSION, kind="space")
