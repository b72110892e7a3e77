"""YAML for the Hub: a text stays a text for readers of YAML 1.1 (Python's) and of YAML 1.2 (the Hub's own).

PyYAML quotes what is no text in YAML 1.1. In 1.2 `1e5` and `0o17` are numbers too, and names may be written so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

_NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|0o[0-7]+|0x[0-9a-fA-F]+")
"""What the core schema of YAML 1.2 takes for a number."""


def yaml_text(record: Mapping[str, Any] | Sequence[Any], width: int = 80) -> str:
    """Return a record of plain values as YAML, its fields in their order."""
    import yaml

    return str(yaml.dump(record, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=width))


def front_text(card: Any) -> str:
    """Return the front matter of a card of the Hub's own class."""
    return yaml_text(card.to_dict()).strip()


@cache
def _dumper() -> Any:
    """Return PyYAML's dumper that also quotes what YAML 1.2 takes for a number, and a text that breaks a line."""
    import yaml

    def text(dumper: Any, value: str) -> Any:
        style = '"' if not value.isprintable() else "'" if _NUMBER.fullmatch(value) else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    dumper: Any = type("Dumper", (yaml.SafeDumper,), {})
    dumper.add_representer(str, text)
    return dumper
