"""Texts that hashes rest on: recipes, suites, metadata of traces, records of season 2027-01 (tests/golden/texts.json).

Declare a field that is added to such a record with `schema.later`: at its default it is no part of the text. After a
new recipe, suite or trace, `PYTHONPATH=. python tests/test_canonical_texts.py` adds hashes; it never changes one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from leaderboard.season_tools.folder import SeasonFolder, read_record
from leaderboard.season_tools.records import EntryForks, ForkFloors, RunHashes
from moeload_bench.recipes.recipe import list_recipes, load_recipe
from moeload_bench.results.record import load_result
from moeload_bench.schema import Record, later
from moeload_bench.suites.suite import Suite, load_suite, suite_names
from moeload_bench.traces.store import list_traces, stored_meta

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "texts.json"
SEASON = ROOT / "leaderboard" / "seasons" / "2027-01"


def hashes() -> dict[str, str]:
    """The SHA-256 of every canonical text of this checkout, by what it is of."""
    found = {f"recipe {name}": _dumped(load_recipe(name)) for name in list_recipes()}
    drawn = sorted((ROOT / "leaderboard" / "draws").glob("*/*.toml"))
    found |= {f"recipe {path.parent.name}/{path.stem}": _dumped(load_recipe(str(path))) for path in drawn}
    found |= {f"suite {name}": load_suite(name).sha256() for name in suite_names()}
    found |= {f"trace {ref.id}": stored_meta(ref.path).sha256() for ref in list_traces()}
    return found | {f"2027-01 {name}": sha256 for name, sha256 in _season()}


def _season() -> Iterator[tuple[str, str]]:
    folder = SeasonFolder(SEASON)
    draw, scores, reveal = folder.draw(), folder.scores(), folder.reveal()
    assert draw is not None
    assert scores is not None
    assert reveal is not None
    for record in (folder.plan(), folder.commitment(), draw, scores, reveal, *folder.runs()):
        name = f"{record.recipe} {record.run}" if isinstance(record, RunHashes) else type(record).__name__.lower()
        yield name, record.sha256()
    yield "log", folder.lines()[-1].sha256()
    yield "suite.json", read_record(Suite, SEASON / "suite.json").sha256()
    yield "fork_floors.json", read_record(ForkFloors, SEASON / "fork_floors.json").sha256()
    for path in sorted(folder.forks.glob("*.json")):
        yield f"forks/{path.stem}", read_record(EntryForks, path).sha256()
    for path in sorted(folder.results.glob("*.json")):
        yield f"results/{path.stem}", _dumped(load_result(path))
    for path in sorted(folder.traces.rglob("*.parquet")):
        yield f"trace {path.relative_to(folder.traces)}", stored_meta(path).sha256()


def _dumped(record: Record) -> str:
    text = json.dumps(record.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def test_every_canonical_text_is_what_it_was() -> None:
    """Hashes that entries, results and seasons rest on never change; new texts are added to the list."""
    golden, found = json.loads(GOLDEN.read_text()), hashes()
    assert {name: found.get(name) for name in golden} == golden
    assert not found.keys() - golden.keys(), "new: run this file as a script"


def test_a_later_field_is_no_part_of_the_text_at_its_default() -> None:
    """A record that gains a field keeps its text, and reads and writes the field where it is said."""

    class Before(Record):
        name: str

    class After(Before):
        kind: str = later("adamw")
        most: int | None = later(None, ge=1)

    assert After(name="a").model_dump_json() == Before(name="a").model_dump_json()
    said = After(name="a", kind="sgd", most=2)
    assert After.model_validate_json(said.model_dump_json()) == said
    assert said.model_dump() == {"name": "a", "kind": "sgd", "most": 2}


if __name__ == "__main__":
    known = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    GOLDEN.write_text(json.dumps(dict(sorted({**hashes(), **known}.items())), indent=0) + "\n")
