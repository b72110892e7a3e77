"""What the founding paper says, and the runs it is redone on, read from `paper.toml`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from moeload_bench.errors import SuiteError
from moeload_bench.schema import Schema, read_toml

DATA = Path(__file__).with_name("paper.toml")
GPT3_TOKENS = 2048
"""Tokens per sequence of GPT-3; the paper does not state its own."""


class Setup(Schema):
    """A model of the paper; ``sequences`` in a step, ``run``: our recording of its layers and experts at width 64."""

    name: str
    layers: int
    moe_layers: int
    experts: int
    sequences: int
    run: str


class PaperError(Schema):
    """A stable-state error that the paper reports, as a fraction: about a value, or below it."""

    setup: str
    forecaster: str
    horizon: int
    bound: Literal["about", "below"]
    value: float
    note: str = ""


class Onset(Schema):
    """The step after which the paper sees the stable state."""

    setup: str
    steps: int


class Claim(Schema):
    """A claim of the paper. ``holds``: which figure of a run decides, and when; ``ours``: the paper does not say it."""

    key: str
    statement: str
    source: str
    holds: str
    ours: bool = False


class Paper(Schema):
    """What is quoted from the paper; ``runs``: trace ids that decide claims, the first ``pictures`` with figures."""

    citation: str
    url: str
    not_stated: tuple[str, ...]
    runs: tuple[str, ...]
    pictures: int
    setups: tuple[Setup, ...]
    errors: tuple[PaperError, ...]
    onset: Onset
    claims: tuple[Claim, ...]
    figures: dict[str, str]

    def reported(self, forecaster: str, horizon: int) -> list[PaperError]:
        """Return the errors of a forecaster at a horizon, one per setup that has one."""
        return [error for error in self.errors if (error.forecaster, error.horizon) == (forecaster, horizon)]


@lru_cache(maxsize=1)
def paper() -> Paper:
    """Return the paper's facts."""
    return read_toml(Paper, DATA, "the paper", SuiteError)
