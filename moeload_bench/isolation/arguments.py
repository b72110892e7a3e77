"""The text of a target's arguments: `@key=value,...` with TOML literals, a bare word for a text.

`sw_avg@window=500` passes ``window=500``; `arima@order=[5,1,5],engine=grid` a list and a text.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

from moeload_bench.errors import TargetError

_KEY = re.compile(r"[A-Za-z_]\w*")
_ARGUMENT = re.compile(rf"\s*{_KEY.pattern}\s*=")


def split_targets(text: str) -> list[str]:
    """Return the targets in `a,b`; a part that begins with `key=` belongs to the one before: `a@x=1,y=2,b` are two."""
    targets: list[str] = []
    for part in _split_commas(text):
        if targets and _ARGUMENT.match(part):
            targets[-1] += f",{part}"
        else:
            targets.append(part.strip())
    return targets


def parse_arguments(arguments: str, text: str) -> dict[str, Any]:
    """Return the arguments by name; raise `TargetError`, which quotes the target's ``text``."""
    kwargs: dict[str, Any] = {}
    for part in _split_commas(arguments):
        key, equals, value = part.partition("=")
        if not equals or not _KEY.fullmatch(key.strip()):
            raise TargetError(f"{text!r}: cannot read {part!r}, expected key=value")
        if key.strip() in kwargs:
            raise TargetError(f"{text!r}: {key.strip()} is given twice")
        try:
            kwargs[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            if not re.fullmatch(r"[A-Za-z][\w.-]*", value.strip()):
                raise TargetError(
                    f"{text!r}: {value!r} is not a TOML literal (12, 0.5, true, [5,1,5]); quote it if it is a text: "
                    f"{key.strip()}={json.dumps(value.strip())}, and the whole in single quotes for the shell"
                ) from None
            kwargs[key.strip()] = value.strip()
        if not _plain(kwargs[key.strip()]):
            raise TargetError(
                f"{text!r}: {key.strip()} is {value.strip()}, expected finite numbers, texts, true, false, or lists"
            )
    return kwargs


def _plain(value: Any) -> bool:
    """Return whether JSON can hold a value: not a date, and no number that is not finite."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _split_commas(text: str) -> list[str]:
    """Split at commas that stand outside brackets and quotes."""
    parts, depth, quoted, current = [], 0, False, ""
    for char in text:
        quoted ^= char == '"'
        depth += 0 if quoted else (char in "[{") - (char in "]}")
        if char == "," and depth == 0 and not quoted:
            parts.append(current)
            current = ""
        else:
            current += char
    return [*parts, current]
