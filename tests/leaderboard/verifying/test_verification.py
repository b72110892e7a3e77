"""Verification accepts the honest and rejects, with the reason, what it must.

Level `none` stands in for the sandbox here, for speed; the whole way through the sandbox is in test_submission_cli.py.
"""

from __future__ import annotations

import itertools
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leaderboard.committed import entry_problems
from leaderboard.verifying import verify as verification
from leaderboard.verifying.agreement import EXACTLY, differences
from leaderboard.verifying.verify import MAX_GROWTH, MAX_REASON, Request, Verified, verify, write_verification
from moeload_bench.errors import MissingExtraError
from moeload_bench.publishing.folder import Folder, read_folder
from moeload_bench.publishing.submission import Verification
from moeload_bench.results.results import load_results
from moeload_bench.traces.store import write_trace
from moeload_bench.traces.trace import Trace
from tests.conftest import once_per_token, synthetic_trace
from tests.support.altered import entry_of
from tests.support.submitted import NAIVE, World, make_world, results_of, submitted, wheel


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def verified(folder: Folder, world: World, **options: Any) -> Verified:
    return verify(Request(folder, world.suite, world.paths, level="none", seed=0, **options))


@pytest.mark.parametrize("name", ["uniform", "last_value", "sw_avg"])
def test_honest_baselines_are_verified(name: str, world: World, tmp_path: Path) -> None:
    """Cheap ones."""
    made = verified(submitted(tmp_path, world, code=None, name=name, target=name), world)
    assert (made.reasons, made.record.status) == ([], "verified")


def test_a_strangers_honest_file_is_verified_also_on_fresh_runs(world: World, tmp_path: Path) -> None:
    """A run from another seed, in any folder of traces."""
    fresh = synthetic_trace(seed=77, recipe="one", split="test", run=9)
    write_trace(fresh, tmp_path / "fresh" / f"{fresh.id}.parquet")
    made = verified(submitted(tmp_path, world, kwargs={"window": 50}), world, traces=tmp_path / "fresh")
    assert made.reasons == []
    assert set(made.record.findings) == {"fresh_runs"}
    assert Verification.model_validate_json(made.record.to_json()) == made.record


def test_runs_come_in_an_order_that_nobody_knows(world: World, tmp_path: Path) -> None:
    """Another one in each verification; what is published is in the suite's."""
    folder = submitted(tmp_path, world, code=None, name="uniform", target="uniform")
    orders = set()
    for seed in range(8):
        said: list[str] = []
        request = Request(folder, world.suite, world.paths, level="none", seed=seed)
        made = verify(replace(request, progress=lambda done, total, what, said=said: said.append(what)))
        assert said[0] == said[1], "the first run comes twice"
        orders.add(tuple(what.rpartition(" ")[2] for what in said[1:]))
        assert made.results is not None
        assert made.results.traces == [entry.id for entry in world.suite.traces]
    assert orders == set(itertools.permutations(entry.id for entry in world.suite.traces))


def test_runs_of_other_recipes_are_reported_and_not_judged(world: World, tmp_path: Path) -> None:
    """How the even share compares with a mean of the past depends on the recipe: here half of the experts are idle."""
    load_SLE = np.random.default_rng(0).multinomial(1024, (0.48, 0.48, 0.02, 0.02), size=(400, 2))
    fresh = Trace.from_arrays(
        once_per_token(load_SLE, 512), 512, 2, global_batch_tokens=512, recipe="three", split="test", run=1
    )
    write_trace(fresh, tmp_path / "fresh" / f"{fresh.id}.parquet")
    folder = submitted(tmp_path, world, code=None, name="uniform", target="uniform")
    made = verified(folder, world, traces=tmp_path / "fresh")
    assert made.record.findings["other_recipes"] > MAX_GROWTH["fresh_runs"]
    assert "fresh_runs" not in made.record.findings
    assert made.reasons == []


def test_what_is_published_is_the_run_of_the_folder(world: World, tmp_path: Path) -> None:
    """The numbers of the same code and suite, under the submission's name; the entry then passes every check."""
    folder, place = submitted(tmp_path, world), tmp_path / "results" / "small"
    write_verification(verified(folder, world), folder, place)
    published = load_results(place, layers=True)
    entry = entry_of(published)
    assert (entry.name, entry.status) == ("mine", "verified")
    assert differences(published, results_of(folder, world), EXACTLY) == []
    assert list(entry_problems(entry, read_folder(folder.path), world.suite)) == []


def test_a_submission_that_fails_has_no_result(world: World, tmp_path: Path) -> None:
    """Its folder says that it failed; a result that was there stays as it is."""
    folder = submitted(
        tmp_path, world, code=NAIVE.replace("return Forecast", "raise ValueError\n        return Forecast")
    )
    place = tmp_path / "results" / "small"
    write_verification(verified(folder, world), folder, place)
    found = read_folder(folder.path).verification
    assert found is not None
    assert found.status == "failed"
    assert not place.exists()


def test_arguments_that_a_baseline_does_not_take_are_a_reason(world: World, tmp_path: Path) -> None:
    """Not an error of the verification, which writes what it found."""
    made = verified(submitted(tmp_path, world, code=None, name="sw_avg", target="sw_avg", kwargs={"nope": 1}), world)
    assert made.record.status == "failed"
    assert "nope" in made.reasons[0]


def test_what_is_found_does_not_depend_on_how_it_is_spread(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All runs of a re-run go through the evaluation's parallelism with the same number of jobs."""
    asked: list[int] = []
    run_spread = verification.run_spread

    def watched(calls: Any, *, jobs: int) -> Any:
        asked.append(jobs)
        return run_spread(calls, jobs=1)

    folder = submitted(tmp_path, world)
    alone = verified(folder, world)
    monkeypatch.setattr(verification, "run_spread", watched)
    beside = verified(folder, world, jobs=2)
    assert set(asked) == {2}
    assert (alone.record.findings, alone.reasons) == (beside.record.findings, beside.reasons)


def test_what_the_check_refuses_is_not_run(world: World, tmp_path: Path) -> None:
    """A submission to another task list, with code that would leave a mark."""
    mark = tmp_path / "mark"
    suite = {"name": "small", "sha256": "0" * 64}
    folder = submitted(tmp_path, world, code=f"open({str(mark)!r}, 'w')\n" + NAIVE, suite=suite)
    made = verified(folder, world)
    assert (made.record.status, made.record.findings) == ("failed", {})
    assert made.reasons[0].startswith("suite hash: submission.toml says '0000")
    assert not mark.exists()


FITTED = """
import os
import numpy as np
from moeload_bench import Forecast
class Mine:
    def __init__(self, info, seed, fitted=None):
        self.rows, self.noise = [], np.random.default_rng(list(fitted or b"")).lognormal(0, 0.008, info.num_experts)
    @classmethod
    def fit(cls, runs, seed):
        return os.environ["PROCESSOR"].encode()
    def observe(self, block):
        self.rows.extend(block.load_SLE / block.load_SLE.sum(axis=2, keepdims=True))
    def forecast(self, request):
        share_LE = np.mean(self.rows[-20:], axis=0) * self.noise
        return Forecast.constant(share_LE / share_LE.sum(axis=1, keepdims=True), request.horizon)
"""


def test_what_was_fitted_lies_beside_the_submission(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes that every published run was scored with, and none where the entry is refused: one that was fitted is
    not statistical.
    """
    monkeypatch.setenv("PROCESSOR", "ours")
    suite = world.suite.model_copy(update={"fit": world.suite.traces})
    world = World(suite, world.paths)
    folder, place = submitted(tmp_path, world, code=FITTED), tmp_path / "results"
    write_verification(verified(folder, world), folder, place)
    assert read_folder(folder.path).fitted() == b"ours"
    made = verified(submitted(tmp_path, world, code=FITTED, model_type="statistical"), world)
    assert "expected 'learned'" in made.reasons[0]
    write_verification(made, folder, place)
    assert read_folder(folder.path).fitted() is None


def test_code_that_fails_here_is_rejected_with_its_own_words_bounded(world: World, tmp_path: Path) -> None:
    """What it raises may be long, and of many lines."""
    code = NAIVE.replace(
        "return Forecast", "raise ValueError('x' * 5000 + chr(10) + '::error::')\n        return Forecast"
    )
    made = verified(submitted(tmp_path, world, code=code), world)
    assert made.record.status == "failed"
    assert "4 tasks failed, the first is origin 50: forecast raised ValueError: xxx" in made.reasons[0]
    assert made.reasons[0].isprintable()
    assert len(made.reasons[0]) <= MAX_REASON


def test_a_package_that_is_missing_here_rejects_nobody(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A baseline that this machine cannot run: the extra is named, no verification is made."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "moeload_bench.baselines.lstm", raising=False)
    folder = submitted(tmp_path, world, code=None, name="lstm", target="lstm")
    with pytest.raises(MissingExtraError, match=r"moeload-bench\[torch\]"):
        verified(folder, world)


NOISY = """
import os
import numpy as np
from moeload_bench import Forecast
class Mine:
    def __init__(self, info, seed, fitted=None):
        self.rows, self.rng = [], np.random.default_rng(list(os.urandom(8)))
    @classmethod
    def fit(cls, runs, seed):
        return b"nothing"
    def observe(self, block):
        self.rows.extend(block.load_SLE / block.load_SLE.sum(axis=2, keepdims=True))
    def forecast(self, request):
        mean_LE = np.mean(self.rows[-20:], axis=0)
        share_LE = mean_LE * self.rng.lognormal(0, 0.001, mean_LE.shape)
        return Forecast.constant(share_LE / share_LE.sum(axis=1, keepdims=True), request.horizon)
"""


def test_a_fit_that_learns_nothing_hides_no_noise(world: World, tmp_path: Path) -> None:
    """One run is run twice from the same fitted bytes, and has to give the same forecasts, however small the noise."""
    suite = world.suite.model_copy(update={"fit": world.suite.traces[:1], "traces": world.suite.traces[1:]})
    world = World(suite, world.paths)
    made = verified(submitted(tmp_path, world, code=NOISY), world)
    assert made.record.status == "failed"
    words = r"two/test/seed1: not deterministic: two runs from the same fitted bytes differ in forecasts_sha256, .*"
    assert re.fullmatch(words, made.reasons[0])


@pytest.mark.slow
def test_requirements_that_do_not_install_are_rejected(world: World, tmp_path: Path) -> None:
    """With pip's own words."""
    wheel(tmp_path / "wheels", "present", "1.0", "")
    folder = submitted(tmp_path, world, requirements="present==1.0\nabsent==1.0\n")
    made = verified(folder, world, find_links=tmp_path / "wheels", no_index=True)
    assert "do not install" in made.reasons[0]
    assert "absent==1.0" in made.reasons[0]
