"""What describes an entry's run over a whole suite: which code, on what, with which versions, how isolated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from moeload_bench.environment import Environment
from moeload_bench.errors import printable
from moeload_bench.schema import Schema, extra_field
from moeload_bench.suites.suite import Suite, families_of, near_twins_of, package_suite

Status = Literal["claimed", "checked", "verified"]
MAX_NAMES = 1000


class SuiteRecord(Schema):
    """Which task list was run."""

    name: str = Field(max_length=300)
    sha256: str = Field(max_length=64)
    horizons: tuple[int, ...] = Field(max_length=100)
    reference: str = Field(max_length=300)

    @property
    def package_suite(self) -> Suite | None:
        """Return the package's suite of this name and hash; None for a file of one's own."""
        return package_suite(self.name, self.sha256)

    @property
    def families(self) -> Mapping[str, str]:
        """Return recipe -> family of models; empty where the suite does not say."""
        return families_of(self.name, self.sha256)

    @property
    def twins(self) -> Mapping[str, str]:
        """Return recipe -> first of its group of near twins, for recipes that are in one."""
        return near_twins_of(self.name, self.sha256)


class Entry(Schema):
    """One forecaster on one suite: all that is needed to obtain its rows again. ``fit_wall_s`` in seconds.

    ``after_close``: it was scored on a season after that had closed, so on runs that anybody could have looked at.
    """

    name: str = Field(max_length=300)
    target: str = Field(max_length=2000)
    source_sha256: str = Field(max_length=64)
    kwargs: dict[str, Any] = Field(default={}, max_length=MAX_NAMES)
    requirements: tuple[str, ...] = Field(default=(), max_length=MAX_NAMES)
    suite: SuiteRecord
    scoring_version: int
    isolation: str
    seed: int
    fit_wall_s: float | None = None
    environment: Environment
    notes: tuple[str, ...] = Field(default=(), max_length=MAX_NAMES)
    status: Status = "claimed"
    after_close: bool = extra_field(False)

    def __repr__(self) -> str:
        about = f"{printable(self.name)} on suite {printable(self.suite.name)}"
        return f"Entry: {about}; {self.status}, isolation {self.isolation}, seed {self.seed}"

    __str__ = __repr__


def late_names(entries: Mapping[str, Entry]) -> list[str]:
    """Return the forecasters that were scored after their season had closed: in no rank and in no correction."""
    return [name for name, entry in entries.items() if entry.after_close]
