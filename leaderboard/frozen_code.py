"""Frozen code: the modules and weights that a committed result was made from, in a folder named by their source hash.

    frozen/SOURCE_SHA256/modules.json    the module of the target; of each of its modules the file and its SHA-256
    frozen/SOURCE_SHA256/MODULE.py       these files, weights among them

Code of the package may change after a result is committed. The result then stays bound to what is frozen here: the
source hash is computed again from the list and from the files. Nothing of them is executed; a checkout of the commit
that the result names runs them.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from pydantic import Field, ValidationError

from moeload_bench.errors import MoeloadError, SubmissionError
from moeload_bench.files import replacing
from moeload_bench.isolation.sources import bytes_sha256, hashes_sha256, module_files
from moeload_bench.isolation.targets import BASELINES_PACKAGE, parse_target, source_sha256
from moeload_bench.schema import Record, first_problem
from moeload_bench.suites.suite import Sha256

LIST = "modules.json"


class FrozenFile(Record):
    """One file beside the list."""

    file: str = Field(pattern=r"^\w[\w.]*$")
    sha256: Sha256


class FrozenCode(Record):
    """The module of a target, and by name all modules that its source hash is taken over."""

    module: str
    files: dict[str, FrozenFile] = Field(min_length=1)


def freeze_target(store: Path, target: str) -> str:
    """Copy today's code of a target of the package into the store, unless it is there; return its source hash."""
    module, sha256 = _module_of(target), source_sha256(parse_target(target))
    folder, files = store / sha256, {}
    if (folder / LIST).is_file():
        check_frozen(folder)
        return sha256
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in sorted(module_files(module).items()):
        copy = folder / (name if name.endswith(path.suffix) else f"{name}{path.suffix}")
        shutil.copyfile(path, copy)
        files[name] = FrozenFile(file=copy.name, sha256=bytes_sha256(copy))
    with replacing(folder / LIST) as scratch:
        scratch.write_text(FrozenCode(module=module, files=files).model_dump_json(indent=1) + "\n", encoding="utf-8")
    return sha256


def check_frozen(folder: Path) -> FrozenCode:
    """Read a folder of the store; raise `SubmissionError` that names the file unless it holds what its name says."""
    place = folder / LIST
    try:
        found = FrozenCode.model_validate_json(place.read_bytes())
    except OSError as error:
        raise SubmissionError(f"{place}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise SubmissionError(f"{place}: {first_problem(error, 'list')}") from None
    for one in found.files.values():
        path = folder / one.file
        got = bytes_sha256(path) if path.is_file() else None
        if got != one.sha256:
            said = "is not there" if got is None else f"its SHA-256 is {got[:12]}"
            raise SubmissionError(f"{path}: {said}, expected {one.sha256[:12]} as {LIST} says")
    made = hashes_sha256({name: one.sha256 for name, one in found.files.items()})
    if made != folder.name or found.module not in found.files:
        raise SubmissionError(f"{place}: it lists the code {made[:12]} of {found.module}, expected {folder.name[:12]}")
    return found


def code_sha256(target: str, *, made_from: str, store: Path | None) -> str:
    """Return the source hash that a target of the package is bound to.

    It is ``made_from`` where today's code has this hash or a store holds it, else that of today's code. Raises
    `SubmissionError` for a store that was falsified, `TargetError` or `NotFoundError` for a target of which neither
    has the code.
    """
    try:
        now = source_sha256(parse_target(target))
    except MoeloadError:
        if not _holds(store, made_from, target):
            raise
        return made_from
    return made_from if now != made_from and _holds(store, made_from, target) else now


def _holds(store: Path | None, sha256: str, target: str) -> bool:
    if store is None or not re.fullmatch(r"[0-9a-f]{64}", sha256) or not (store / sha256).is_dir():
        return False
    return check_frozen(store / sha256).module == _module_of(target)


def _module_of(target: str) -> str:
    """Return the module that a target names, also one that is gone."""
    location = target.partition("@")[0]
    return location.rpartition(":")[0] or f"{BASELINES_PACKAGE}.{location}"
