"""Attacks on the protocol: a frame that is not what it should be costs its own task only."""

from __future__ import annotations

from pathlib import Path

import pytest

from moeload_bench.isolation.hosts import Limits
from tests.isolation.attacks.arena import HERE, LIMITS, attack

SHORT = Limits(wall_s_per_call=1)


def answer_to(tmp_path: Path, name: str, limits: Limits = LIMITS) -> str:
    """The reasons why a liar's tasks failed."""
    return attack(tmp_path, f"{HERE / 'liars.py'}:{name}", limits).reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ExitsMidFrame", "ended with status 0"),
        ("Terabyte", "share_BLE as <f8 [1, 370000, 370000], expected <f8 [1..10, 2, 4]"),
        ("EndlessHeader", "a header of 4294967295 bytes"),
        ("WrongDtype", "share_BLE as <f4"),
        ("ObjectArray", "the dtype '|O'"),
        ("PickleInstead", "a frame starts with"),
        ("PickleHeader", "not JSON"),
        ("SendsMore", "broke the protocol"),
        ("NegativeShape", "the shape [-1, 2, 4]"),
        ("UnknownArray", "the array '__class__'"),
        ("NoArrays", "its answer lacks"),
        ("DeepJson", "nested deeper than 32"),
        ("NotANumber", "not finite"),
        ("Infinite", "not finite"),
        ("Negative", "negative shares"),
        ("AnswersTwice", "broke the protocol"),
        ("SpeaksUnasked", "broke the protocol"),
        ("OtherNumber", "answered another request"),
        ("Floods", "a frame starts with"),
        ("PatchesWorker", "sum to 1"),
        ("BlamesRequest", "nobody may run"),
    ],
)
def test_a_frame_that_lies_fails_its_task(tmp_path: Path, name: str, reason: str) -> None:
    """Refused by what it announces, before anything of its size is read or allocated."""
    assert reason in answer_to(tmp_path, name)
    assert not Path("/tmp/moeload-unpickled").exists()


@pytest.mark.parametrize("name", ["PromisesMore", pytest.param("Drips", marks=pytest.mark.slow)])
def test_a_frame_that_does_not_come_is_not_waited_for(tmp_path: Path, name: str) -> None:
    """The limit holds for the whole answer, not for each byte."""
    assert "forecast took more than 1 s" in answer_to(tmp_path, name, SHORT)


def test_printing_reaches_nobody(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Noise on standard output and error neither spoils the protocol nor shows up, and does not hang anyone."""
    assert attack(tmp_path, f"{HERE / 'liars.py'}:PrintsNoise").forecasts == 3
    assert "noise" not in "".join(capfd.readouterr())


def test_counts_are_bounded(tmp_path: Path) -> None:
    """A forecaster's own counts are the only thing it may say about itself."""
    fight = attack(tmp_path, f"{HERE / 'liars.py'}:HugeCounts")
    assert fight.forecasts == 3
    assert fight.counts == {}
