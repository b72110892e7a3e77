"""What in a trace's metadata identifies a machine or a person, and the metadata without it.

Found are folders, mail addresses, addresses and names of hosts, what stands in a field whose name says that it is one,
and the names that are given, such as those of the user and of the machine at hand. Not found is a name of a person or
host that stands in a sentence like any other word: a maintainer reads what is left.
"""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moeload_bench.traces.meta import TraceMeta, checked_meta

REMOVED = "[removed]"
_PATTERN = (
    r"(?P<path>(?:(?<![\w/.])|(?<=\s-[A-Za-z]))(?:file://|~/|[A-Za-z]:\\|\\\\"
    r"|/(?:home|Users|root|mnt|data|scratch|workspace|tmp)/|/[\w.+@~-]+/[\w.+@~-]+)[^\s'\",;)\]]*)"
    r"|(?P<address>[\w.+-]+@[\w-]+\.[\w.]+)"
    r"|(?P<host>\b(?:\d{1,3}\.){3}\d{1,3}\b|\b[\w-]+\.(?:local|internal|lan|cluster)\b)"
)
_FIELD = re.compile(r"(?i)(?:host|node|user|nick)_?(?:name|list)?|login|author|e?mail|cwd|pwd|home|work_?dir")
_EVERYBODYS = frozenset({"root", "user", "admin", "ubuntu", "runner", "home", "localhost", "train", "test"})


def own_names() -> tuple[str, ...]:
    """Of this machine and its user, without those that everybody has."""
    host = socket.gethostname()
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in containers
        user = ""
    found = {user, host, host.split(".")[0], Path.home().name}
    return tuple(sorted(name for name in found if len(name) > 2 and name.lower() not in _EVERYBODYS))


def identifying_fields(meta: TraceMeta, names: Iterable[str] = ()) -> list[tuple[str, str]]:
    """(field, text) of what in the metadata names a machine or a person, ``names`` among it."""
    pattern = _compiled(names)
    return [pair for where, key, text in _texts(meta.model_dump(mode="json"), "", "") for pair in
            _found(pattern, where, key, text)]  # fmt: skip


def without_identifying(meta: TraceMeta, names: Iterable[str] = ()) -> TraceMeta:
    """The metadata with `REMOVED` wherever `identifying_fields` finds something.

    Raises `TraceError` where a field cannot do without it: a recipe's name that is a host's.
    """
    return checked_meta(_cut(_compiled(names), meta.model_dump(mode="json"), ""), "without what identifies")


def _compiled(names: Iterable[str]) -> re.Pattern[str]:
    own = "".join(rf"|(?<!\w)(?i:{re.escape(name)})(?!\w)" for name in names)
    return re.compile(_PATTERN + own)


def _found(pattern: re.Pattern[str], where: str, key: str, text: str) -> Iterator[tuple[str, str]]:
    if _says_whose(key, text):
        yield where, text
    else:
        yield from ((where, match[0]) for match in pattern.finditer(text))


def _says_whose(key: str, text: str) -> bool:
    return bool(text) and text != REMOVED and _FIELD.fullmatch(key) is not None


def _texts(value: Any, where: str, key: str) -> Iterator[tuple[str, str, str]]:
    """(field, its last name, text) of every text of a tree; names of fields are texts too."""
    if isinstance(value, str):
        yield where, key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield where, "", str(name)
            yield from _texts(item, f"{where}.{name}".lstrip("."), str(name))
    elif isinstance(value, Sequence):
        for number, item in enumerate(value):
            yield from _texts(item, f"{where}.{number}", key)


def _cut(pattern: re.Pattern[str], value: Any, key: str) -> Any:
    if isinstance(value, str):
        return REMOVED if _says_whose(key, value) else pattern.sub(REMOVED, value)
    if isinstance(value, Mapping):
        return {pattern.sub(REMOVED, name): _cut(pattern, item, name) for name, item in value.items()}
    if isinstance(value, Sequence):
        return [_cut(pattern, item, key) for item in value]
    return value
