"""The check of a submission's folder, name and result: each falsification is named, and nobody takes another's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leaderboard.committed import entry_problems
from moeload_bench.errors import SubmissionError
from moeload_bench.publishing.folder import (
    RECORD,
    Folder,
    check_name,
    check_name_among,
    folder_problems,
    parse_submission,
)
from moeload_bench.publishing.submission import Submission, Verification
from moeload_bench.results.entry import Entry
from tests.support.altered import entry_of
from tests.support.submitted import World, results_of, submitted


@pytest.fixture(scope="module")
def entry(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, Entry]:
    folder = submitted(tmp_path_factory.mktemp("entry"), world)
    return folder, entry_of(results_of(folder, world))


def test_an_honest_submission_passes(world: World, tmp_path: Path) -> None:
    """A stranger's file, and a baseline, which is a submission without code."""
    baseline = submitted(tmp_path, world, code=None, name="sw_avg", target="sw_avg")
    for folder in (submitted(tmp_path, world), baseline):
        assert list(folder_problems(folder, world.suite)) == []


def test_a_folder_is_for_the_suite_as_it_is(world: World, tmp_path: Path) -> None:
    """By name and hash: what was made for an older task list is submitted again."""
    folder = submitted(tmp_path, world, suite={"name": "other", "sha256": "0" * 64})
    name, sha256 = folder_problems(folder, world.suite)
    assert name.startswith("suite name: submission.toml says 'other', expected 'small'")
    assert sha256.startswith("suite hash: submission.toml says '0000")


def test_a_strangers_code_cannot_take_a_baselines_name(world: World, tmp_path: Path) -> None:
    """`sw_avg` is this package's."""
    folder = submitted(tmp_path, world, name="sw_avg")
    assert any("belongs to a baseline" in line for line in folder_problems(folder, world.suite))


FALSIFIED: dict[str, tuple[str, Any, str]] = {
    "another suite's hash": ("suite/sha256", "0" * 64, "suite: the result says 'small 0000"),
    "another suite's name": ("suite/name", "other", "suite: the result says 'other"),
    "changed code": ("source_sha256", "0" * 64, "code has changed"),
    "other arguments": ("kwargs", {"window": 3}, "kwargs"),
    "unnamed requirements": ("requirements", ["a==1"], "requirements"),
    "another name": ("name", "yours", "forecaster name"),
    "another scoring": ("scoring_version", 0, "scoring version"),
    "a status of its own": ("status", "verified", "no verification.json says so"),
}


@pytest.mark.parametrize("name", FALSIFIED)
def test_a_result_of_another_submission_is_refused_with_the_reason(
    name: str, entry: tuple[Folder, Entry], world: World
) -> None:
    """Each place of the record that names the submission, its suite or its verification."""
    folder, result = entry
    assert list(entry_problems(result, folder, world.suite)) == []
    path, value, message = FALSIFIED[name]
    tree = result.model_dump(mode="json")
    *parents, last = path.split("/")
    place = tree
    for part in parents:
        place = place[part]
    place[last] = value
    found = list(entry_problems(Entry.model_validate(tree), folder, world.suite))
    assert any(message in line for line in found), found


def test_a_verification_is_bound_to_one_result(entry: tuple[Folder, Entry], world: World) -> None:
    """That of the commit at which both were made."""
    folder, result = entry
    made = Verification(status="verified", level="sandbox", date="2026-11-25", commit=result.environment.commit)
    folder = replace(folder, verification=made)
    changed: Callable[..., Entry] = result.model_copy
    assert list(entry_problems(changed(update={"status": "verified"}), folder, world.suite)) == []
    (line,) = entry_problems(result, folder, world.suite)
    assert line.startswith("the result says claimed, verification.json says verified")
    elsewhere = result.environment.model_copy(update={"commit": "0" * 40})
    (line,) = entry_problems(changed(update={"status": "verified", "environment": elsewhere}), folder, world.suite)
    assert line.startswith("verification.json is about another result")


# ---------------------------------------------------------------- names


def record(name: str, *authors: str) -> Submission:
    suite = {"name": "v1", "sha256": "0" * 64}
    fields = {"name": name, "authors": list(authors), "licence": "MIT", "target": "forecaster.py:Mine", "suite": suite}
    return parse_submission({**fields, "fitted_beyond_train": False, "hardware": "x"}, "test")


def put(root: Path, one: Submission, place: str = "submissions") -> None:
    folder = root / place / one.name
    folder.mkdir(parents=True)
    (folder / RECORD).write_text(one.to_toml())


@pytest.mark.parametrize("name", ["sw-avg", "sw.avg", "5w_avg", "ar1ma", "1stm"])
def test_a_name_that_looks_like_a_baseline_s_is_refused(name: str) -> None:
    """Other separators, digits for letters."""
    with pytest.raises(SubmissionError, match="too like"):
        check_name_among(record(name, "A"), [], lambda path: b"", "there")


def test_a_name_is_its_authors(tmp_path: Path) -> None:
    """Free, or their own: accepted. Another's, or like another's: refused with what to do."""
    put(tmp_path, record("their-net", "A"))
    check_name(record("other-net", "B"), tmp_path)
    check_name(record("their-net", "A"), tmp_path)
    with pytest.raises(SubmissionError, match="taken by other authors: choose another --name"):
        check_name(record("their-net", "B"), tmp_path)
    with pytest.raises(SubmissionError, match="'their_net' is too like 'their-net'"):
        check_name(record("their_net", "A"), tmp_path)
    check_name(record("mine", "A"), tmp_path / "no leaderboard yet")


def test_an_author_who_looks_like_another_is_refused(tmp_path: Path) -> None:
    """A letter of another script; the very same author may come again."""
    put(tmp_path, record("their-net", "The maintainers"))
    check_name(record("other-net", "The maintainers"), tmp_path)
    with pytest.raises(SubmissionError, match="is too like 'The maintainers'"):
        check_name(record("other-net", "The m\u0430intainers"), tmp_path)


@pytest.mark.parametrize("existing", ["authors = ", "a = " + "[" * 5000, "a = " + "9" * 5000, "", "authors = 'A'"])
def test_a_record_that_cannot_be_read_keeps_its_name(existing: str) -> None:
    """Whatever is wrong with it, somebody has the name."""
    with pytest.raises(SubmissionError, match="taken by other authors"):
        check_name_among(record("mine", "A"), [f"submissions/mine/{RECORD}"], lambda path: existing.encode(), "there")


def test_names_come_from_paths() -> None:
    """Folders below submissions/ only."""
    paths = ["submissions/b-net/x.toml", "submissions/README-md", "x/submissions/c-net/d"]
    for name in ("readme.md", "c.net"):
        check_name_among(record(name, "A"), paths, lambda path: b"", "there")
    with pytest.raises(SubmissionError, match="too like 'b-net'"):
        check_name_among(record("b.net", "A"), paths, lambda path: b"", "there")
