"""The two schemas of a submission: what its author says of it, and what a verification of it found."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from moeload_bench.isolation.targets import baseline_names
from moeload_bench.names import RESERVED, name_problem
from moeload_bench.schema import Schema

_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
MAX_NAME = 40
MAX_INTEGER = 2**63  # what TOML guarantees, and what JSON readers elsewhere accept
_CODE_TARGET = re.compile(r"forecaster\.py:[A-Za-z_]\w{0,79}", re.ASCII)
_BASELINE_TARGET = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_ADAPTER_TARGET = re.compile(r"moeload_bench\.adapters\.[a-z_][a-z0-9_]{0,39}:[A-Za-z_]\w{0,79}", re.ASCII)
_ADDRESS = re.compile(r"https://[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(:[0-9]{1,5})?([/?#][!#-&(-;=?-\[\]-z|~]*)?")
_COMMON_LICENCES = ("MIT", "Apache-2.0", "BSD-3-Clause", "GPL-3.0-or-later", "MPL-2.0", "LGPL-3.0-or-later")
_KEY = re.compile(r"[A-Za-z_]\w{0,39}", re.ASCII)


def _file_name(name: str) -> str:
    """Check a folder's name for every file system: some ignore case, some reserve names for devices."""
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise ValueError(
            f"got {name[:80]!r}, expected small letters and digits, one of . _ - between, at most {MAX_NAME}"
        )
    if name in RESERVED:
        raise ValueError(f"{name!r} is reserved, expected another name")
    if re.fullmatch(r"con|prn|aux|nul|(com|lpt)[0-9]", name.partition(".")[0]):
        raise ValueError(
            f"{name!r} is the name of a device on Windows, where the project could then not be checked out"
        )
    return name


def _author(name: str) -> str:
    if (problem := name_problem("author", name)) is not None:
        raise ValueError(problem)
    return name


def _printable(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be one line of printable text without blanks at its ends")
    return text


def _licence(text: str) -> str:
    """Check a licence: an SPDX expression as SPDX writes it, such as MIT or `Apache-2.0 OR MIT`."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        canonical = canonicalize_license_expression(text)
    except InvalidLicenseExpression:
        examples = ", ".join(difflib.get_close_matches(text, _COMMON_LICENCES, 3, 0.5) or _COMMON_LICENCES[:4])
        raise ValueError(
            f"got {text[:80]!r}, expected an SPDX identifier such as {examples} (the list: https://spdx.org/licenses)"
        ) from None
    if canonical != text:
        raise ValueError(f"got {text[:80]!r}, expected it as SPDX writes it: {canonical}")
    return text


def _web_address(text: str) -> str:
    """Check an https address: it must lead where it seems to, with a plain host, no user, nothing that browsers
    rewrite.
    """
    if not _ADDRESS.fullmatch(text):
        raise ValueError(f"got {text[:80]!r}, expected https://HOST/PATH of plain letters, without user or password")
    return text


def _simple(value: Scalar) -> bool:
    if isinstance(value, str):
        return value.isprintable() and len(value) <= 200
    return not isinstance(value, int) or -MAX_INTEGER <= value < MAX_INTEGER


ModelType = Literal["statistical", "learned", "pretrained", "yardstick"]
MODEL_TYPES: Mapping[ModelType, str] = {
    "statistical": "computed from the run's own past; nothing was learned from other runs",
    "learned": "learned from the suite's open train runs",
    "pretrained": "learned from other data too, which are named",
    "yardstick": "no entry to win with: what others are measured by, or one chosen on the scores",
}
Line = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Name = Annotated[str, AfterValidator(_file_name)]
AuthorName = Annotated[str, AfterValidator(_author)]
Scalar = bool | int | float | str


class _StrictSchema(Schema):
    """A schema without conversions: an untrusted value counts as it was written."""

    model_config = ConfigDict(strict=True)


class SuiteName(_StrictSchema):
    """The task list that it is submitted to, by name and content."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=40)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Submission(_StrictSchema):
    """The content of submission.toml.

    ``target`` is `forecaster.py:Class`, or the package's own code without a file: a baseline's name or
    `moeload_bench.adapters.NAME:Class`. ``weights_sha256`` is the hash of the file of weights next to the code, if
    there is one.
    """

    name: Name
    authors: Annotated[list[AuthorName], Field(min_length=1, max_length=50)]
    link: Annotated[str, Field(max_length=300), AfterValidator(_web_address)] | None = None
    licence: Annotated[Line, AfterValidator(_licence)]
    target: str
    kwargs: Annotated[dict[str, Scalar | list[Scalar]], Field(max_length=50)] = {}
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    fitted_beyond_train: bool
    model_type: ModelType | None = None
    fitted_on: Annotated[list[Line], Field(max_length=20)] = []
    hardware: Line
    suite: SuiteName

    @field_validator("target")
    @classmethod
    def _known_form(cls, target: str) -> str:
        if not any(form.fullmatch(target) for form in (_CODE_TARGET, _BASELINE_TARGET, _ADAPTER_TARGET)):
            raise ValueError(
                f"got {target!r}, expected forecaster.py:Class, the name of a baseline, or "
                "moeload_bench.adapters.NAME:Class"
            )
        return target

    @field_validator("kwargs")
    @classmethod
    def _simple_values(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        for key, value in kwargs.items():
            values = value if isinstance(value, list) else [value]
            if not _KEY.fullmatch(key) or len(values) > 1000 or not all(map(_simple, values)):
                raise ValueError(f"{key[:40]!r}: expected a Python name with short printable values or 64-bit numbers")
        return kwargs

    @model_validator(mode="after")
    def _says_what_it_learned(self) -> Submission:
        beyond = self.model_type == "pretrained"
        if self.model_type is not None and beyond != self.fitted_beyond_train:
            raise ValueError(
                f"model_type: got {self.model_type!r} with fitted_beyond_train {self.fitted_beyond_train}: what "
                "learned from more than the train runs is 'pretrained', and nothing else is"
            )
        if beyond != bool(self.fitted_on):
            raise ValueError(f"fitted_on: got {self.fitted_on}, expected names of data where 'pretrained', else none")
        return self

    def type_of(self, fitted: bool) -> ModelType:
        """Return its stated type or, without one, the type that follows from whether it was ``fitted`` on the suite."""
        evident: ModelType = "learned" if fitted else "statistical"
        return self.model_type or ("pretrained" if self.fitted_beyond_train else evident)

    @property
    def has_code(self) -> bool:
        return _CODE_TARGET.fullmatch(self.target) is not None

    @property
    def has_adapter(self) -> bool:
        """Return whether the code is one of the package's adapters, with an external library among the requirements."""
        return _ADAPTER_TARGET.fullmatch(self.target) is not None

    @property
    def wrong_name(self) -> str | None:
        """Return why the name cannot be this forecaster's (a baseline of the package has it), or None."""
        if self.name in baseline_names() and self.target != self.name:
            return f"the name {self.name!r} belongs to a baseline: choose another"
        return None

    @property
    def result_target(self) -> str:
        """Return the target as the result names it: a baseline's with arguments, so that no variant passes for it."""
        if self.has_code or not self.kwargs:
            return self.target
        plain = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
        return f"{self.target}@{','.join(f'{key}={plain(value)}' for key, value in self.kwargs.items())}"

    def to_toml(self) -> str:
        """Return the text of submission.toml."""
        defaults = set() if self.fitted_on else {"fitted_on"}
        fields = self.model_dump(exclude={"kwargs", "suite", *defaults}, exclude_none=True)
        return tomli_w.dumps({**fields, "kwargs": self.kwargs, "suite": self.suite.model_dump()})


VerificationStatus = Literal["verified", "verified (sample)", "failed"]
"""``verified (sample)``: only a part of the runs was run again; no new verification says so."""


class Verification(_StrictSchema):
    """What the maintainers' run of a submission found; ``commit`` is that of the code, and of the published result."""

    status: VerificationStatus
    level: str
    date: str
    commit: str | None
    findings: dict[str, float] = Field(default={}, description="what was found of memory, by test")

    def to_json(self) -> str:
        """Return the canonical text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1) + "\n"
