"""Each kind of repository against the local Hub: whole or not there, and loaded back by the real clients."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moeload_bench.baselines import _gate
from moeload_bench.baselines.gated import Gated

from leaderboard.hub.models import Places, model_files
from leaderboard.site.command import write_site
from leaderboard.site.pages import TEMPLATES
from moeload_bench.errors import HashMismatchError, HubError, NotFoundError
from moeload_bench.forecaster import ForecastRequest, step_block, trace_info
from moeload_bench.publishing import pretrained as weights
from moeload_bench.publishing.pretrained import PINNED, pretrained
from moeload_bench.publishing.release import publish
from tests.conftest import need, synthetic_trace
from tests.support.hub import LocalHub
from tests.support.hub.helpers import folder_bytes, make_folder, run_python
from tests.support.submitted import make_world, write_folder

pytest_plugins = ("tests.support.hub.fixtures",)
need("safetensors", "pip install '.[record]'")

PLACES = Places("acme", "0" * 40)
REPO = {"dataset": "acme/traces", "model": "acme/moeload-gated", "space": "acme/moeload-leaderboard"}


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """A folder of these files."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Traces, the real model repository, and a site with the real front matter and a few pages, some in folders."""
    root = tmp_path_factory.mktemp("folders")
    pages = [(f"{place}page{n}.html", bytes(n)) for n in range(1, 4) for place in ("", "traces/")]
    card = [("README.md", (TEMPLATES / "space_card.md").read_bytes()), ("index.html", b"<html></html>")]
    write_site([*card, *pages], root / "space")
    return {
        "dataset": make_folder(root / "dataset"),
        "model": write_files(root / "model", model_files("gated", PLACES)),
        "space": root / "space",
    }


def there(api: Any, kind: str, tmp_path: Path, revision: str) -> dict[str, bytes]:
    """The files of a revision, downloaded by the real client."""
    cache = tmp_path / "cache" / revision
    return folder_bytes(Path(api().snapshot_download(REPO[kind], repo_type=kind, revision=revision, cache_dir=cache)))


@pytest.mark.parametrize("kind", REPO)
def test_the_tag_equals_the_folder_and_nothing_is_sent_twice(
    kind: str, made: dict[str, Path], hub: LocalHub, api: Any, tmp_path: Path
) -> None:
    """Published, downloaded, published again; a dry run before, without a token, says the same and sends nothing."""
    planned = publish(made[kind], REPO[kind], "v1.0", kind=kind, dry_run=True, api=api(False))
    assert (planned.dry_run, planned.commit) == (True, None)
    assert all(seen.method in ("GET", "HEAD") for seen in hub.seen)
    done = publish(made[kind], REPO[kind], "v1.0", kind=kind, api=api())
    assert done.tagged
    assert set(done.plan.add) == set(planned.plan.add) == set(folder_bytes(made[kind]))
    assert there(api, kind, tmp_path, "v1.0") == folder_bytes(made[kind])
    before = len(hub.seen)
    again = publish(made[kind], REPO[kind], "v1.0", kind=kind, api=api())
    assert (again.tagged, again.plan.empty, again.commit) == (False, True, done.commit)
    assert all(seen.method in ("GET", "HEAD") for seen in hub.seen[before:])


SUBMIT = """
import sys
from pathlib import Path
from moeload_bench.publishing.folder import read_folder
from moeload_bench.publishing.submit import Author, ResultsRepository, make_draft
from moeload_bench.suites.suite import load_suite
folder, suite, repo = sys.argv[1:]
draft = make_draft(read_folder(folder).target(), "mine", Author(["A"], "MIT", None, False, "x"), load_suite(suite))
ResultsRepository.open(repo).open_pull_request(draft)
"""
"""What `submit --repo` does once the contract has been checked."""


def test_a_killed_submission_is_a_whole_pull_request_or_none(hub: LocalHub, api: Any, tmp_path: Path) -> None:
    """SIGKILL at each of its first requests: main is as before, and a request holds every file, or there is none."""
    world = make_world(tmp_path / "world")
    folder = write_folder(tmp_path, world)
    repo = "acme/results"
    api().create_repo(repo, repo_type="dataset")
    before = api().list_repo_files(repo, repo_type="dataset")
    words = ("-c", SUBMIT, str(folder), world.suite_file, repo)
    every_file: set[str] = set()
    for stop_after in (1, 3, None):
        stop_at = None if stop_after is None else len(hub.seen) + stop_after
        child = run_python(hub, tmp_path / "home", *words)
        while stop_at is not None and child.poll() is None and len(hub.seen) < stop_at:
            time.sleep(0.001)
        if stop_at is not None:
            child.kill()
        output = child.communicate()[0]
        assert stop_at is not None or child.returncode == 0, output
        assert api().list_repo_files(repo, repo_type="dataset") == before
        for pull in api().get_repo_discussions(repo, repo_type="dataset"):
            there = api().list_repo_files(repo, repo_type="dataset", revision=pull.git_reference)
            every_file = every_file or set(there)
            assert set(there) == every_file
    assert {f"submissions/mine/{name}" for name in ("forecaster.py", "submission.toml")} <= every_file


def test_weights_are_loaded_by_name_and_forecast_alike(made: dict[str, Path], hub: LocalHub, api: Any) -> None:
    """From the Hub at a tag: the same forecast as the weights that ship with the package, with quantiles."""
    publish(made["model"], REPO["model"], "v1.0", kind="model", api=api())
    fitted = pretrained("gated", f"{REPO['model']}@v1.0", api=api(False))
    trace = synthetic_trace(300)
    request = ForecastRequest(origin=300, horizon=100, horizons=(1, 100))
    forecasts = []
    for given in ({"fitted": fitted}, {"weights": "shipped"}):
        forecaster = Gated(trace_info(trace), 0, **given)  # type: ignore[arg-type]
        forecaster.observe(step_block(trace, 0, 300))
        forecasts.append(forecaster.forecast(request))
    np.testing.assert_array_equal(forecasts[0].share_BLE, forecasts[1].share_BLE)


def test_other_weights_are_refused(
    made: dict[str, Path], hub: LocalHub, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hash that is not the pinned one, and a forecaster that has no weights."""
    publish(made["model"], REPO["model"], "v1.0", kind="model", api=api())
    with pytest.raises(NotFoundError, match="gated"):
        pretrained("sw_avg", f"{REPO['model']}@v1.0")
    monkeypatch.setitem(weights.PINNED, "gated", "0" * 64)
    with pytest.raises(HashMismatchError, match="expected 0000"):
        pretrained("gated", f"{REPO['model']}@v1.0", api=api(False))


def test_the_weights_are_those_that_the_package_ships(made: dict[str, Path]) -> None:
    """The same arrays, and the pin is of this file; nothing in the folder is a pickle or code."""
    archive = weights.archive_of(made["model"] / "model.safetensors", PINNED["gated"])
    ours, shipped = _gate.read_gate(archive, "here"), _gate.shipped_gate()
    for name in ("mean_C", "scale_C", "inner_CU", "inner_U", "outer_UM", "outer_M"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(shipped, name))
    names = set(folder_bytes(made["model"]))
    assert names == {"README.md", "LICENSE", "model.safetensors", ".eval_results/moeload.yaml"}


def test_the_space_is_static_by_its_front_matter(made: dict[str, Path]) -> None:
    """What a static Space needs: the sdk and the page that opens."""
    from huggingface_hub import SpaceCard

    card = SpaceCard.load(made["space"] / "README.md")
    assert (card.data.sdk, card.data.app_file) == ("static", "index.html")
    assert (made["space"] / card.data.app_file).is_file()


@pytest.mark.parametrize(
    ("name", "says"),
    [("weights.bin", "got weights.bin"), ("run.py", "got run.py"), (None, ".eval_results/moeload.yaml missing")],
)
def test_a_folder_with_anything_else_is_refused(name: str | None, says: str, made: Any, tmp_path: Path) -> None:
    """Pickles and code are never sent; a folder without its records is none."""
    parts = ("README.md", *((".eval_results/moeload.yaml", name) if name else ()))
    folder = write_files(tmp_path / "folder", dict.fromkeys(parts, b"x"))
    with pytest.raises(HubError, match=says):
        publish(folder, REPO["model"], "v1.0", kind="model")
