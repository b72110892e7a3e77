"""Submission folders: what is read, what is refused and in which words; nothing of them is executed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeload_bench.errors import SubmissionError
from moeload_bench.isolation.sources import file_sha256, find_module, module_sha256
from moeload_bench.isolation.targets import parse_target
from moeload_bench.publishing.folder import CODE, RECORD, VERIFICATION, parse_submission, read_folder
from moeload_bench.publishing.requirements import REQUIREMENTS, parse_requirements
from moeload_bench.publishing.submit import Author, make_draft
from moeload_bench.schema import load_toml
from tests.support.submitted import World, fields_of, write_folder


def test_a_folder_is_read_without_executing_it(tmp_path: Path, world: World) -> None:
    """Code that would leave a mark leaves none; the record, requirements and hash come back."""
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'w')\nclass Mine: pass\n"
    folder = read_folder(write_folder(tmp_path, world, code, "numpy==2.0.1 # why\n\n", kwargs={"window": 5}))
    assert folder.record.kwargs == {"window": 5}
    assert folder.requirements == ("numpy==2.0.1",)
    assert folder.target().class_name == "Mine"
    assert not mark.exists()


def test_a_plug_in_of_the_verifiers_machine_is_no_submissions_code(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A submission without code names a baseline or an adapter: what else has that name there is not run."""
    monkeypatch.setattr("moeload_bench.isolation.targets.plugin_places", lambda: {"strange": "statistics:NormalDist"})
    assert parse_target("strange").class_name == "NormalDist"
    path = write_folder(tmp_path, world, code=None, name="strange", target="strange")
    with pytest.raises(SubmissionError, match=r"target: unknown baseline 'strange'.*sw_avg"):
        read_folder(path)


author = st.from_regex(r"[A-Za-z\u00c0-\u00d6][A-Za-z0-9.'-]{0,20}( [a-z]{1,9}){0,3}", fullmatch=True)
text = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=30)
scalars = st.one_of(st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False), text)


@settings(max_examples=30)
@given(
    authors=st.lists(author, min_size=1, max_size=3),
    kwargs=st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), scalars | st.lists(scalars, max_size=3)),
)
def test_a_record_survives_its_toml(authors: list[str], kwargs: dict[str, Any]) -> None:
    """Written and read again it is the same record, whatever the names and values hold."""
    import tomllib

    suite = {"name": "v1", "sha256": "0" * 64}
    fields = {"name": "mine", "authors": authors, "licence": "MIT", "target": "sw_avg", "kwargs": kwargs}
    record = parse_submission({**fields, "fitted_beyond_train": True, "hardware": "x", "suite": suite}, "test")
    assert parse_submission(tomllib.loads(record.to_toml()), "test") == record


BAD_FIELDS = [
    ({"name": "../evil"}, "name"),
    ({"name": "a/b"}, "name"),
    ({"name": ".."}, "name"),
    ({"name": "Mine"}, "name"),
    ({"name": "a" * 41}, "name"),
    ({"name": "con"}, "name"),
    ({"name": "aux.net"}, "name"),
    ({"name": "mine\n"}, "name"),
    ({"name": "\u043cine"}, "name"),
    ({"authors": []}, "authors"),
    ({"authors": ["two\nlines"]}, "authors"),
    ({"authors": ["A.\u202eUthor"]}, "authors"),
    ({"authors": ["\uff21. Uthor"]}, "authors"),
    ({"name": "costs"}, "name"),
    ({"licence": "x" * 201}, "licence"),
    ({"licence": "Apache 2"}, "licence"),
    ({"licence": "mit"}, "licence"),
    ({"link": "javascript:alert(1)"}, "link"),
    ({"link": "https://a\"onload='x"}, "link"),
    ({"link": "https://good@evil/"}, "link"),
    ({"link": "https://good:word@evil.example/"}, "link"),
    ({"link": "https://evil.example\\@good.example/"}, "link"),
    ({"link": "http://example.org/"}, "link"),
    ({"link": "ftp://example.org/"}, "link"),
    ({"model_type": "oracle of Delphi"}, "model_type"),
    ({"model_type": "learned", "fitted_beyond_train": True}, "got 'learned' with fitted_beyond_train True"),
    ({"model_type": "pretrained", "fitted_on": ["a"]}, "got 'pretrained' with fitted_beyond_train False"),
    ({"model_type": "pretrained", "fitted_beyond_train": True}, "fitted_on: got \\[\\], expected names of data"),
    ({"fitted_on": ["a wiki"]}, "fitted_on"),
    ({"fitted_on": ["two\nlines"]}, "fitted_on"),
    ({"target": "other.py:Mine"}, "target"),
    ({"target": "os:system"}, "target"),
    ({"target": "moeload_bench.adapters.blocks.os:system"}, "target"),
    ({"target": "moeload_bench.ops.planning.planner:Settings"}, "target"),
    ({"kwargs": {"a b": 1}}, "kwargs"),
    ({"kwargs": {"a": float("nan")}}, "kwargs"),
    ({"kwargs": {"a": {"b": 1}}}, "kwargs"),
    ({"kwargs": {"a": 2**63}}, "kwargs"),
    ({"kwargs": {"a": [1, 10**5000]}}, "kwargs"),
    ({"kwargs": {"a": "x" * 201}}, "kwargs"),
    ({"kwargs": {"a": [1] * 1001}}, "kwargs"),
    ({"fitted_beyond_train": "no"}, "fitted_beyond_train"),
    ({"suite": {"name": "../v1", "sha256": "0" * 64}}, "suite.name"),
    ({"suite": {"name": "v1", "sha256": "0"}}, "suite.sha256"),
    ({"extra": 1}, "extra"),
]


@pytest.mark.parametrize(("changes", "field"), BAD_FIELDS)
def test_a_bad_field_is_named(changes: dict[str, Any], field: str, world: World) -> None:
    """One line that names the field."""
    with pytest.raises(SubmissionError, match=f"test: (Value error, |.*: |){field}"):
        parse_submission(fields_of(world, **changes), "test")


def test_a_submission_says_what_it_is(world: World) -> None:
    """Its type and the data it learned from; one that says nothing is what it was made like."""
    silent = parse_submission(fields_of(world), "test")
    assert [silent.type_of(fitted) for fitted in (False, True)] == ["statistical", "learned"]
    assert "model_type" not in silent.to_toml()
    assert parse_submission(fields_of(world, fitted_beyond_train=True), "test").type_of(True) == "pretrained"
    said = fields_of(world, model_type="pretrained", fitted_beyond_train=True, fitted_on=["pages of a wiki"])
    record = parse_submission(said, "test")
    assert (record.type_of(False), record.fitted_on) == ("pretrained", ["pages of a wiki"])


@pytest.mark.parametrize(
    "line",
    [
        "numpy", "numpy>=2", "numpy==2.*", "numpy==2.0,<3", "numpy[all]==2.0", "numpy @ https://example.org/numpy.whl",
        "https://example.org/numpy.whl", "git+https://example.org/a.git", "-e .", "./wheel.whl", "-r other.txt",
        "--index-url=https://example.org", "numpy==2.0 --hash=sha256:0", "numpy==2.0; python_version > '3'",
        "moeload_bench==0.1.0", "numpy==1.0\nNumPy==2.0", "\n".join(f"a{i}==1" for i in range(101)),
    ],
)  # fmt: skip
def test_only_pinned_requirements_are_accepted(line: str) -> None:
    """All that pip would accept besides `name==version` is refused, with its line number; a hundred are enough."""
    with pytest.raises(SubmissionError, match=r"requirements.txt: (line \d|101 requirements, at most 100)"):
        parse_requirements(line)


def test_requirements_may_name_the_hashes_of_their_wheels() -> None:
    """In pip's own form, over several lines too; all of them do or none."""
    one, two = f"--hash=sha256:{'1' * 64}", f"--hash=sha256:{'2' * 64}"
    assert parse_requirements(f"B_b==1 \\\n    {one} \\\n    {two}\na==1 {two}\n") == (
        f"a==1 {two}",
        f"b-b==1 {one} {two}",
    )
    with pytest.raises(SubmissionError, match="a has no --hash, others do"):
        parse_requirements(f"a==1\nb==1 {one}")


@pytest.mark.parametrize("text", ["a." * 8000 + "a = 1", "x = {" + "a ." * 4000 + "a = 1}"], ids=["key", "in a table"])
def test_a_key_of_thousands_of_parts_is_refused_before_it_is_parsed(text: str) -> None:
    """The parser's time is quadratic in them: in a submission's record, a suite and a recipe."""
    with pytest.raises(ValueError, match="at most 200 dots in a line"):
        load_toml(text)


def _instead_of_code(folder: Path, make: Callable[[Path], object]) -> None:
    (folder / CODE).unlink()
    make(folder / CODE)


def _edit_record(folder: Path, old: str, new: str) -> None:
    (folder / RECORD).write_text((folder / RECORD).read_text().replace(old, new))


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "binary": (lambda folder: (folder / CODE).write_bytes(b"\xff\xfe"), "not text"),
    "a NUL": (lambda folder: (folder / CODE).write_bytes(b"a = 1\0"), "not text"),
    "large": (lambda folder: (folder / CODE).write_text("#" * (300 << 10)), "at most 262144"),
    "a link": (lambda folder: _instead_of_code(folder, lambda code: code.symlink_to("/etc/hostname")), "regular file"),
    "a device": (lambda folder: _instead_of_code(folder, os.mkfifo), "regular file"),
    "no code": (lambda folder: _instead_of_code(folder, str), "there is no forecaster.py"),
    "a stranger": (lambda folder: (folder / "weights.bin").write_bytes(b"0"), "unexpected 'weights.bin'"),
    "another case": (lambda folder: (folder / RECORD.upper()).write_text("x"), "unexpected 'SUBMISSION.TOML'"),
    "no record": (lambda folder: (folder / RECORD).unlink(), "no submission.toml"),
    "no TOML": (lambda folder: (folder / RECORD).write_text("name = "), "not TOML"),
    "digits": (lambda folder: (folder / RECORD).write_text("name = " + "9" * 5000), "not TOML"),
    "brackets": (lambda folder: (folder / RECORD).write_text("name = " + "[" * 8000), "not TOML"),
    "dots": (lambda folder: (folder / RECORD).write_text("name" + ".a" * 7000 + " = 1"), "200 dots in a line"),
    "a huge number": (lambda folder: _edit_record(folder, "[kwargs]", "[kwargs]\na = 0x" + "f" * 8000), "kwargs"),
    "another name": (lambda folder: _edit_record(folder, '"mine"', '"yours"'), "must be named 'yours'"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_spoiled_folder_is_refused_with_the_reason(what: str, tmp_path: Path, world: World) -> None:
    """Binary, oversized, linked, missing, unexpected and misnamed files."""
    folder, (spoil, message) = write_folder(tmp_path, world), SPOILED[what]
    spoil(folder)
    with pytest.raises(SubmissionError, match=message):
        read_folder(folder)


def test_a_linked_folder_is_refused(tmp_path: Path, world: World) -> None:
    """A folder elsewhere cannot pose as one of the leaderboard."""
    (tmp_path / "link").symlink_to(write_folder(tmp_path, world))
    with pytest.raises(SubmissionError, match="expected a folder"):
        read_folder(tmp_path / "link")


def test_the_target_is_the_file_in_the_folder_wherever_that_is(tmp_path: Path, world: World) -> None:
    """Also below a path that holds the characters of a target's text."""
    folder = read_folder(write_folder(tmp_path / "me@home:py", world, kwargs={"window": 5}))
    target = folder.target()
    assert (target.file, target.class_name, target.kwargs) == (folder.path / CODE, "Mine", {"window": 5})


def test_an_adapter_of_the_package_is_an_entry_of_its_own(tmp_path: Path, world: World) -> None:
    """Without a file; its hash is of all that it imports from the package, its library is in the requirements."""
    text = 'moeload_bench.adapters.statsforecast:StatsForecast@model="AutoTheta"'
    author = Author(["A. Uthor"], "MIT", None, False, "a laptop")
    draft = make_draft(parse_target(text), "theta", author, world.suite, "statsforecast==2.1.1\n")
    folder = read_folder(draft.write(tmp_path))
    assert folder.requirements == ("statsforecast==2.1.1",)
    assert folder.record.has_adapter
    assert folder.record.result_target == text
    target = folder.target()
    assert (target.module, target.class_name, target.kwargs) == (
        "moeload_bench.adapters.statsforecast",
        "StatsForecast",
        {"model": "AutoTheta"},
    )
    place = find_module("moeload_bench.adapters.statsforecast")
    assert place is not None
    assert folder.source_sha256 == module_sha256("moeload_bench.adapters.statsforecast") != file_sha256(place)
    (folder.path / CODE).write_text("class Mine: ...")
    with pytest.raises(SubmissionError, match="the package's own code has none"):
        read_folder(folder.path)
    for package in ("moeload_bench.ops.planning.planner:Settings", "json:JSONDecoder"):
        with pytest.raises(SubmissionError, match=r"a submission is one file: name it as FILE\.py:Class"):
            make_draft(parse_target(package), "mine", author, world.suite)


def test_a_checkout_changes_no_byte_of_a_submission() -> None:
    """Its code is bound to its result by a hash, on Windows too."""
    path = "leaderboard/submissions/mine/forecaster.py"
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(["git", "check-attr", "text", path], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == f"{path}: text: unset\n"


@settings(max_examples=60)
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_content_of_a_folder_breaks_its_reading(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever submission.toml, requirements.txt and verification.json hold, the refusal is a `SubmissionError`."""
    folder = tmp_path_factory.mktemp("mine")
    for name in (RECORD, REQUIREMENTS, VERIFICATION):
        (folder / name).write_bytes(content)
    with pytest.raises(SubmissionError):
        read_folder(folder)
