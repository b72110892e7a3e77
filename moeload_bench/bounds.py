"""What a stranger's file may cost its reader: decoded size, nesting of JSON and TOML, size of numbers.

Everything here is known before anything is allocated, in time linear in the text.
"""

from __future__ import annotations

import json
import math
import operator
import os
import re
from typing import Any, NoReturn

from moeload_bench.errors import MoeloadError, TraceError

MAX_BYTES_ENV = "MOELOAD_MAX_TRACE_BYTES"
FREE_BYTES = 256 << 20
"""A file may always decode to this much."""
MAX_RATIO = 100
"""Decoded bytes per byte of a file: counts of real training take 4 to 9, a file that is made to burst thousands."""
MAX_DEPTH = 64
MAX_INTEGER = 2**63
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))


def whole_number(value: object, name: str, least: int) -> int:
    """Return an argument that counts something, as an int; raises `MoeloadError` that names it for anything else.

    A fraction is not rounded, and True is no number.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise MoeloadError(f"{name} is {value!r}, expected a whole number from {least}")
    return number


def check_decoded(decoded: int, file_bytes: int, where: str) -> None:
    """Raise `TraceError` when a trace's arrays would take more memory than a file of its size may ask for.

    ``$MOELOAD_MAX_TRACE_BYTES`` sets another limit, for those who know what they read.
    """
    named = os.environ.get(MAX_BYTES_ENV, "")
    if named and not re.fullmatch(r"[0-9]{1,18}", named):
        raise TraceError(f"${MAX_BYTES_ENV} is {named[:40]!r}, expected a number of bytes")
    most = int(named) if named else max(FREE_BYTES, MAX_RATIO * file_bytes)
    if decoded > most:
        raise TraceError(
            f"{where}: its arrays take {decoded} bytes decoded, expected at most {most} for a file of {file_bytes} "
            f"bytes; to read it all the same: {MAX_BYTES_ENV}={decoded}"
        )


def parse_json(text: bytes | str, *, max_depth: int = MAX_DEPTH) -> Any:
    """JSON whose nesting is known before it is parsed: no name twice, NaN, infinity or integer of more than 64 bits.

    Raises `ValueError` that says what it holds instead, never how far the parser's stack went.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    check_depth(raw, max_depth)
    try:
        return json.loads(
            raw,
            object_pairs_hook=named_once,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except RecursionError:
        raise ValueError("nested too deep") from None


def named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; raise `ValueError` if a name occurs twice in it, since a value would be lost."""
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"{name[:80]!r} occurs twice in one object")
        members[name] = value
    return members


def check_depth(text: bytes, max_depth: int = MAX_DEPTH, depth: int = 0) -> int:
    """Raise `ValueError` for JSON that nests deeper than ``max_depth``, by its brackets outside of strings.

    Return the depth at the end of a part that begins at ``depth``.
    """
    # Escaped backslashes go first, then escaped quotes: every quote that is left begins or ends a string.
    outside = b"".join(text.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    for bracket in outside.translate(None, _OTHERS):
        depth += 1 if bracket in b"[{" else -1
        if depth > max_depth:
            raise ValueError(f"nested deeper than {max_depth}")
    return depth


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"holds {name}, which is no number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"holds {digits[:40]}, which is beyond a 64-bit float")
    return value


def _integer(digits: str) -> int:
    value = int(digits) if len(digits) <= 40 else MAX_INTEGER
    if not -MAX_INTEGER <= value < MAX_INTEGER:
        raise ValueError(f"holds {digits[:40]}, which is beyond a 64-bit integer")
    return value
