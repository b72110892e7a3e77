"""Files of results: what is written is read again, and what a stranger wrote is read or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moeload_bench.errors import ResultError, printable
from moeload_bench.results.columns import ROW_KEYS, run_costs
from moeload_bench.results.results import Results, load_results
from moeload_bench.results.storage import KEY, load_facts
from moeload_bench.results.trace_facts import suite_facts
from moeload_bench.suites.suite import load_suite
from tests.support.tables import made_results

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "leaderboard" / "results"
MINI = RESULTS / "mini"
SUITES = sorted(path.name for path in RESULTS.iterdir() if path.is_dir())


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Raise if two frames differ in more than the order of rows, the kind of text, and how nothing is written."""
    frames = (frame.reset_index(drop=True).astype(object) for frame in (one, other))
    plain = [frame.where(frame.notna(), None) for frame in frames]
    pd.testing.assert_frame_equal(*plain, check_dtype=False)


@pytest.mark.parametrize("name", ["file.parquet", "folder"])
def test_results_read_as_they_were_written(tmp_path: Path, name: str) -> None:
    """As one file and as a folder: rows, costs and what describes entries; numbers to 24 bits."""
    results = load_results(MINI).select(["lstm", "online.guarded", "sw_avg"])
    found = load_results(results.save(tmp_path / name))
    assert found.entries == results.entries
    same(found.table, results.table)
    same(found.facts, results.facts)
    by = ["forecaster", "trace"]
    same(run_costs(found.table).sort_values(by), run_costs(results.table).sort_values(by))


def test_means_by_layer_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    """From a folder; a mean over layers of means over origins is that of the rows."""
    assert load_results(MINI).layers is None
    results = load_results(MINI, layers=True)
    assert results.layers is not None
    keys = ["forecaster", "trace", "state", "horizon"]
    layers = results.layers.groupby(keys)["window_tv"].mean()
    rows = results.table.groupby(keys)["window_tv"].mean()
    pd.testing.assert_series_equal(layers, rows.reindex(layers.index), rtol=1e-5)


def test_a_folder_takes_one_entry_more(tmp_path: Path) -> None:
    """Costs of the others stay; an entry that is written again takes the place of the former one."""
    results = load_results(MINI)
    results.select(["lstm"]).save(tmp_path)
    results.select(["sw_avg"]).save(tmp_path)
    results.select(["sw_avg"]).save(tmp_path)
    found = load_results(tmp_path)
    assert found.names == ["lstm", "sw_avg"]
    assert len(run_costs(found.table)) == 2 * len(found.traces)


def test_results_of_ones_own_trace_carry_its_floors(tmp_path: Path) -> None:
    """No suite of the package has them; a trace may have no floor that is known."""
    own = made_results({"sw_avg": [[0.1, 0.1]], "mine": [[0.05, 0.1]]})
    facts = pd.DataFrame({"trace": ["own/test/seed0"] * 2, "state": ["stable"] * 2, "horizon": [1, 10],
                          "floor_batch": ["exact"] * 2, "floor_batch.window_tv": [0.01, 0.02]})  # fmt: skip
    results = Results(own.entries, own.table, facts)
    for place in ("own.parquet", "own"):
        found = load_results(results.save(tmp_path / place))
        same(found.facts, facts)
        assert found.summarize(["state", "horizon"])["excess"].notna().all()
        bare = load_results(own.save(tmp_path / "bare" / place))
        assert bare.facts.empty
        assert bare.summarize(["state", "horizon"])["excess"].isna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda costs: costs.iloc[1:], "no costs of sw_avg on"),
        (lambda costs: costs.iloc[[0, *range(len(costs))]], "twice"),
        (lambda costs: costs.assign(counts='{"fits": 1.5}'), "column 'counts'"),
    ],
)
def test_every_run_has_its_costs_once(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    """Each row of the table carries what its run cost: a run without costs, or with two, is refused by name."""
    load_results(MINI).select(["sw_avg"]).save(tmp_path)
    change(pd.read_parquet(tmp_path / "costs.parquet")).to_parquet(tmp_path / "costs.parquet", index=False)
    with pytest.raises(ResultError, match=rf"costs\.parquet: .*{message}"):
        load_results(tmp_path)


@pytest.mark.parametrize("suite", SUITES)
def test_the_reference_in_the_wheel_is_the_committed_one(suite: str) -> None:
    """Skill of a single forecaster on a suite is against these numbers."""
    bundled = load_results(ROOT / "moeload_bench" / "data" / "reference" / f"{suite}.parquet")
    committed = load_results(RESULTS / suite / "sw_avg.parquet")
    same(bundled.table, committed.table)


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_with_results_comes_with_the_facts_of_its_traces(suite: str) -> None:
    """All scored runs, with the suite's origins and horizons."""
    tasks = load_suite(suite)
    facts = suite_facts(tasks.name, tasks.sha256())
    assert facts.keys() == {entry.id for entry in tasks.traces}
    for entry in tasks.traces:
        assert facts[entry.id].data_sha256 == entry.data_sha256
        assert list(facts[entry.id].crossing) == [origin for origin, _ in entry.origins()]


def rewritten(path: Path, **change: object) -> Path:
    """Return a copy of a committed file with its rows, its metadata or its columns changed."""
    table = pq.read_table(MINI / "uniform.parquet")
    about = json.loads(table.schema.metadata[KEY])
    about |= change.get("about", {})  # type: ignore[operator]
    if drop := change.get("drop"):
        table = table.drop_columns([drop])
    if column := change.get("column"):
        name, values = column  # type: ignore[misc]
        table = table.set_column(table.schema.get_field_index(name), name, pa.array([values] * len(table)))
    metadata = {} if change.get("bare") else {KEY: json.dumps(about)}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bare": True}, "not a file of results: its metadata has no 'moeload_bench results'"),
        ({"about": {"schema_version": 9}}, "schema_version: Input should be less than or equal to 3"),
        ({"about": {"entries": []}}, "rows of .*'uniform'.*, expected those of its entries"),
        ({"about": {"entries": [{"name": "\u001b[2J"}]}}, r"entries\.0\.target: Field required"),
        ({"drop": "origin"}, "column 'origin' is missing, expected forecaster, trace"),
        ({"column": ("window_tv", "much")}, "column 'window_tv' is string, expected double"),
        ({"column": ("state", 1)}, "column 'state' is int64, expected text"),
        ({"column": ("origin", "x")}, "column 'origin' is string, expected a number"),
        ({"column": ("recipe", None)}, "column 'recipe' has empty cells"),
        ({"column": ("forecaster", "another")}, "rows of .*'another'.*, expected those of its entries"),
    ],
)
def test_a_file_of_another_form_is_refused_in_one_line(tmp_path: Path, change: dict[str, object], message: str) -> None:
    """With its name and the first thing that is wrong; what a stranger wrote moves no cursor when it is printed."""
    path = rewritten(tmp_path / "mine.parquet", **change)
    (tmp_path / "costs.parquet").write_bytes((MINI / "costs.parquet").read_bytes())
    with pytest.raises(ResultError, match=rf"mine\.parquet: {message}") as caught:
        load_results(path)
    assert printable(str(caught.value)).isprintable()


def changed(path: Path, name: str, value: Any, rows: slice = slice(0, 1)) -> None:
    """Write a copy of a committed file in which some rows of a column have another value."""
    table = pq.read_table(MINI / "uniform.parquet")
    values = table.column(name).to_pylist()
    values[rows] = [value] * len(values[rows])
    at = table.schema.get_field_index(name)
    pq.write_table(table.set_column(at, name, pa.array(values, table.schema.field(name).type)), path)


def renamed(path: Path, *names: str) -> None:
    """Write a copy of a committed file whose entry, and every row, has the first of these names; others have no row."""
    table = pq.read_table(MINI / "uniform.parquet")
    about = json.loads(table.schema.metadata[KEY])
    about["entries"] = [{**about["entries"][0], "name": name} for name in names]
    rewritten(path, about=about, column=("forecaster", names[0]))


def renamed_metric(path: Path, name: str) -> None:
    """Write a copy of a committed file with another metric."""
    table = pq.read_table(MINI / "uniform.parquet")
    pq.write_table(table.append_column(name, pa.array([0.5] * len(table))), path)


def rows_twice(path: Path) -> None:
    """Write a copy of a committed file in which the first row is there twice."""
    table = pq.read_table(MINI / "uniform.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)


def named_twice(path: Path) -> None:
    """Write a copy of a committed file whose metadata have a name twice in one object."""
    table = pq.read_table(MINI / "uniform.parquet")
    text = table.schema.metadata[KEY].replace(b'"entries"', b'"schema_version": 3, "entries"', 1)
    pq.write_table(table.replace_schema_metadata({KEY: text}), path)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "an entry that leads out": (lambda p: renamed(p, "../../../evil"), "'../../../evil' is no name"),
    "an entry with an escape": (lambda p: renamed(p, "\x1b[2J"), "is no name"),
    "an entry with a NUL": (lambda p: renamed(p, "uni\0form"), "is no name"),
    "an entry from right to left": (lambda p: renamed(p, "\u202emrofinu"), "is no name"),
    "an entry without a name": (lambda p: renamed(p, ""), "'' is no name"),
    "an endless name": (lambda p: renamed(p, "u" * 290), "is no name"),
    "letters of double width": (lambda p: renamed(p, "\uff55niform"), "is no name"),
    "an entry like another's in Cyrillic": (lambda p: renamed(p, "mine", "m\u0456ne"), "too like 'mine'"),
    "an entry like another's in digits": (lambda p: renamed(p, "sw_avg", "5w-avg"), "too like 'sw_avg'"),
    "an entry twice": (lambda p: renamed(p, "mine", "mine"), "two forecasters are called 'mine'"),
    "the name of the file of costs": (lambda p: renamed(p, "costs"), "this name is reserved"),
    "a trace that leads out": (lambda p: changed(p, "trace", "../a/seed0"), "trace '../a/seed0' is no name"),
    "a metric with an escape": (lambda p: renamed_metric(p, "\x1b[2J"), "is no name"),
    "an error that is NaN": (lambda p: changed(p, "window_tv", float("nan")), "column 'window_tv' holds NaN"),
    "a negative error": (lambda p: changed(p, "window_tv", -0.5), "window_tv is -0.5, expected a finite number from 0"),
    "an infinite error": (lambda p: changed(p, "tv", float("inf")), "tv is inf, expected a finite number from 0"),
    "an imbalance below 1": (lambda p: changed(p, "imbalance@half", 0.5), "expected a finite number from 1"),
    "another state": (lambda p: changed(p, "state", "other"), "state 'other', expected transient, mixed, stable"),
    "another horizon": (lambda p: changed(p, "horizon", -5), "horizon -5"),
    "a negative origin": (lambda p: changed(p, "origin", -1), "'origin' holds others than whole numbers from 0"),
    "another stratum": (lambda p: changed(p, "stratum", "tiny"), "stratum 'tiny', expected small or large"),
    "rows twice": (rows_twice, "1 row twice, first forecaster 'uniform'"),
    "names twice in the metadata": (named_twice, "'schema_version' occurs twice in one object"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_no_run_gives_is_not_loaded(case: str, tmp_path: Path) -> None:
    """Names are names and no look-alikes; numbers finite and not below their least; each row of a known place, once."""
    write, words = HOSTILE[case]
    write(tmp_path / "mine.parquet")
    (tmp_path / "costs.parquet").write_bytes((MINI / "costs.parquet").read_bytes())
    with pytest.raises(ResultError, match=rf"mine\.parquet: .*{words}") as caught:
        load_results(tmp_path / "mine.parquet")
    assert printable(str(caught.value)).isprintable()


def test_look_alikes_in_two_files_are_not_loaded_together(tmp_path: Path) -> None:
    """Each alone could be read."""
    (tmp_path / "costs.parquet").write_bytes((MINI / "costs.parquet").read_bytes())
    results = load_results(MINI).select(["sw_avg"])
    entry = results.entries["sw_avg"].model_copy(update={"name": "sw_\u0430vg"})
    table = results.table.assign(forecaster=entry.name)
    forged = Results({entry.name: entry}, table, results.facts).save(tmp_path / "forged.parquet")
    load_results(forged)
    with pytest.raises(ResultError, match="too like 'sw_avg'"):
        load_results([MINI / "sw_avg.parquet", forged])


def forged(path: Path, text: str, rows: int, group: int, **options: Any) -> None:
    """Write a file that names no types of Arrow, with a text in many rows, in row groups of so many."""
    table = pq.read_table(MINI / "uniform.parquet").select([*ROW_KEYS, "window_tv"])
    first = pa.array([0] * rows)
    many = table.replace_schema_metadata(None).take(first)
    many = many.set_column(many.schema.get_field_index("failure"), "failure", pa.array([text]).take(first))
    with pq.ParquetWriter(path, many.schema, compression="zstd", store_schema=False, **options) as writer:
        writer.write_table(many, row_group_size=group)
        writer.add_key_value_metadata({KEY: table.schema.metadata[KEY]})


def millions_of_rows(path: Path) -> None:
    """Write four million rows of one number, which take kilobytes."""
    rows = pq.read_table(MINI / "uniform.parquet").select([*ROW_KEYS, "window_tv"])
    pq.write_table(pa.concat_tables([rows.take(pa.array([0] * 2000))] * 2000).combine_chunks(), path)


def many_keys(path: Path) -> None:
    """Write a footer of kilobytes that announces 2^31 keys of metadata."""
    content = (MINI / "uniform.parquet").read_bytes()
    at = content.rindex(KEY) - 3  # before a key: the list's header, the field's, and the length
    assert content[at] & 15 == 12, "a list of structs"
    footer = content[:at] + b"\xfc\xff\xff\xff\xff\x07" + content[at + 1 : -8]
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    path.write_bytes(footer + (len(footer) - start).to_bytes(4, "little") + b"PAR1")


def one_column_twice(path: Path) -> None:
    """Write two columns of one name, of which neither is the metric."""
    table = pq.read_table(MINI / "uniform.parquet")
    pq.write_table(table.append_column("window_tv", table.column("window_tv")), path)


def many_facts(path: Path) -> None:
    """Write facts of a thousand columns: a table of pandas takes minutes for a million."""
    (path.parent / "costs.parquet").write_bytes((MINI / "costs.parquet").read_bytes())
    facts = {"trace": ["a"], "state": ["stable"], "horizon": [1]} | {f"m{i}": [0.5] for i in range(1000)}
    rewritten(path, about={"facts": facts})


PREFIXES = {"use_dictionary": False, "column_encoding": {"failure": "DELTA_BYTE_ARRAY"}}
"""In such a page a million texts of a megabyte take a megabyte, in a column whose dictionary is not read."""
FORGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a megabyte of text in 300 rows": (lambda p: forged(p, "x" * 10**6, 300, 1), r"take 3\d{8} bytes decoded, .* 268"),
    "the same in one dictionary": (lambda p: forged(p, "x" * 10**6, 300, 300), r"take 3\d{8} bytes decoded, .* 268"),
    "texts of shared prefixes": (lambda p: forged(p, "x" * 100, 2, 2, **PREFIXES), "not a readable .*DeltaByteArray"),
    "millions of rows": (millions_of_rows, r"its arrays take \d{9} bytes decoded, expected at most"),
    "very many keys": (many_keys, "not a readable parquet file .*Exceeded size limit"),
    "one column twice": (one_column_twice, "29 columns, expected at most 1000 of different names"),
    "very many facts": (many_facts, "1003 columns, expected at most 1000"),
    "nothing": (lambda p: p.write_bytes(b""), ""),
    "JSON": (lambda p: p.write_bytes(b"{"), ""),
    "a mark alone": (lambda p: p.write_bytes(b"PAR1"), ""),
    "two marks": (lambda p: p.write_bytes(b"PAR1" + bytes(100) + b"PAR1"), ""),
    "ones": (lambda p: p.write_bytes(b"\xff" * 1000), ""),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_file_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    """Whatever the bytes are, the message names the file, and nothing of that size is decoded."""
    write, says = FORGED[kind]
    write(tmp_path / "mine.parquet")
    with pytest.raises(ResultError, match=rf"mine\.parquet: .*{says}") as caught:
        load_results(tmp_path / "mine.parquet")
    assert "\n" not in str(caught.value)


def test_facts_of_a_season_are_read_as_any_table(tmp_path: Path) -> None:
    """As they were written; a forged file is refused by its name."""
    path = ROOT / "leaderboard" / "seasons" / "2027-02" / "facts.parquet"
    same(load_facts(path, load_suite("v3").horizons), pd.read_parquet(path))
    pq.write_table(pa.table({"trace": ["a"], "state": ["stable"], "horizon": ["1"]}), tmp_path / "facts.parquet")
    with pytest.raises(ResultError, match=r"facts\.parquet: column 'horizon' is string, expected a number"):
        load_facts(tmp_path / "facts.parquet", [1])


def test_what_a_file_says_of_pandas_is_ignored(tmp_path: Path) -> None:
    """A column that is to be an index would be missing among the columns."""
    table = pq.read_table(MINI / "uniform.parquet")
    described = table.to_pandas().set_index("forecaster")
    hint = pa.Table.from_pandas(described).schema.metadata[b"pandas"]
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"pandas": hint}), tmp_path / "a.parquet")
    (tmp_path / "costs.parquet").write_bytes((MINI / "costs.parquet").read_bytes())
    assert load_results(tmp_path / "a.parquet").names == ["uniform"]


def test_json_of_former_schemas_names_the_commit_that_reads_it(tmp_path: Path) -> None:
    """Results of schema 1 and 2 were JSON."""
    (tmp_path / "old.json").write_text('{"schema_version": 1}')
    with pytest.raises(ResultError, match=r"old\.json: results are parquet files now; JSON is read at commit 07f6d2b8"):
        load_results(tmp_path / "old.json")
    with pytest.raises(ResultError, match=r"no result is there, expected NAME\.parquet"):
        load_results(tmp_path)
    with pytest.raises(ResultError, match="no such file"):
        load_results(tmp_path / "none.parquet")
