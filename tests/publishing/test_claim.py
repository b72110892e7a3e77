"""An author's own run in a submission: of this very code or refused, shown as claimed, run again in part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leaderboard.verifying.claim import claim_problems, rerun_claim
from leaderboard.verifying.verify import Request
from moeload_bench.errors import MoeloadError, SubmissionError
from moeload_bench.harness.evaluate import evaluate
from moeload_bench.isolation.targets import parse_target
from moeload_bench.publishing.folder import CLAIM, MAX_CLAIM_BYTES, Folder, read_folder
from moeload_bench.publishing.submit import Author, Draft, make_draft, with_claim
from moeload_bench.results.results import Results, load_results
from tests.support.submitted import NAIVE, World

WHO = Author(["A. Stranger"], "MIT", None, False, "a laptop")


@pytest.fixture(scope="module")
def own_run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `run my.py:Mine@window=50 sw_avg --out mine.parquet` writes, beside `my.py`."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my.py").write_text(NAIVE)
    targets = [f"{folder / 'my.py'}:Mine@window=50", "sw_avg"]
    return evaluate(targets, world.suite, paths=world.paths, level="none").save(folder / "mine.parquet")


def draft_of(own_run: Path, world: World, kwargs: str = "@window=50") -> Draft:
    return make_draft(parse_target(f"{own_run.parent / 'my.py'}:Mine{kwargs}"), "mine", WHO, world.suite)


@pytest.fixture
def folder(own_run: Path, world: World, tmp_path: Path) -> Folder:
    """A submission with its author's own run, as `submit --results` writes it."""
    return read_folder(with_claim(draft_of(own_run, world), own_run).write(tmp_path))


def changed(folder: Folder, **fields: Any) -> None:
    """Write the claim again with other words about it."""
    assert folder.claim is not None
    claim = load_results(folder.claim)
    entry = claim.entries["mine"].model_copy(update=fields)
    Results({entry.name: entry}, claim.table.assign(forecaster=entry.name), claim.facts).save(folder.claim)


def scored(folder: Folder, change: Callable[[Any], Any]) -> None:
    """Write the claim again with other rows."""
    assert folder.claim is not None
    claim = load_results(folder.claim)
    replace(claim, table=change(claim.table)).save(folder.claim)


def hidden_where_it_errs(table: Any) -> Any:
    """The rows without the error of those that are worse than the median."""
    return table.assign(window_tv=table["window_tv"].where(table["window_tv"] <= table["window_tv"].median()))


def test_the_claim_is_the_one_run_of_the_submitted_code(own_run: Path, world: World, folder: Folder) -> None:
    """Found among others by hash and arguments, under the entry's name; other code, arguments or tasks are refused."""
    assert list(claim_problems(folder, world.suite)) == []
    assert folder.claim is not None
    assert load_results(folder.claim).names == ["mine"]
    draft = draft_of(own_run, world)
    edited = Draft(draft.record, {**draft.contents, "forecaster.py": f"{NAIVE}\n".encode()})
    other = draft_of(own_run, World(world.suite.model_copy(update={"seed": 1}), world.paths))
    for wrong in (edited, draft_of(own_run, world, "@window=51"), other):
        with pytest.raises(SubmissionError, match="0 runs of this very code and these arguments on suite small"):
            with_claim(wrong, own_run)


@pytest.mark.parametrize(
    ("forge", "says"),
    [
        (lambda folder: changed(folder, name="theirs"), "expected mine alone"),
        (lambda folder: changed(folder, status="verified"), "status: it says 'verified', expected 'claimed'"),
        (lambda folder: changed(folder, source_sha256="0" * 64), "hash of the code"),
        (lambda folder: changed(folder, target="forecaster.py:Other"), "target"),
        (lambda folder: scored(folder, lambda table: table[table["origin"] != 100]), "tasks at a horizon, expected"),
        (lambda folder: scored(folder, lambda table: table[table["trace"] != table["trace"].iloc[0]]), "missing"),
        (lambda folder: scored(folder, lambda table: table.assign(data_sha256=None)), "scored on data"),
        (lambda folder: scored(folder, lambda table: table.assign(window_tv=None)), "rows without window_tv"),
        (lambda folder: scored(folder, hidden_where_it_errs), "rows without window_tv"),
        (lambda folder: folder.claim.write_bytes(b"PAR1"), "claimed.parquet"),
    ],
)
def test_a_claim_of_something_else_is_named(
    forge: Callable[[Folder], None], says: str, world: World, folder: Folder
) -> None:
    """In one line each, and nothing of it is run again."""
    forge(folder)
    (problem, *_) = claim_problems(folder, world.suite)
    assert says in problem
    assert "\n" not in problem
    with pytest.raises(MoeloadError):
        rerun_claim(Request(folder, world.suite, world.paths, level="process"), seed=0)


def test_a_large_claim_and_a_link_are_not_read(folder: Folder, tmp_path: Path) -> None:
    """Before any of its content is."""
    assert folder.claim is not None
    with folder.claim.open("ab") as file:
        file.truncate(MAX_CLAIM_BYTES + 1)
    with pytest.raises(SubmissionError, match=f"at most {MAX_CLAIM_BYTES} are accepted"):
        read_folder(folder.path)
    folder.claim.unlink()
    (folder.path / CLAIM).symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(SubmissionError, match="expected a regular file"):
        read_folder(folder.path)


def test_a_part_that_a_seed_chooses_is_run_again_and_a_forged_number_is_named(world: World, folder: Folder) -> None:
    """One of the two runs; an honest claim is confirmed, one with a tenth less error is not."""
    request = Request(folder, world.suite, world.paths, level="process")
    chosen = {seed: rerun_claim(request, seed) for seed in (0, 0, 1, 2, 3)}
    assert {len(runs) for runs, _ in chosen.values()} == {1}
    assert {runs[0] for runs, _ in chosen.values()} == {*world.paths}
    assert all(wrong == [] for _, wrong in chosen.values())
    scored(folder, lambda table: table.assign(window_tv=0.9 * table["window_tv"]))
    runs, wrong = rerun_claim(request, seed=0)
    assert runs == chosen[0][0]
    assert wrong
    assert all(line.startswith(f"{runs[0]}: window_tv") for line in wrong)
