"""Forecaster targets: what parses, and what is refused with what exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from moeload_bench.errors import MoeloadError, NotFoundError, TargetError
from moeload_bench.targets import check_kwargs, load_class, parse_target

HERE = Path(__file__).parent / "forecasters.py"


def test_arguments_are_toml_literals() -> None:
    """Numbers, lists, strings and bare words."""
    target = parse_target('arima@order=[5,1,5],engine="grid",maxiter=50,mode=online')
    assert target.kwargs == {"order": [5, 1, 5], "engine": "grid", "maxiter": 50, "mode": "online"}


def test_a_file_and_a_module_are_loaded_alike() -> None:
    """`file.py:Class` and `package.module:Class`."""
    assert load_class(parse_target(f"{HERE}:LastSeen")).__name__ == "LastSeen"
    assert load_class(parse_target("tests.forecasters:LastSeen")).__name__ == "LastSeen"


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("swavg", NotFoundError, "unknown forecaster 'swavg'; there is: .*sw_avg"),
        ("sw_avg@window", TargetError, "cannot read 'window', expected key=value"),
        ("sw_avg@window=1 2", TargetError, "not a TOML literal"),
        ("missing.py:Mine", TargetError, "no file 'missing.py'"),
        (f"{HERE}", TargetError, "name the class"),
    ],
)
def test_what_cannot_be_parsed_is_refused(text: str, kind: type[MoeloadError], message: str) -> None:
    """One line that says what was got and what exists."""
    with pytest.raises(kind, match=message):
        parse_target(text)


def test_a_missing_class_lists_those_that_exist() -> None:
    """A typo in the class name."""
    with pytest.raises(TargetError, match=r"no class 'LastSen'; there is: .*LastSeen"):
        load_class(parse_target(f"{HERE}:LastSen"))


def test_an_unknown_parameter_lists_those_it_takes() -> None:
    """A typo in a parameter."""
    target = parse_target("sw_avg@windw=5")
    with pytest.raises(TargetError, match=r"unknown parameter 'windw'; it takes: .*window"):
        check_kwargs(target, load_class(target))
