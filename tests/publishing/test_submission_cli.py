"""The way of a submission: `submit` and `verify` as programs, one pull request, merge, verified entry; and refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from leaderboard.committed import entry_problems, result_path
from leaderboard.verifying.verify import Request, verify, write_verification
from moeload_bench.errors import SubmissionError
from moeload_bench.isolation.targets import FileTarget, parse_target
from moeload_bench.publishing import requirements, submit
from moeload_bench.publishing.folder import (
    CARD,
    CODE,
    FITTED,
    RECORD,
    VERIFICATION,
    check_name,
    folder_problems,
    read_folder,
)
from moeload_bench.publishing.requirements import install_packages
from moeload_bench.publishing.submission import Verification
from moeload_bench.publishing.submit import Author, ResultsRepository, make_draft, prepare_submission
from moeload_bench.results.results import load_results
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace
from tests.leaderboard.test_baseline_submissions import BASELINES
from tests.support.hub import LocalHub
from tests.support.submitted import NAIVE, World, submitted, wheel, write_folder

pytest_plugins = ("tests.support.hub.fixtures",)
ROOT = Path(__file__).resolve().parents[2]
SUBMISSIONS = [
    path.parent for path in (ROOT / "leaderboard").glob(f"submissions/*/{RECORD}") if path.parent.name not in BASELINES
]
"""All but those of baselines, which are checked as they are written again."""
REPO = "acme/results"


@pytest.fixture(scope="module")
def checked_in(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one submission; tests leave it as it is."""
    return write_folder(tmp_path_factory.mktemp("leaderboard"), world)


def moeload(world: World, *arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The real program in a process of its own, with the traces and the suite of the test."""
    program = "leaderboard" if arguments[0] == "verify" else "moeload_bench"
    command = [sys.executable, "-m", program, *arguments]
    if "--suite" not in arguments:
        command += ["--suite", world.suite_file]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "MOELOAD_TRACES": str(world.root), "PYTHONPATH": path, **variables}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, check=False, timeout=300)


@pytest.mark.parametrize("path", SUBMISSIONS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_committed_submission_passes_the_check(path: Path) -> None:
    """Folder, result and, where there is one, verification belong together. When this fails after results were made
    anew: `make verify`, which runs `python -m leaderboard verify leaderboard/submissions/NAME` for each, and commit.
    """
    folder = read_folder(path)
    suite = load_suite(folder.record.suite.name)
    results = load_results(ROOT / "leaderboard" / result_path(suite.name, path.name))
    assert list(entry_problems(results.entries[path.name], folder, suite)) == [], (
        "run `make verify` and commit what it writes"
    )


def test_check_only_says_yes_or_why_not(world: World, tmp_path: Path) -> None:
    """In words with exit status 0 or 1, or as JSON for scripts; nothing is written."""
    folder = write_folder(tmp_path, world)
    before = sorted(path.name for path in folder.iterdir())
    good = moeload(world, "verify", str(folder), "--check-only", cwd=tmp_path)
    assert (good.returncode, good.stdout, good.stderr) == (0, "checked\n", "")
    write_folder(tmp_path, world, suite={"name": "small", "sha256": "0" * 64})
    bad = moeload(world, "verify", str(folder), "--check-only", cwd=tmp_path)
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "not checked: suite hash: submission.toml says '0000" in bad.stderr
    told = moeload(world, "verify", str(folder), "--check-only", "--json", cwd=tmp_path)
    assert (told.returncode, told.stderr) == (1, "")
    assert json.loads(told.stdout)["checked"] is False
    assert "suite hash" in json.loads(told.stdout)["reasons"][0]
    assert sorted(path.name for path in folder.iterdir()) == before


def test_what_comes_from_outside_brings_no_verification_and_no_other_s_name(world: World, tmp_path: Path) -> None:
    """`--incoming` refuses the maintainers' files and, with `--base`, a name that others had before the request."""
    folder = write_folder(tmp_path / "new", world)
    base = tmp_path / "old"
    arguments = ("verify", str(folder), "--check-only", "--incoming", "--base", str(base))
    assert moeload(world, *arguments, cwd=tmp_path).returncode == 0
    theirs = base / "submissions" / "mine"
    theirs.mkdir(parents=True)
    (theirs / RECORD).write_text('authors = ["Somebody Else"]\n')
    made_up = Verification(status="verified", level="sandbox", date="2026-11-25", commit=None)
    (folder / VERIFICATION).write_text(made_up.to_json())
    (folder / FITTED).write_bytes(b"weights")
    done = moeload(world, *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "verification.json is the maintainers' file: remove it" in done.stderr
    assert "fitted.bin is the maintainers' file: remove it" in done.stderr
    assert "the name 'mine' is taken by other authors" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--level", "none"], 2, "expected process or sandbox"),
        (["--incoming"], 2, "--incoming to --check-only"),
        (["--check-only", "--suite", "mini"], 1, "suite name: submission.toml says 'small', expected 'mini'"),
        (["--check-only", "--suite", "v99"], 2, "unknown suite 'v99'"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    arguments: list[str], status: int, message: str, world: World, checked_in: Path
) -> None:
    """Before anything runs, in words that say what to give instead."""
    done = moeload(world, "verify", str(checked_in), *arguments, cwd=checked_in)
    assert done.returncode == status
    assert message in " ".join(done.stderr.replace("│", " ").split())


def test_a_stranger_s_suite_name_opens_no_file_here(world: World, tmp_path: Path) -> None:
    """A submission that names its suite `evil.toml` is not checked against a file that the pull request brings."""
    from leaderboard.verifying.command import _suite_of
    from moeload_bench.errors import NotFoundError

    suite = {"name": "evil.toml", "sha256": "0" * 64}
    folder = read_folder(write_folder(tmp_path, world, suite=suite))
    with pytest.raises(NotFoundError, match=r"unknown suite 'evil\.toml'; there is: .*FILE\.toml by --suite"):
        _suite_of(folder, None)


@pytest.mark.parametrize("command", ["verify", "submit"])
def test_a_machine_without_a_sandbox_is_no_fault_of_a_submission(command: str, world: World, tmp_path: Path) -> None:
    """It is said at once, with what to do; no verification is written that says failed."""
    folder = write_folder(tmp_path, world)
    arguments = {"verify": [str(folder)], "submit": ["sw_avg", "--name", "other", "--author", "A"]}[command]
    done = moeload(world, command, *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "bwrap is not installed" in done.stderr
    assert "or say --level process" in done.stderr
    assert not (folder / VERIFICATION).exists()


SUBMIT = ("submit", "my.py:Mine@window=50", "--name", "mine", "--author", "A. Stranger", "--level", "process")


@pytest.mark.slow
def test_submit_shows_then_writes_then_verify_accepts(world: World, tmp_path: Path) -> None:
    """A dry run writes nothing and says what it would; the second call writes the folder with one's own run and no
    result, and names the git steps; the check, the part that is run again and the verification, on fresh runs too,
    accept what was written.
    """
    (tmp_path / "my.py").write_text(NAIVE)
    dry = moeload(world, *SUBMIT, "--dry-run", cwd=tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert "checking the contract" in dry.stderr
    assert 'name = "mine"' in dry.stdout
    assert "To score it yourself:\n    moeload-bench run my.py:Mine@window=50 sw_avg --suite" in dry.stdout
    assert "dry run: nothing written, nothing sent" in dry.stdout
    assert not (tmp_path / "leaderboard").exists()

    ran = moeload(world, "run", SUBMIT[1], "--level", "process", "--out", "mine.parquet", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    done = moeload(world, *SUBMIT, "--results", "mine.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder, result = Path("leaderboard/submissions/mine"), Path("leaderboard/results/small/mine.parquet")
    assert f"git add {folder}\n" in done.stdout
    assert (tmp_path / folder / CODE).read_text() == NAIVE
    assert "- Authors: A. Stranger\n" in (tmp_path / folder / CARD).read_text()
    assert not (tmp_path / result).exists()
    checked = moeload(world, "verify", str(folder), "--check-only", "--incoming", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "| **mine** (claimed, not run again) | " in checked.stdout
    again = moeload(world, "verify", str(folder), "--claim", "--seed", "7", "--level", "process", cwd=tmp_path)
    assert (again.returncode, again.stdout.splitlines()[1:]) == (0, ["confirmed"]), again.stderr
    assert not (tmp_path / result).exists()

    fresh = synthetic_trace(seed=77, recipe="one", split="test", run=9)
    write_trace(fresh, tmp_path / "fresh" / f"{fresh.id}.parquet")
    options = ("--level", "process", "--traces", "fresh")
    told = moeload(world, "verify", str(folder), *options, "--json", "--dry-run", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    made = json.loads(told.stdout)
    assert (made["status"], made["level"], made["reasons"]) == ("verified", "process", [])
    assert "fresh_runs" in made["findings"]
    assert not (tmp_path / folder / VERIFICATION).exists()

    second = moeload(world, "verify", str(folder), "--level", "process", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert second.stdout.endswith("verified\n")
    assert "3/3 runs" in second.stderr, "progress is told"
    assert load_results(tmp_path / result).entries["mine"].status == "verified"
    assert moeload(world, "verify", str(folder), "--check-only", cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_submit_opens_a_pull_request_that_replaces_what_the_name_held(
    hub: LocalHub, api: Any, world: World, tmp_path: Path
) -> None:
    """One pull request by an outsider; merged, its author submits again without requirements: the old file goes. A
    rival, a look-alike and a submitter without token are refused before anything runs.
    """
    api().create_repo(REPO, repo_type="dataset")
    (tmp_path / "my.py").write_text(NAIVE)
    outsider = hub.environment(tmp_path / "hf", "hf_outsider")
    there = (*SUBMIT, "--repo", REPO)
    old = {f"submissions/mine/{RECORD}": b'authors = ["A. Stranger"]', "submissions/mine/requirements.txt": b"a==1\n"}
    for path, content in old.items():
        api().upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=REPO, repo_type="dataset")

    done = moeload(world, *there, cwd=tmp_path, **outsider)
    assert done.returncode == 0, done.stderr
    assert f"opened {hub.endpoint}/datasets/{REPO}/discussions/" in done.stdout
    number = int(done.stdout.rsplit("/", 1)[1])
    for revision in ("main", f"refs/pr/{number}"):
        api(False).snapshot_download(REPO, repo_type="dataset", revision=revision, local_dir=tmp_path / revision)
    request = ("verify", f"refs/pr/{number}/submissions/mine", "--check-only", "--incoming", "--base", "main")
    checked = moeload(world, *request, cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    api("maintainer").merge_pull_request(REPO, number, repo_type="dataset")
    paths = [path for path in api().list_repo_files(REPO, repo_type="dataset") if "/" in path]
    assert paths == [f"submissions/mine/{name}" for name in (CARD, CODE, RECORD)]
    assert not (tmp_path / "leaderboard").exists()

    for change, message in {
        ("A. Stranger", "B. Rival"): "taken by other authors",
        ("mine", "m1ne"): "'m1ne' is too like 'mine'",
    }.items():
        refused = moeload(world, *(change[1] if one == change[0] else one for one in there), cwd=tmp_path, **outsider)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert message in refused.stderr
    nobody = hub.environment(tmp_path / "hf-nobody", None)
    refused = moeload(world, *there, cwd=tmp_path, **nobody)
    assert refused.returncode == 2
    assert "no token: set HF_TOKEN" in refused.stderr


# ---------------------------------------------------------------- the functions behind the programs


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


def test_the_same_authors_may_submit_again(world: World, tmp_path: Path) -> None:
    """An earlier verification goes."""
    folder = submitted(tmp_path, world, authors=["A. Stranger"])
    (folder.path / VERIFICATION).write_text("{}")
    draft = make_draft(folder.target(), "mine", WHO, world.suite)
    check_name(draft.record, tmp_path)
    draft.replace(tmp_path)
    assert list(folder_problems(read_folder(folder.path), world.suite)) == []


@pytest.mark.sandbox
@pytest.mark.slow
def test_a_strangers_file_becomes_a_merged_verified_entry(
    hub: LocalHub, api: Any, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outsider's token opens the pull request; the maintainer verifies, adds what was found, and merges; what
    the Hub then holds is a verified entry.

    The forecaster needs a package of its own, which is not installed here: the sandbox has it, this process has not.
    """
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
