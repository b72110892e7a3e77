"""Strict schemas: the one pydantic base, and how its errors read."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from moeload_bench.bounds import named_once
from moeload_bench.files import read_at_most

R = TypeVar("R", bound=BaseModel)
MAX_SHOWN = 80
MAX_SAID = 600
MAX_TOML = 8 << 20
MAX_DOTS = 200


class Schema(BaseModel):
    """A frozen schema: what it does not know is refused, and numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def problems(self) -> Iterator[str]:
        """Yield how fields that are right one by one do not fit each other; the first problem is raised."""
        yield from ()

    @model_validator(mode="after")
    def _has_no_problem(self) -> Self:
        for problem in self.problems():
            raise ValueError(problem)
        return self


def extra_field(default: Any, **constraints: Any) -> Any:
    """Return a field that older files do not have: at its default it is left out of texts, so that hashes stay."""
    return Field(default=default, exclude_if=lambda value: value == default, **constraints)


def load_toml(text: str) -> dict[str, Any]:
    """Return a TOML document; raise `ValueError` for what is none, and for a key of hundreds of parts.

    The standard library takes time that is quadratic in a key's parts: 1 s for 16 KiB, hours for 1 MiB.
    """
    if len(text) > MAX_TOML or any(line.count(".") > MAX_DOTS for line in text.split("\n")):
        raise ValueError(f"expected at most {MAX_TOML} characters, and at most {MAX_DOTS} dots in a line")
    return tomllib.loads(text)


def read_toml(kind: type[R], path: Path, content: str, error: type[Exception]) -> R:
    """Return what a TOML file holds; raise an ``error`` that names the file and the first field that is wrong."""
    try:
        return kind.model_validate(load_toml(read_at_most(path, MAX_TOML).decode()))
    except ValidationError as wrong:
        problem = first_problem(wrong, content)
    except OSError as wrong:
        problem = wrong.strerror or str(wrong)
    except error as wrong:  # raised by a part of the schema
        problem = str(wrong)
    except RecursionError:
        problem = "not TOML: nested too deep"
    except ValueError as wrong:  # also text that is not UTF-8, and numbers of thousands of digits
        problem = f"not TOML: {str(wrong)[:300]}"
    raise error(f"{path}: {problem}")


def read_json(kind: type[R], path: Path, most: int, content: str, error: type[Exception]) -> R:
    """Return what a JSON file holds, of at most ``most`` bytes; raise as `read_toml`; ``content`` says what it is."""
    try:
        text = read_at_most(path, most)
    except OSError as wrong:
        raise error(f"{path}: {wrong.strerror}; expected {content}") from None
    return validated_json(kind, text, path, content, error)


def validated_json(kind: type[R], text: bytes, where: Path, content: str, error: type[Exception]) -> R:
    """Return what a JSON text holds; raise an ``error`` for another form, and for a name twice in one object."""
    try:
        value = kind.model_validate_json(text)
        json.loads(text, object_pairs_hook=named_once)  # pydantic takes the last of two
        return value
    except ValidationError as wrong:
        problem = first_problem(wrong, content)
    except (ValueError, RecursionError) as wrong:
        problem = str(wrong)
    raise error(f"{where}: {problem}")


def first_problem(error: ValidationError, content: str) -> str:
    """Return the first field that is wrong, why, and what was got; ``content`` stands for the whole."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))[:MAX_SHOWN] or content
    value = first.get("input")
    says_it = first["type"] in ("missing", "value_error") or not isinstance(value, str | int | float | None)
    got = "" if says_it else f", got {_shown(value)}"
    return f"{field}: {_wrong(first)[:MAX_SAID]}{got}"


def _wrong(problem: ErrorDetails) -> str:
    """Return why a field is wrong; of a text, what it should be like instead of a regular expression."""
    if problem["type"] != "string_pattern_mismatch":
        return problem["msg"].removeprefix("Value error, ")
    digits = "[0-9a-f]{64}" in problem["ctx"]["pattern"]
    return f"expected {'64 hexadecimal digits' if digits else 'a name of letters, digits and a few of . _ - / :'}"


def _shown(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"  # Python refuses to write out those of thousands of digits
    return repr(value)[:MAX_SHOWN]
