"""Check whether a trace may be published: its licence, what its counts are, whom its metadata names, and copies.

What identifies a machine or a person is found by form: folders, buckets, pages of runs, mail addresses, addresses and
names of hosts, the content of a field whose name says that it identifies (also written `user=NAME`), and given names,
such as those of this user and machine. The name of a person or host that stands in a sentence like any other word is
not found, so a maintainer reads what is left. Addresses of public pages stay.

These texts are untrusted, so no pattern may have an unbounded repetition that can begin anywhere: it would take time
quadratic in the length of the text.
"""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moeload_bench.traces.lookup import list_traces, trace_folders
from moeload_bench.traces.meta import TraceMeta
from moeload_bench.traces.store import stored_hash, stored_meta

COMMUNITY = "community"
"""The folder of traces that others recorded: NAME/SPLIT/seedN.parquet below it, with a card NAME/README.md."""
LICENCES = ("CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "ODC-By-1.0", "MIT", "BSD-3-Clause", "Apache-2.0")
"""Licences under which anybody may use a trace and pass it on."""
_REST = r"[^\s'\",;)\]]"
_PATHS = (
    r"(?:(?<![\w/.])|(?<=\s-[A-Za-z]))(?:file://|~(?:[A-Za-z_][\w.-]{0,63})?/|(?:\./)?\.\./|[A-Za-z]:\\|\\\\"
    rf"|/(?:home|Users|root|mnt|data|scratch|workspace|tmp)/|/[\w.+@~-]+/[\w.+@~-]+){_REST}*"
)
_BUCKETS = rf"(?<!\w)(?i:s3[an]?|gcs|gs|r2|az|abfss?|wasbs?|hdfs|nfs|smb|ssh|sftp|scp|rsync)://{_REST}+"
_RUNS = rf"(?<!\w)(?:https?://)?(?:[\w-]{{1,63}}\.)?(?:wandb\.ai|neptune\.ai|comet\.com|comet\.ml|clear\.ml)/{_REST}+"
_MAIL = r"[\w.+-]{1,64}@(?!v\d)[\w-]{1,63}\.[\w.]+"
_LOGIN = (  # but not model@branch, model@version, model@commit, forecaster@option or metric@something
    r"(?<![\w.+/@-])(?!(?:regret|imbalance|drop_rate|recall|hits|pass)@)[A-Za-z_][\w-]{0,63}"
    r"@(?!(?:main|master|head|latest|stable|nightly|dev)\b|v\d|[0-9a-f]{7,40}\b)[A-Za-z][\w-]{2,63}(?![\w@=-])"
)
_END = r"(?![\w-]|\.\w)"
_DOMAIN = (  # the last part of a host's name, except endings that occur in file names and code: .py, .pt, .in, .to
    r"\.(?:com|org|net|edu|gov|mil|ac|ae|ar|at|au|ch|cl|cn|cz|de|dk|ee|es|eu|fi|fr|gr|hk|hu|ie|il|ir|it|jp|kr|lt|lu|lv"
    r"|nl|no|nz|pl|ro|ru|sa|se|sg|si|sk|tr|tw|ua|uk|us|vn|za)"
)
_LABEL = r"[A-Za-z][\w-]{0,62}"
_HOSTS = (
    rf"\b(?:\d{{1,3}}\.){{3}}\d{{1,3}}\b|(?<![\w.-])(?:[\w-]{{1,63}}\.){{1,9}}(?:local|internal|lan|cluster){_END}"
    # a host with a number, as one of many, but not in the address of a public page
    r"|(?<![\w.-])(?<!http://)(?<!https://)(?!(?:s3|r2|www\d|ftp\d|cdn\d{1,4})\.)"
    rf"[A-Za-z][A-Za-z-]{{0,40}}\d[\w-]{{0,40}}(?:\.{_LABEL}){{1,5}}{_DOMAIN}{_END}"
    # or a host with a part that says what it is
    rf"|(?<![\w.-])(?:{_LABEL}\.){{0,4}}(?:hpc|cluster|slurm|gpus?|k8s|login|nodes?)\d{{0,4}}"
    rf"(?:\.{_LABEL}){{1,4}}{_DOMAIN}{_END}"
)
_FIELD = (  # also after another word: SLURM_NODELIST, slurm_job_user
    r"(?:\w{1,40}_)?(?:(?:host|node|user|nick|machine|computer)_?(?:name|list|file|id)?s?|logins?|owners?|authors?"
    r"|entity|accounts?|addr|e?mails?|cwd|pwd|home"
    r"|(?:out|output|work|working|log|logging|save|cache|run|data|checkpoint|ckpt|home)_?dir)"
)
_ANONYMOUS = (  # values that identify nobody: numbers, and kinds of processors, which Python calls machine
    r"(?:\d{1,9}|none|null|true|false|unknown|localhost"
    r"|x86_64|amd64|i[3-6]86|aarch64|arm64|ppc64le|riscv64|s390x)"
)
_ASSIGNMENT = rf"(?<!\w)(?i:{_FIELD}(?:\s?=\s?|['\"]:\s?)['\"]?(?!{_ANONYMOUS}(?!\w))){_REST}+"
_PATTERN = "|".join((_PATHS, _BUCKETS, _RUNS, _ASSIGNMENT, _MAIL, _LOGIN, _HOSTS))
_OWNER_FIELD, _ANONYMOUS_VALUE = re.compile(_FIELD, re.IGNORECASE), re.compile(_ANONYMOUS, re.IGNORECASE)
_COMMON_NAMES = frozenset({"root", "user", "admin", "ubuntu", "runner", "home", "localhost", "train", "test"})


def publishing_problems(file: Path, held: Mapping[Path, str]) -> Iterator[str]:
    """Yield a line for each reason why a valid trace may not be published; none if it may.

    ``held``: the files that it must not repeat, each with its `data_sha256`: a trace is a copy of another if these are
    equal. The trace's own file among them does not count.
    """
    meta, content = stored_meta(file), stored_hash(file)
    if meta.licence not in LICENCES:
        yield f"licence is {meta.licence!r}, expected one of {', '.join(LICENCES)}"
    if meta.count_semantics == "unknown":
        yield "count_semantics is 'unknown', expected pre_drop or post_drop: say what the counts are"
    if not meta.recipe.isascii():
        yield f"recipe is {meta.recipe!r}, expected plain letters: others look like them and are not"
    for field, text in identifying_fields(meta, own_names()):
        yield f"metadata field {field} holds {text!r}, which identifies a machine or a person: take it out"
    for path, held_content in held.items():
        if held_content == content and not path.samefile(file):
            yield f"a copy of {path}: its data_sha256 is equal"


def published_hashes() -> dict[Path, str]:
    """Return the `data_sha256` of each trace that is found on this machine, those of others included.

    Raise `TraceError` for a file of these that cannot be read.
    """
    places = [place for _, folder in trace_folders() for place in (folder, folder / COMMUNITY)]
    return {ref.path: stored_hash(ref.path) for place in places if place.is_dir() for ref in list_traces(place)}


def own_names() -> tuple[str, ...]:
    """Return the names of this machine and its user, except common ones."""
    host = socket.gethostname()
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in containers
        user = ""
    names = {user, host, host.split(".")[0], Path.home().name}
    return tuple(sorted(name for name in names if len(name) > 2 and name.lower() not in _COMMON_NAMES))


def identifying_fields(meta: TraceMeta, names: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Return (field, text) of what in the metadata names a machine or a person, ``names`` included."""
    pattern = _identifying_pattern(names)
    fields = []
    for field, key, text in _texts(meta.model_dump(mode="json")):
        texts = [text] if _names_owner(key, text) else [match[0] for match in pattern.finditer(text)]
        fields += [(field, word) for word in texts]
    return fields


def _identifying_pattern(names: Iterable[str]) -> re.Pattern[str]:
    alternatives = "".join(rf"|(?<!\w)(?i:{re.escape(name)})(?!\w)" for name in names)
    return re.compile(_PATTERN + alternatives)


def _names_owner(key: str, text: str) -> bool:
    """Return whether the name of a field says that its text identifies somebody."""
    return text != "" and not _ANONYMOUS_VALUE.fullmatch(text) and _OWNER_FIELD.fullmatch(key) is not None


def _texts(value: Any, where: str = "", key: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (field, its last name, text) of every text in a tree; names of fields are texts too."""
    if isinstance(value, str):
        yield where, key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield where, "", name
            yield from _texts(item, f"{where}.{name}".lstrip("."), name)
    elif isinstance(value, Sequence):
        for number, item in enumerate(value):
            yield from _texts(item, f"{where}.{number}", key)
