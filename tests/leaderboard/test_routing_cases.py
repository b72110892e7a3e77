"""The catalogue `routing-cases`: what it holds, what the report measures on it, and the guide's snippets."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaderboard.routing import page
from leaderboard.routing.cases import planned_cases, run_file
from leaderboard.routing.families import FAMILIES, busiest_rank, chances, fitted
from leaderboard.routing.measuring import CaseLayer, flows, read_cases, sequence_spread, worst_layers
from moeload_bench import load_trace
from moeload_bench.errors import HubError
from moeload_bench.ops.interchange.dealing import Bursts
from moeload_bench.ops.interchange.routing_export import kept_routing
from moeload_bench.publishing.routing_cases import CASES, CASES_FILE, MAX_BYTES, check_cases
from moeload_bench.traces.routing import routing_folder
from moeload_bench.traces.trace import layer_names
from tests.conftest import needs_traces

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "guide" / "routing.md").read_text(encoding="utf-8")
KINDS = ("first", "worst", "calm", "switch", "dead", "hot", "quantile")


@pytest.fixture(scope="module")
def layers() -> list[CaseLayer]:
    return read_cases(ROOT / "traces")


@needs_traces
def test_the_catalogue_is_small_and_has_every_kind_of_step(layers: list[CaseLayer]) -> None:
    """Each planned case once, at 8, 64 and 128 experts; recorded ones among them; its columns are the release's."""
    check_cases(ROOT / "traces")
    assert (ROOT / "traces" / CASES / CASES_FILE).stat().st_size <= MAX_BYTES
    named = [case.name for case in planned_cases()]
    assert list(dict.fromkeys(layer.case for layer in layers)) == named
    assert all(any(name.startswith(kind) for name in named) for kind in KINDS)
    assert {8, 64, 128} <= {layer.experts for layer in layers}
    assert {layer.mark for layer in layers} == {"recorded", "counts-only"}


@needs_traces
def test_rows_have_the_counts_of_their_step_and_say_whether_it_was_recorded(
    layers: list[CaseLayer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every layer; a token has no expert twice; `recorded` wherever the step's routing was kept, and as kept."""
    monkeypatch.chdir(ROOT)
    for run in {layer.run for layer in layers}:
        trace = load_trace(run_file(run))
        for layer in (one for one in layers if one.run == run):
            row, place = int(np.searchsorted(trace.step_S, layer.step)), layer_names(trace).index(layer.layer)
            np.testing.assert_array_equal(layer.load_E, trace.load_SLE[row : row + 1][0, place])
            assert (np.diff(np.sort(layer.topk_ids_TK, axis=1), axis=1) > 0).all()
            kept = kept_routing(trace, row, routing_folder(run_file(run)))
            assert (kept is not None) == (layer.mark == "recorded"), layer.case
            if kept is not None:
                np.testing.assert_array_equal(layer.topk_ids_TK, kept.topk_ids_LTK[place])


def test_a_file_with_other_columns_or_too_large_is_no_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`publish` refuses both, and what is no parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from moeload_bench.publishing import routing_cases as module

    path = tmp_path / CASES / CASES_FILE
    path.parent.mkdir()
    path.write_bytes(b"PAR1")
    with pytest.raises(HubError, match="cannot be read"):
        check_cases(tmp_path)
    pq.write_table(pa.table({"case": ["a"]}), path)
    with pytest.raises(HubError, match="columns are case, expected case, about, mark"):
        check_cases(tmp_path)
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    with pytest.raises(HubError, match="bytes, expected at most 10"):
        check_cases(tmp_path)


@needs_traces
@pytest.mark.slow
def test_the_report_is_what_the_catalogue_gives() -> None:
    """No number of it is typed."""
    for path, text in page.page_files().items():
        assert path.read_text(encoding="utf-8") == text, "run `python -m leaderboard pages docs/reports/routing.md`"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("imbalance", "top_k"), [(1.3, 8), (4.0, 2), (20.0, 1)])
def test_a_family_is_fitted_to_the_imbalance(family: str, imbalance: float, top_k: int) -> None:
    """Its busiest expert is as far above the mean on average, and a token never needs an expert twice."""
    chance_DE = fitted(family, imbalance, 64, top_k)
    assert chance_DE.sum(axis=1) == pytest.approx(top_k)
    assert chance_DE.max() <= 1
    assert (chance_DE.max(axis=1) * 64 / top_k).mean() == pytest.approx(imbalance, rel=0.01)


@given(st.lists(st.floats(1e-6, 1), min_size=2, max_size=12), st.data())
def test_chances_are_at_most_one_and_top_k_in_all(weights: list[float], data: Any) -> None:
    """Whatever the weights are."""
    top_k = data.draw(st.integers(1, len(weights)))
    chance_DE = chances(np.array([weights]), top_k)
    assert chance_DE.sum() == pytest.approx(top_k)
    assert chance_DE.max() <= 1 + 1e-9


def test_ranks_flows_and_sequences_by_hand() -> None:
    """Loads 4, 0, 1, 3 on two ranks; eight tokens, each rank's to one rank; sequences that choose alike."""
    assert busiest_rank(np.array([[4.0, 0, 1, 3]]), 2).tolist() == [1.0]
    assert busiest_rank(np.array([[4.0, 2, 1, 1]]), 2).tolist() == [1.5]
    ids_TK = np.repeat(np.arange(8), 4)[:, None] % 8 * np.ones((1, 1), dtype=np.int64)
    layer = CaseLayer("a", "", "recorded", "r", 0, "0", 8, 1, Bursts(4, 1.0), ids_TK)
    found = flows(layer, ids_TK)
    assert (found.ranks_per_token, found.largest_flow) == (1.0, 8.0)
    assert found.spread == pytest.approx(4 * (8 / 7))
    assert np.isnan(sequence_spread(ids_TK, 8, 1))
    assert worst_layers([layer, layer._replace(topk_ids_TK=np.zeros((4, 1), dtype=np.int64))])[0].dead == 7


@needs_traces
@pytest.mark.slow
def test_the_snippets_of_the_guide_run_on_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, one after the other, by `load_dataset`: the loop computes the layer, counts and sizes add up."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(os.environ, "HF_HOME", str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.partition("## Cases worth testing with")[2], re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    row, ids, weights = names["row"], names["ids"], names["weights"]
    assert (row["mark"], tuple(ids.shape)) == ("recorded", (row["tokens"], row["top_k"]))
    one = sum(names["hidden"][5] @ names["projections"][e] * w.float() for e, w in zip(ids[5], weights[5], strict=True))
    assert names["out"][5].numpy() == pytest.approx(one.numpy(), abs=1e-4)
    assert names["counts"].sum() == ids.numel()
    assert 0 <= names["waste"] < 0.5
    assert len(names["expert_ids"]) * names["block"] == names["padded"].sum()
    assert names["sizes"].shape == (8, 8)
    assert ids.shape[0] <= names["sizes"].sum() <= ids.numel()
