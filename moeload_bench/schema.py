"""Strict records: the one pydantic base, and how its errors read."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

MAX_SHOWN = 80
MAX_SAID = 600


class Record(BaseModel):
    """A frozen record that knows all of its fields; numbers are finite."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),  # before 2.10, pydantic warned of every field `model_...`
    )


def first_problem(error: ValidationError, whole: str) -> str:
    """The first field that is wrong, why, and what was got; ``whole`` names the record where no field is to blame."""
    first = error.errors()[0]
    at = ".".join(map(str, first["loc"]))[:MAX_SHOWN] or whole
    given = first.get("input")
    says_it = first["type"] in ("missing", "value_error") or not isinstance(given, str | int | float | None)
    got = "" if says_it else f", got {_shown(given)}"
    return f"{at}: {first['msg'].removeprefix('Value error, ')[:MAX_SAID]}{got}"


def _shown(given: object) -> str:
    if isinstance(given, int) and given.bit_length() > 64:
        return f"a number of {given.bit_length()} bits"  # Python refuses to write out those of thousands of digits
    return repr(given)[:MAX_SHOWN]
