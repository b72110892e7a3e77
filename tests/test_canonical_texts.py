"""Texts that hashes rest on: recipes, suites, metadata of traces, records of scored seasons (tests/golden/texts.json).

Declare a field that is added to such a record with `schema.extra_field`: at its default it is no part of the text.
After a new recipe, suite or trace, `PYTHONPATH=. python tests/test_canonical_texts.py` adds hashes;
it never changes one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from leaderboard.committed import DRAWN, drawn_recipes
from leaderboard.season.folder import SEASONS, SeasonFolder
from leaderboard.season.records import canonical_json, read_manifest
from moeload_bench.generator.recipe import list_recipes, load_recipe
from moeload_bench.schema import Schema, extra_field
from moeload_bench.suites.suite import Suite, load_suite, suite_names
from moeload_bench.traces.lookup import list_traces
from moeload_bench.traces.store import stored_meta

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "texts.json"


def hashes() -> dict[str, str]:
    """The SHA-256 of every canonical text of this checkout, by what it is of."""
    found = {f"recipe {name}": _dumped(load_recipe(name)) for name in list_recipes()}
    found |= {f"recipe {DRAWN.stem}/{name}": _dumped(recipe) for name, recipe in drawn_recipes().items()}
    found |= {f"suite {name}": load_suite(name).sha256() for name in suite_names()}
    found |= {f"trace {ref.id}": stored_meta(ref.path).sha256() for ref in list_traces() if ref.origin != "season"}
    for path in SEASONS.glob("*/scores.json"):
        found |= {f"{path.parent.name} {name}": sha256 for name, sha256 in _season(SeasonFolder(path.parent))}
    return found


def _season(folder: SeasonFolder) -> Iterator[tuple[str, str]]:
    assert folder.scores is not None
    records = {"draw.json": folder.draw, "scores.json": folder.scores}
    records |= {f"recordings/{name}": recording for name, recording in folder.recordings.items()}
    for name, record in records.items():
        yield name, hashlib.sha256(canonical_json(record).encode()).hexdigest()
    yield "suite.json", read_manifest(Suite, folder.path / "suite.json").sha256()
    for path in sorted((folder.path / "traces").rglob("*.parquet")):
        yield f"trace {path.relative_to(folder.path / 'traces')}", stored_meta(path).sha256()


def _dumped(schema: Schema) -> str:
    text = json.dumps(schema.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def test_every_canonical_text_is_what_it_was() -> None:
    """Hashes that entries, results and seasons rest on never change; new texts are added to the list."""
    golden, found = json.loads(GOLDEN.read_text()), hashes()
    assert {name: found.get(name) for name in golden} == golden
    assert not found.keys() - golden.keys(), "new: run this file as a script"


def test_a_later_field_is_no_part_of_the_text_at_its_default() -> None:
    """A record that gains a field keeps its text, and reads and writes the field where it is said."""

    class Before(Schema):
        name: str

    class After(Before):
        kind: str = extra_field("adamw")
        most: int | None = extra_field(None, ge=1)

    assert After(name="a").model_dump_json() == Before(name="a").model_dump_json()
    said = After(name="a", kind="sgd", most=2)
    assert After.model_validate_json(said.model_dump_json()) == said
    assert said.model_dump() == {"name": "a", "kind": "sgd", "most": 2}


if __name__ == "__main__":
    known = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    GOLDEN.write_text(json.dumps(dict(sorted({**hashes(), **known}.items())), indent=0) + "\n")
