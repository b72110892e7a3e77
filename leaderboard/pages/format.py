"""The tables of docs/methods/format.md, from the columns and the metadata record that the package reads and writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from leaderboard.pages.parts import Maker
from moeload_bench.publishing.card_tables import SHAPES
from moeload_bench.results.render import markdown_table
from moeload_bench.traces.meta import COLUMNS, REQUIRED_COLUMNS, TraceMeta

Schema = Mapping[str, Any]


def columns() -> str:
    """Return every column in the format's order."""
    rows = [
        (f"`{name}`", spec.dtype, SHAPES[spec.axes], "yes" if name in REQUIRED_COLUMNS else "", spec.unit)
        for name, spec in COLUMNS.items()
    ]
    return markdown_table(("column", "type", "per step", "required", "what"), rows)


def metadata() -> str:
    """Return the record's fields, then those of the records inside it."""
    schema = TraceMeta.model_json_schema()
    parts = [_fields(schema)]
    for name, inner in schema["$defs"].items():
        parts += [f"{_title(name)}: {inner['description'][0].lower()}{inner['description'][1:]}", _fields(inner)]
    return "\n\n".join(parts)


def _fields(schema: Schema) -> str:
    required = schema.get("required", ())
    rows = [
        (f"`{name}`", _type(field), "required" if name in required else _default(field), field["description"])
        for name, field in schema["properties"].items()
    ]
    return markdown_table(("field", "type", "default", "what"), rows)


def _default(field: Schema) -> str:
    value = field.get("default", {})
    if value is None or isinstance(value, str | int | float):
        return f"`{json.dumps(value)}`"
    return "those of its fields" if value else "empty"


def _type(field: Schema) -> str:
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"])
    if "allOf" in field:  # of one: how pydantic before 2.9 writes a reference that has a default
        return _type(field["allOf"][0])
    if "$ref" in field:
        return _title(field["$ref"].rpartition("/")[2])
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    return str(field["type"]) + "".join(_bounds(field))


def _bounds(field: Schema) -> Iterator[str]:
    if "const" in field:
        yield f" {field['const']}"
    if "minimum" in field:
        yield f" from {field['minimum']}"
    if "pattern" in field:
        yield f" `{field['pattern']}`"


def _title(name: str) -> str:
    return f"*{name.removesuffix('Meta').lower()}*"


PARTS: Mapping[str, Maker] = {"columns": columns, "metadata": metadata}
