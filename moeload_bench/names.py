"""The one rule for names of entries, traces, authors and metrics: letters, digits and `.-_@=`, at most 80.

It holds where a table is read, a submission admitted and a page made. A name has one spelling (NFKC, so neither an
accent apart from its letter nor a letter of double width), and none that looks like a name that is there.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Literal

from moeload_bench.errors import short

Kind = Literal["entry", "trace", "author", "metric"]
_WORD = r"\w[\w.@=-]{0,79}"
_PLAIN = re.compile(_WORD)
_TARGET = re.compile(r"(?=.{1,300}\Z)(?:(?:.+\.py|[\w.]+):[\w.<>]+(?:@.*)?|[\w.]+@.*)")
"""What an entry without a name of its own is called: `my.py:Mine@rates=[0.9, 0.5]`, for tables at home alone."""
_FORMS: Mapping[Kind, re.Pattern[str]] = {
    "entry": _PLAIN,
    "trace": re.compile(rf"{_WORD}/\w{{1,80}}/seed\d{{1,10}}"),
    "author": re.compile(r"(?=.{1,80}\Z)\w[\w.@='-]*(?:,? \w[\w.@='-]*)*"),
    "metric": _PLAIN,
}
_BESIDE: Mapping[Kind, str] = {
    "entry": "",
    "trace": ", as RECIPE/SPLIT/seedN",
    "author": ", with single blanks between words, such as `J. O'Doe, the maintainer`",
    "metric": "",
}
RESERVED = ("costs",)
"""Not to be an entry's name: files of these names lie beside the entries' own."""
_LOOKS = str.maketrans(
    "015i._авекмнорстухѕіјӏԁԛԝһαβγεηικνορτυχωıɑɡℓ",
    "olsl--abekmhopctyxsljldqwhabyenlkvoptyxwlagl",
)
"""Letters, folded to small ones, that are taken for another: digits, Cyrillic and Greek ones, in their order."""


def name_problem(kind: Kind, name: str) -> str | None:
    """Return why a text is no name of that kind, None for a name."""
    if _FORMS[kind].fullmatch(name) and unicodedata.is_normalized("NFKC", name):
        reserved = kind == "entry" and name.casefold() in RESERVED
        return f"{kind} {short(name)}: this name is reserved, expected another" if reserved else None
    expected = f"letters, digits and . - _ @ =, at most 80{_BESIDE[kind]}"
    return f"{kind} {short(name)} is no name: expected {expected}"


def entry_problem(name: str) -> str | None:
    """Return why a text can be no entry of a table: an entry at home may be called by its target; None if it can."""
    return None if _TARGET.fullmatch(name) and name.isprintable() else name_problem("entry", name)


def look_of(name: str) -> str:
    """Return what names that are easily confused have in common: `sw_avg` and `5w-avg`, `arima` and `ar1ma`."""
    return unicodedata.normalize("NFKC", name).casefold().translate(_LOOKS)


def look_alike(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two names that differ only in their looks, None where each looks like itself alone."""
    looks: dict[str, str] = {}
    for name in names:
        other = looks.setdefault(look_of(name), name)
        if other != name:
            return other, name
    return None
