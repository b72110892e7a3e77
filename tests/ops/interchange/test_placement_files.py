"""A plan's file is written where it was asked for and nowhere else, whatever lies there and whatever it is called."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from moeload_bench.errors import PlacementError
from moeload_bench.files import replacing
from moeload_bench.ops.interchange.forecast_files import Ahead, forecast_ahead, write_forecast
from moeload_bench.ops.planning.placements import FORMATS, place_forecast, write_placement
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.traces.trace import Trace
from tests.conftest import synthetic_load_SLE

SHAPE = ClusterShape("test", 2, 4)
KINDS = sorted(FORMATS)
NAMES = ("new\nline.json", "e\x1b[2J\u202e.json", "-rf.json", " .json", "..json", "%s{0}.json", "x" * 220 + ".json")


def ahead_of(first: int = 0) -> Ahead:
    """A forecast for two layers, the first of the number ``first`` in its model."""
    layers = [{"index": first + i, "experts": 4, "top_k": 2} for i in range(2)]
    return forecast_ahead(Trace.from_arrays(synthetic_load_SLE(60), 512, 2, layers=layers), "last_value", 20)


@pytest.fixture(scope="module")
def ahead() -> Ahead:
    return ahead_of()


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_is_replaced_and_what_it_leads_to_stays(kind: str, ahead: Ahead, tmp_path: Path) -> None:
    """A link that somebody left in a shared folder, for the plan or the file beside it, writes over no file."""
    own = tmp_path / "own"
    own.write_text("mine")
    path = tmp_path / "plan.json"
    for link in (path, path.with_name("plan.json.about.json")):
        link.symlink_to(own)
    write_placement(place_forecast(ahead, SHAPE), path, kind)
    assert own.read_text() == "mine"
    assert not path.is_symlink()
    assert path.with_name("plan.json.about.json").is_symlink() == (kind == "json")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("there", ["folder", "pipe", "link to a device", "device"])
def test_what_is_no_file_is_refused_and_stays(kind: str, there: str, ahead: Ahead, tmp_path: Path) -> None:
    """A folder, a pipe and a device: root would put a file in the place of `/dev/null`."""
    path = tmp_path / "plan.json"
    if there == "folder":
        path.mkdir()
    elif there == "pipe":
        os.mkfifo(path)
    elif there == "link to a device":
        path.symlink_to(os.devnull)
    elif os.geteuid() == 0:
        os.mknod(path, stat.S_IFCHR | 0o666, os.stat(os.devnull).st_rdev)
    else:
        pytest.skip("not tested: only root makes devices")
    before = path.lstat()
    with pytest.raises(OSError, match=r"device|directory"):
        write_placement(place_forecast(ahead, SHAPE), path, kind)
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert [one.name for one in tmp_path.iterdir()] == ["plan.json"]


def test_nothing_is_made_among_the_devices() -> None:
    """Nor is a link there replaced that leads to a file, as `/dev/stdout` does where output goes into one."""
    with pytest.raises(OSError, match="expected a file"), replacing(Path("/dev/stdout.json")):
        pass
    assert not Path("/dev/stdout.json").exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_name_is_only_a_name(kind: str, name: str, ahead: Ahead, tmp_path: Path) -> None:
    """Line ends, escapes, options and blanks are letters of it; an earlier file of that name is replaced as a whole."""
    for _ in range(2):
        (tmp_path / name).write_text("x" * 100_000)
        write_placement(place_forecast(ahead, SHAPE), tmp_path / name, kind)
    beside = [] if kind == "json" else [f"{name}.about.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, *beside])
    assert "x" * 1000 not in (tmp_path / name).read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_of_very_many_layers_is_refused(kind: str, tmp_path: Path) -> None:
    """A trace's layer may say that it is number 10^15 of its model; a row for each would be made."""
    for first in (10**15, 2**70):
        with pytest.raises(PlacementError, match="layers, at most 10000 are written"):
            write_placement(place_forecast(ahead_of(first), SHAPE), tmp_path / "plan.json", kind)
    with pytest.raises(PlacementError, match="at most 10000"):
        write_forecast(ahead_of(10**15), tmp_path / "f.json", "sglang")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["e\x1b[2J", "../../x", "a\nb", "x" * 100_000])
def test_what_a_plan_was_made_from_is_quoted(text: str, ahead: Ahead, tmp_path: Path) -> None:
    """Names of a forecaster and of layers are texts of the JSON beside the plan, without a raw control character."""
    about = {**ahead.about, "forecaster": text, "replanned": [text]}
    named = Ahead(ahead.share_LE, ahead.weight_LE, ahead.layers, about)
    for kind in KINDS:
        path = write_placement(place_forecast(named, SHAPE), tmp_path / f"{kind}.json", kind)
        said = json.loads((path if kind == "json" else path.with_name(f"{path.name}.about.json")).read_text())
        assert (said["about"] if kind == "json" else said)["forecaster"] == text
    assert not any(b"\x1b" in path.read_bytes() for path in tmp_path.iterdir())
    assert np.isfinite(named.weight_LE).all()


def test_a_layer_without_load_is_placed_by_its_shares() -> None:
    """A layer that was silent at the end has shares but no tokens; the other layers are placed as without it."""
    load = synthetic_load_SLE(60)
    load[:, 1] = 0
    ahead = forecast_ahead(Trace.from_arrays(load), "last_value", 20)
    placed = place_forecast(ahead, SHAPE).slot_expert_LR
    alone = place_forecast(forecast_ahead(Trace.from_arrays(load[:, :1]), "last_value", 20), SHAPE)
    np.testing.assert_array_equal(placed[0], alone.slot_expert_LR[0])
    assert set(placed[1].tolist()) == set(range(4))
