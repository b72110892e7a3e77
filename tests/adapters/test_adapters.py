"""Other people's forecasters: series as block means, shares that sum to 1 whatever a library says, one path."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moeload_bench.adapters.blocks import ROWS, TENS, BlockAdapter, BlockMemory, path_through, simplex
from moeload_bench.errors import ForecastError, MoeloadError, TargetError
from moeload_bench.forecaster import ForecastRequest, StepBlock, TraceInfo, check_forecast
from moeload_bench.harness.conformance import check_forecaster
from moeload_bench.isolation.targets import class_target, load_class, parse_target
from tests.conftest import need, synthetic_load_SLE
from tests.support.needs import PEERS

INFO = TraceInfo(2, 4, 2, (0, 1), 512, 1, "none", 0.0, 0)
HORIZONS = (1, 10, 100)
ROOT = Path(__file__).parents[2]


class LastBlock(BlockAdapter):
    """What the newest block was, with a spread of a tenth."""

    def predict(self, context_NT: Any, ahead: int, levels: Sequence[float]) -> Any:
        point_NH = np.repeat(context_NT[:, -1:], ahead, axis=1)
        return point_NH, point_NH * (1 + np.array(levels)[:, None, None] / 10 - 0.05)


def followed(cls: type[BlockAdapter], load: Any, sizes: Sequence[int] = (100,), info: TraceInfo = INFO) -> BlockAdapter:
    forecaster, at, turn = cls(info, 0), 0, 0
    while at < len(load):
        part = load[at : at + sizes[turn % len(sizes)]]
        forecaster.observe(StepBlock(np.arange(at, at + len(part)), part, part.sum(axis=2)))
        at, turn = at + len(part), turn + 1
    return forecaster


def test_block_means_are_those_of_the_rows_and_do_not_depend_on_how_they_came() -> None:
    """Blocks of 10 and 100 rows end at a multiple of ten; memory is bounded."""
    load = synthetic_load_SLE(1234)
    share = load / load.sum(axis=2, keepdims=True)
    for sizes in ((1234,), (1, 7, 300)):
        memory = followed(LastBlock, load, sizes)._memory
        np.testing.assert_allclose(memory.means(1), share[-ROWS:].reshape(-1, 8).T)
        np.testing.assert_allclose(memory.means(10)[:, -1], share[1220:1230].mean(axis=0).ravel())
        np.testing.assert_allclose(memory.means(100)[:, -1], share[1130:1230].mean(axis=0).ravel())
        assert memory.count(100) == 12
    memory = BlockMemory(INFO)
    for _ in range(60):
        memory.observe(StepBlock(np.arange(512), load[:512], load[:512].sum(axis=2)))
    assert (memory.count(1), memory.count(10)) == (ROWS, TENS)


def test_a_horizon_is_forecast_on_blocks_that_fit_it() -> None:
    """With 2,000 rows a horizon of 100 is one block of 100; with 200 rows ten blocks of 10."""
    asked: list[tuple[int, int]] = []

    class Noting(LastBlock):
        def predict(self, context_NT: Any, ahead: int, levels: Sequence[float]) -> Any:
            asked.append((context_NT.shape[1], ahead))
            return super().predict(context_NT, ahead, levels)

    for rows, expected in ((2000, {(512, 1), (200, 1), (20, 1)}), (200, {(200, 1), (20, 10)})):
        asked.clear()
        followed(Noting, synthetic_load_SLE(rows)).forecast(ForecastRequest(rows, 100, HORIZONS))
        assert set(asked) == expected


def test_what_a_library_says_becomes_shares() -> None:
    """Negative values and wrong sums are mended, quantiles are sorted and cut; another shape is refused."""

    class Wild(BlockAdapter):
        def predict(self, context_NT: Any, ahead: int, levels: Sequence[float]) -> Any:
            point_NH = np.tile(np.array([-1.0, 0.0, 5.0, 3.0, 0.0, 0.0, 0.0, -2.0])[:, None], (1, ahead))
            return point_NH, np.stack([point_NH + 9, point_NH, point_NH - 9])

    class Short(BlockAdapter):
        def predict(self, context_NT: Any, ahead: int, levels: Sequence[float]) -> Any:
            return np.ones((3, ahead)), None

    load = synthetic_load_SLE(100)
    request = ForecastRequest(100, 100, HORIZONS, (0.1, 0.5, 0.9))
    told = check_forecast(followed(Wild, load).forecast(request), request, INFO)
    np.testing.assert_allclose(told.share_BLE[0, 0], [0, 0, 0.625, 0.375])
    np.testing.assert_allclose(told.share_BLE[0, 1], (load[-1] / load[-1].sum(axis=1, keepdims=True))[1])
    with pytest.raises(ForecastError, match=r"gave \(3, 48\), expected finite \(8, 48\)"):
        followed(Short, load).forecast(request)


def test_the_path_has_the_means_that_were_forecast() -> None:
    """Where what lies between two horizons is a share, both means are exact."""
    mean_KLE = np.random.default_rng(0).dirichlet(np.full(4, 50.0), (3, 2))
    path = path_through(mean_KLE, HORIZONS)
    total = np.cumsum(path * np.diff((0, *HORIZONS))[:, None, None], axis=0) / np.array(HORIZONS)[:, None, None]
    np.testing.assert_allclose(total, mean_KLE)
    np.testing.assert_array_equal(simplex(np.full((1, 4), -1.0), mean_KLE[0, :1]), mean_KLE[0, :1])


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 30])
def test_short_runs_have_a_forecast(rows: int) -> None:
    """Nothing observed, fewer rows than a library needs, one expert."""
    for experts in (1, 4):
        info = replace(INFO, num_experts=experts)
        load = synthetic_load_SLE(max(rows, 1), experts=experts)[:rows]
        request = ForecastRequest(rows, 100, HORIZONS, (0.1, 0.5, 0.9))
        check_forecast(followed(LastBlock, load, info=info).forecast(request), request, info)


def test_the_frame_keeps_the_contract() -> None:
    """Every rule of conformance but that of prefixes, which blocks chosen by horizon keep too."""
    assert [rule for rule in check_forecaster(class_target(LastBlock)) if rule.required and not rule.passed] == []


@pytest.mark.slow
def test_fracast_gives_shares_and_quantiles() -> None:
    """The weights of its wheel, on 40 rows: a valid forecast, the same twice."""
    need("fracast", "pip install 'moeload-bench[adapters]'")
    from moeload_bench.adapters.fracast import Fracast

    load = synthetic_load_SLE(40)
    request = ForecastRequest(40, 10, (1, 10), (0.05, 0.5, 0.9))
    one, two = (check_forecast(followed(Fracast, load).forecast(request), request, INFO) for _ in range(2))
    assert one.quantile_QKLE is not None
    assert two.quantile_QKLE is not None
    np.testing.assert_array_equal(one.share_BLE, two.share_BLE)
    np.testing.assert_array_equal(one.quantile_QKLE, two.quantile_QKLE)


@pytest.mark.slow
def test_fracast_sees_as_much_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shorter context is a valid forecast of its own; how many series are computed at a time changes none; outside
    64 to 2,048 it is refused.
    """
    need("fracast", "pip install 'moeload-bench[adapters]'")
    from moeload_bench.adapters import fracast

    load = synthetic_load_SLE(200)
    request = ForecastRequest(200, 100, HORIZONS, (0.1, 0.5, 0.9))

    def told(context: int) -> Any:
        forecaster = fracast.Fracast(INFO, 0, context=context)
        forecaster.observe(StepBlock(np.arange(200), load, load.sum(axis=2)))
        return check_forecast(forecaster.forecast(request), request, INFO).share_BLE

    short = told(64)
    assert np.abs(short - told(128)).max() > 1e-4
    monkeypatch.setattr(fracast, "POSITIONS", 3 * 64)
    np.testing.assert_allclose(told(64), short, atol=1e-5)
    for context in (63, 4096):
        with pytest.raises(MoeloadError, match="context"):
            fracast.Fracast(INFO, 0, context=context)


@pytest.mark.peers
@pytest.mark.slow
@pytest.mark.parametrize("name", ["AutoETS", "AutoTheta", "AutoARIMA", "sktime", "gluonts"])
def test_peers_forecast(name: str, tmp_path: Path) -> None:
    """In the peers' environment: near the mean of loads that only fluctuate, quantiles around the point."""
    share_LE = np.array([[0.4, 0.3, 0.2, 0.1]])
    load = np.random.default_rng(0).multinomial(2000, share_LE, (300, 1))
    np.save(tmp_path / "load.npy", load)
    script = ROOT / "tests" / "support" / "foreign" / "peer_adapters.py"
    arguments = [PEERS, script, name, tmp_path / "load.npy", tmp_path / "out.npz"]
    done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_allclose(out["mean_KLE"][-1], share_LE, atol=0.03)
        assert (out["quantile_QKLE"][0] <= out["mean_KLE"] + 0.02).all()
        assert (out["quantile_QKLE"][2] >= out["mean_KLE"] - 0.02).all()


def test_an_estimator_of_sktime_takes_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the target names besides the estimator is passed to it; what it does not take is refused at once."""
    package = tmp_path / "sktime" / "forecasting"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "naive.py").write_text("class Naive:\n    def __init__(self, sp=1):\n        self.sp = sp\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "sktime" or name.endswith(".sktime")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    text = 'moeload_bench.adapters.sktime:Sktime@estimator="sktime.forecasting.naive.Naive"'
    info = TraceInfo(1, 2, None, (0,), None, 1, "unknown", 0.0, 0)
    target = parse_target(f"{text},sp=7")
    made = load_class(target)(info, 0, **target.kwargs)
    assert made._make().sp == 7
    with pytest.raises(TargetError, match="unexpected keyword argument 'season'"):
        load_class(target)(info, 0, **parse_target(f"{text},season=7").kwargs)
    for name in [name for name in sys.modules if name.partition(".")[0] == "sktime" or name.endswith(".sktime")]:
        del sys.modules[name]
