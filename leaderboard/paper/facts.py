"""What the founding paper says, read from `paper.toml`: every number of it that this package prints stands there."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Literal

from moeload_bench.schema import Record

DATA = Path(__file__).with_name("paper.toml")


class Setup(Record):
    """A model of the paper; ``sequences`` in a step."""

    name: str
    layers: int
    moe_layers: int
    experts: int
    sequences: int


class PaperError(Record):
    """A stable-state error that the paper reports, as a fraction: about a value, or below it."""

    setup: str
    forecaster: str
    horizon: int
    bound: Literal["about", "below"]
    value: float
    note: str = ""


class Onset(Record):
    """The step after which the paper sees the stable state."""

    setup: str
    steps: int


class PaperFigure(Record):
    """Numbers of the paper's figures, what they show, and the name of the file drawn in their place."""

    paper: str
    shows: str
    ours: str


class Paper(Record):
    """Everything quoted from the paper."""

    citation: str
    url: str
    not_stated: tuple[str, ...]
    setups: tuple[Setup, ...]
    errors: tuple[PaperError, ...]
    onset: Onset
    figures: tuple[PaperFigure, ...]

    def reported(self, forecaster: str, horizon: int) -> list[PaperError]:
        """Return the errors of a forecaster at a horizon, one per setup that has one."""
        return [one for one in self.errors if (one.forecaster, one.horizon) == (forecaster, horizon)]


@lru_cache(maxsize=1)
def paper() -> Paper:
    """Return the paper's facts."""
    return Paper.model_validate(tomllib.loads(DATA.read_text()))
