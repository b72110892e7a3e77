"""`reproduce paper`: the committed page is what its study gives, and every verdict is what the stated rule says."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import pytest

from leaderboard.paper import claims, measuring, verdicts
from leaderboard.paper.choice import choose_runs
from leaderboard.paper.facts import DATA, paper
from leaderboard.paper.files import files_of
from leaderboard.paper.measuring import Request, measure_run
from leaderboard.paper.page import folder_of, study_page
from leaderboard.paper.sizes import sized_groups
from leaderboard.paper.study import METRICS, Study
from moeload_bench.states.drift import sliding_variance
from moeload_bench.traces.store import bundled_folder, data_sha256, list_traces, load_trace

ROOT = Path(__file__).resolve().parents[3]
STUDY = ROOT / "docs" / "reports" / "paper" / "study.json"
MINI = "qwen3moe-tiny-8e/test/seed1"
PLAIN = {"sw_avg": "sw_avg", "uniform": "uniform"}


def committed() -> Study:
    return Study.model_validate_json(STUDY.read_bytes())


def test_the_committed_page_and_tables_are_what_the_study_gives() -> None:
    """Every text under docs/reports follows from docs/reports/paper/study.json: no number was typed."""
    for name, text in files_of(committed()).items():
        assert (ROOT / "docs" / "reports" / name).read_text() == text, name


def test_every_figure_of_the_page_exists() -> None:
    """The page links no picture that is not committed."""
    text = (ROOT / "docs" / "reports" / "paper.md").read_text()
    links = [part.split(")")[0] for part in text.split("](paper/")[1:]]
    assert links
    assert all((ROOT / "docs" / "reports" / "paper" / link).is_file() for link in links)


def test_the_page_is_of_the_traces_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every committed test run is on the page, chosen or passed over with its reason; a new one makes it stale."""
    monkeypatch.chdir(ROOT)
    choice, study = choose_runs(), committed()
    assert [run.id for run in study.runs] == [run.id for run in choice.runs], "run `make paper`"
    assert sorted(study.passed_over) == sorted(choice.passed_over), "run `make paper`"
    sizes = [ref.id for group in sized_groups(list_traces()) for ref in group]
    assert [run.id for run in study.sizes] == sizes, "run `make paper`"


def test_no_figures_are_left_of_runs_that_are_no_longer_drawn() -> None:
    """`make paper` clears their folders first."""
    study = committed()
    drawn = {folder_of(run.id) for run in study.runs[: study.drawn]}
    assert {path.name for path in STUDY.parent.iterdir() if path.is_dir()} == drawn


def test_the_committed_runs_are_those_of_the_traces() -> None:
    """A trace that changed since makes the page stale."""
    for run in committed().runs:
        assert data_sha256(load_trace(run.id, verify=False)) == run.data_sha256, run.id


def test_the_states_of_a_committed_run_are_recomputed_from_its_trace() -> None:
    """Onsets and the sliding variance of the first layer, straight from the loads."""
    run = next(run for run in committed().runs if run.id == MINI)
    trace = load_trace(MINI)
    variance = sliding_variance(trace.share_SLE()[:, :1], 10)[10:].mean()
    assert run.fluctuates("variance", 10, "all")[0] == pytest.approx(float(variance), rel=1e-5)
    labels = measuring.label_states(trace.load_SLE)
    assert [layer.onset for layer in run.states] == labels.onset_L.tolist()


@pytest.mark.slow
def test_the_errors_of_a_committed_run_are_recomputed_from_its_trace() -> None:
    """SW_Avg and uniform on the bundled run, run again: the committed rows in both protocols and all states."""
    run = next(run for run in committed().runs if run.id == MINI)
    chosen = next(one for one in choose_runs(bundled_folder()).runs if one.id == MINI)
    again, _ = measure_run(chosen, PLAIN, [], Request(every=committed().every, level="none"))
    rows = [row for row in run.errors if row.forecaster in PLAIN]
    assert len(again.errors) == len(rows)
    for row in again.errors:
        twin = next(
            one
            for one in rows
            if (one.protocol, one.horizon, one.state, one.forecaster)
            == (row.protocol, row.horizon, row.state, row.forecaster)
        )
        assert twin.origins == row.origins
        for metric in METRICS:
            assert twin.errors[metric] == pytest.approx(row.errors[metric], rel=1e-4)
    assert len(again.floors) == len(run.floors)


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("figures", "verdict"),
    [
        ([1.2], "agree"),
        ([0.8], "disagree"),
        ([1.0], "cannot tell"),
        ([None], "cannot tell"),
        ([], "cannot tell"),
        ([1.2, None], "agree"),
        ([1.2, 1.0], "cannot tell"),
        ([1.2, 0.8], "cannot tell"),
        ([1.2, 1.2, 1.2, 1.2, 0.8], "agree"),
        ([1.2, 1.2, 1.2, 1.0, 1.0], "cannot tell"),
        ([0.8, 0.8, 0.8, 0.8, 1.2], "disagree"),
    ],
)
def test_a_verdict_needs_four_recipes_in_five(figures: list[float | None], verdict: str) -> None:
    """Runs without a figure do not count; those between the bounds vote for neither side."""
    recipes = [f"r{i}" for i in range(len(figures))]
    assert claims.judge("x", "y", "z", recipes, figures, claims.ABOVE).verdict == verdict


def test_seeds_of_one_recipe_share_its_vote() -> None:
    """Three alike do not outvote two other recipes, and where they differ each has a third; without a figure, none."""
    recipes = ["a", "a", "a", "b", "c"]
    finding = claims.judge("x", "y", "z", recipes, [1.2, 1.2, 1.2, 1.2, 0.8], claims.ABOVE)
    assert (finding.voted(True), finding.voted(False), finding.judged, finding.verdict) == (2, 1, 3, "cannot tell")
    finding = claims.judge("x", "y", "z", recipes, [1.2, 0.8, None, 1.2, 1.0], claims.ABOVE)
    assert (finding.voted(True), finding.voted(False), finding.voted(None)) == (Fraction(3, 2), Fraction(1, 2), 1)


def test_bounds_are_symmetric() -> None:
    """What is below for one is above for the other, and the margin belongs to neither."""
    for figure in (0.5, 1 / claims.MARGIN, 0.97, 1.0, 1.03, claims.MARGIN, 2.0):
        above, below = claims.ABOVE.vote(figure), claims.BELOW.vote(figure)
        assert (above is None) == (below is None)
        assert above is None or above != below
    inside = claims.yes_between(0.5, 2.0)
    assert [inside.vote(x) for x in (0.4, 0.5, 2.0, 2.1)] == [False, True, True, False]


def test_every_claim_is_on_the_page_with_its_rule() -> None:
    """Statement, rule and at least one verdict."""
    text = study_page(committed())
    for claim in claims.claims():
        assert f"### {claim.statement}\n" in text
        assert claim.rule in text
    assert {one.claim for one in verdicts.findings(committed())} == {claim.key for claim in claims.claims()}


def test_the_order_of_two_forecasters_is_read_from_their_errors() -> None:
    """Swapping the errors of SW_Avg and ARIMA in a study turns the verdict around."""
    study = committed()
    swapped = {"sw_avg": "arima", "arima": "sw_avg"}
    runs = [
        run.model_copy(
            update={
                "errors": tuple(
                    row.model_copy(update={"forecaster": swapped.get(row.forecaster, row.forecaster)})
                    for row in run.errors
                )
            }
        )
        for run in study.runs
    ]
    other = study.model_copy(update={"runs": tuple(runs)})
    for one, two in zip(verdicts.findings(study), verdicts.findings(other), strict=True):
        if one.claim == "sw-arima" and "@" not in one.variant:
            for figure, inverse in zip(one.figures, two.figures, strict=True):
                assert (figure is None and inverse is None) or figure * inverse == pytest.approx(1.0)
            flipped = {"agree": "disagree", "disagree": "agree"}.get(one.verdict, one.verdict)
            assert two.verdict == flipped


# ---------------------------------------------------------------- the paper's facts


def test_the_papers_numbers_stand_in_one_file() -> None:
    """No module of the package repeats an error of the paper, and the file cites it."""
    assert "2404.16914" in paper().citation
    values = {one.value for one in paper().errors}
    for path in DATA.parent.glob("*.py"):
        words = path.read_text().replace("(", " ").replace(")", " ").replace(",", " ").split()
        assert not values & {float(word) for word in words if word.replace(".", "", 1).isdigit()} - {0.1, 0.01}, path


def test_the_sampling_floor_of_the_paper_is_that_of_the_note() -> None:
    """The page and docs/methods/sampling-floor-note.md use one formula."""
    from moeload_bench.scoring.noise import sampling_error

    for setup, top_k in itertools.product(paper().setups, (1, 2)):
        expected = sampling_error(setup.experts, setup.sequences * verdicts.GPT3_TOKENS, top_k)
        assert verdicts.draws_alone(setup, top_k) == pytest.approx(expected)
