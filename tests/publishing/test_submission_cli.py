"""`submit` and `verify` as programs: what they print, write and send, and their exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from leaderboard.committed import entry_problems, result_path
from moeload_bench.publishing.folder import CARD, CODE, FITTED, RECORD, VERIFICATION, read_folder
from moeload_bench.publishing.submission import Verification
from moeload_bench.results.results import load_results
from moeload_bench.suites.suite import load_suite
from moeload_bench.traces.store import write_trace
from tests.conftest import synthetic_trace
from tests.leaderboard.test_baseline_submissions import BASELINES
from tests.support.hub import LocalHub
from tests.support.submitted import NAIVE, World, write_folder

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
    done = moeload(world, command, *arguments, cwd=tmp_path, PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "bwrap is not installed" in done.stderr
    assert "or say --level process" in done.stderr
    assert not (folder / VERIFICATION).exists()


SUBMIT = ("submit", "my.py:Mine@window=50", "--name", "mine", "--author", "A. Stranger", "--level", "process")


@pytest.mark.slow
def test_submit_shows_then_writes_then_verify_accepts(world: World, tmp_path: Path) -> None:
    """A dry run writes nothing and says what it would; the second call writes the folder and no result, and names the
    git steps; the check and the verification, on fresh runs too, accept what was written.
    """
    (tmp_path / "my.py").write_text(NAIVE)
    dry = moeload(world, *SUBMIT, "--dry-run", cwd=tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert "checking the contract" in dry.stderr
    assert 'name = "mine"' in dry.stdout
    assert "To score it yourself: moeload-bench run my.py:Mine@window=50 sw_avg --suite" in dry.stdout
    assert "dry run: nothing written, nothing sent" in dry.stdout
    assert not (tmp_path / "leaderboard").exists()

    done = moeload(world, *SUBMIT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder, result = Path("leaderboard/submissions/mine"), Path("leaderboard/results/small/mine.parquet")
    assert f"git add {folder}\n" in done.stdout
    assert (tmp_path / folder / CODE).read_text() == NAIVE
    assert "- Authors: A. Stranger\n" in (tmp_path / folder / CARD).read_text()
    assert not (tmp_path / result).exists()
    checked = moeload(world, "verify", str(folder), "--check-only", "--incoming", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr

    fresh = synthetic_trace(seed=77, recipe="one", split="test", run=9)
    write_trace(fresh, tmp_path / "fresh" / f"{fresh.id}.parquet")
    options = ("--level", "process", "--traces", "fresh")
    told = moeload(world, "verify", str(folder), *options, "--json", "--dry-run", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    made = json.loads(told.stdout)
    assert (made["status"], made["level"], made["reasons"]) == ("verified", "process", [])
    assert "fresh_runs" in made["findings"]
    assert not (tmp_path / folder / VERIFICATION).exists()

    kept = moeload(world, "verify", str(folder), "--level", "process", cwd=tmp_path)
    assert kept.returncode == 0, kept.stderr
    assert kept.stdout.endswith("verified\n")
    assert "3/3 runs" in kept.stderr, "progress is told"
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
