"""The way of a stranger's file: submit in the sandbox, one pull request, merge, verified entry. And its refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leaderboard.committed import entry_problems
from leaderboard.verifying.verify import Request, verify, write_verification
from moeload_bench.errors import SubmissionError
from moeload_bench.isolation.targets import FileTarget, parse_target
from moeload_bench.publishing import requirements, submit
from moeload_bench.publishing.folder import VERIFICATION, check_name, folder_problems, read_folder
from moeload_bench.publishing.requirements import install_packages
from moeload_bench.publishing.submit import Author, ResultsRepository, make_draft, prepare_submission
from moeload_bench.results.results import load_results
from tests.isolation.attacks.arena import require_sandbox
from tests.support.hub import LocalHub
from tests.support.submitted import NAIVE, World, submitted, wheel

pytest_plugins = ("tests.support.hub.fixtures",)
REPO = "acme/results"
WHO = Author(["A. Stranger"], "MIT", None, False, "a laptop")


def test_a_draft_is_read_back_as_it_was_meant(world: World, tmp_path: Path) -> None:
    """File, class, arguments and requirements."""
    (tmp_path / "my.py").write_text(NAIVE)
    target = parse_target(f"{tmp_path / 'my.py'}:Mine@window=50")
    folder = read_folder(make_draft(target, "mine", WHO, world.suite, "numpy==2.0.1\n").write(tmp_path))
    assert (folder.record.target, folder.record.kwargs) == ("forecaster.py:Mine", {"window": 50})
    assert folder.requirements == ("numpy==2.0.1",)


def test_a_baselines_name_is_refused_before_anything_runs(world: World, tmp_path: Path) -> None:
    """For anybody's code and for another baseline; the baseline itself has its name."""
    (tmp_path / "my.py").write_text(NAIVE)
    for target in (f"{tmp_path / 'my.py'}:Mine", "uniform"):
        with pytest.raises(SubmissionError, match="the name 'sw_avg' belongs to a baseline: choose another"):
            make_draft(parse_target(target), "sw_avg", WHO, world.suite)
    assert make_draft(parse_target("sw_avg"), "sw_avg", WHO, world.suite).record.name == "sw_avg"


def test_a_package_is_not_a_submission(world: World) -> None:
    """One file is."""
    with pytest.raises(SubmissionError, match=r"FILE\.py:Class"):
        make_draft(parse_target("json:JSONDecoder"), "mine", WHO, world.suite)


def test_a_name_of_other_authors_is_refused(world: World, tmp_path: Path) -> None:
    """The same authors may submit again, and an earlier verification goes."""
    folder = submitted(tmp_path, world, authors=["A. Stranger"])
    (folder.path / VERIFICATION).write_text("{}")
    draft = make_draft(folder.target(), "mine", WHO, world.suite)
    check_name(draft.record, tmp_path)
    draft.replace(tmp_path)
    assert list(folder_problems(read_folder(folder.path), world.suite)) == []
    other = make_draft(folder.target(), "mine", Author(["B"], "MIT", None, False, "x"), world.suite)
    with pytest.raises(SubmissionError, match="taken by other authors"):
        check_name(other.record, tmp_path)


@pytest.mark.slow
def test_a_strangers_file_becomes_a_merged_verified_entry(
    hub: LocalHub, api: Any, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outsider's token opens the pull request; the maintainer verifies, adds what was found, and merges; what
    the Hub then holds is a verified entry.

    The forecaster needs a package of its own, which is not installed here: the sandbox has it, this process has not.
    """
    require_sandbox()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    api().create_repo(REPO, repo_type="dataset")
    wheels = tmp_path / "wheels"
    wheel(wheels, "moeload_test_helper", "1.0", "WINDOW = 30\n")
    (tmp_path / "my.py").write_text(NAIVE.replace("import numpy", "import moeload_test_helper\nimport numpy"))
    target = parse_target(f"{tmp_path / 'my.py'}:Mine")
    draft = make_draft(target, "mine", WHO, world.suite, "moeload-test-helper==1.0\n")
    repository = ResultsRepository.open(REPO, api("outsider"))
    repository.check_name(draft.record)
    prepared = prepare_submission(draft, find_links=wheels, no_index=True)
    number = int(repository.open_pull_request(prepared).rsplit("/", 1)[1])

    request = {"repo_type": "dataset", "revision": f"refs/pr/{number}"}
    files = ["submissions/mine/*", "results/small/**"]
    api("maintainer").snapshot_download(REPO, **request, local_dir=tmp_path / "request")
    folder = read_folder(tmp_path / "request" / "submissions" / "mine")
    place = tmp_path / "request" / "results" / "small"
    assert not place.exists()
    assert list(folder_problems(folder, world.suite)) == []
    found = verify(Request(folder, world.suite, world.paths, find_links=wheels, no_index=True))
    made = found.record
    assert (found.reasons, made.status, made.level) == ([], "verified", "sandbox")
    write_verification(found, folder, place)
    maintainer = api("maintainer")
    maintainer.upload_folder(repo_id=REPO, folder_path=tmp_path / "request", allow_patterns=files, **request)
    maintainer.merge_pull_request(REPO, number, repo_type="dataset")

    maintainer.snapshot_download(REPO, repo_type="dataset", local_dir=tmp_path / "merged")
    entry = load_results(tmp_path / "merged" / "results" / "small").entries["mine"]
    folder = read_folder(tmp_path / "merged" / "submissions" / "mine")
    assert list(entry_problems(entry, folder, world.suite)) == []
    assert (entry.status, folder.verification) == ("verified", made)
    with pytest.raises(ModuleNotFoundError):
        __import__("moeload_test_helper")

    rival = make_draft(target, "mine", Author(["B"], "MIT", None, False, "x"), world.suite)
    with pytest.raises(SubmissionError, match="taken by other authors"):
        ResultsRepository.open(REPO, api("outsider")).check_name(rival.record)


class _EnoughError(Exception):
    """The check of the contract would begin."""


@pytest.mark.parametrize("there", ["nothing", "installed", "wheels"])
def test_a_dry_run_asks_no_network_for_requirements(
    there: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes what a folder of wheels or an earlier call gave; otherwise it says that it did not check them."""
    wheels = wheel(tmp_path / "wheels", "a", "1.0", "X = 1\n").parent
    if there == "installed":
        monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        assert install_packages(("a==1.0",)) is not None
    asked: list[list[str]] = []

    def download(options: list[str]) -> None:
        asked.append(options)
        real(options)

    def enough(target: FileTarget, *arguments: object, **options: object) -> None:
        assert (target.packages is None) == (there == "nothing")
        raise _EnoughError

    real = requirements._download
    monkeypatch.setattr(requirements, "_download", download)
    monkeypatch.setattr(submit, "check_forecaster", enough)
    (tmp_path / "my.py").write_text(NAIVE)
    draft = make_draft(parse_target(f"{tmp_path / 'my.py'}:Mine"), "mine", WHO, world.suite, "a==1.0\n")
    said: list[str] = []
    with pytest.raises(_EnoughError):
        prepare_submission(
            draft,
            level="process",
            offline=True,
            find_links=wheels if there == "wheels" else None,
            say=said.append,
        )
    assert (submit.NOT_INSTALLED in said) == (there == "nothing")
    assert len(asked) == (there == "wheels")
    assert all("--no-index" in options for options in asked)


@pytest.mark.slow
def test_conformance_comes_first(world: World, tmp_path: Path) -> None:
    """A forecaster that breaks the contract is told which rule, and nothing is written."""
    (tmp_path / "my.py").write_text(
        NAIVE.replace("self.share_SLE.mean(axis=0), req", "self.share_SLE.sum(axis=0), req")
    )
    draft = make_draft(parse_target(f"{tmp_path / 'my.py'}:Mine"), "mine", WHO, world.suite)
    with pytest.raises(SubmissionError, match="conformance: "):
        prepare_submission(draft, level="process")
