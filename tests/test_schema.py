"""Records in JSON that strangers write."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaderboard.season.records import read_manifest
from moeload_bench.errors import MoeloadError, SeasonError
from moeload_bench.schema import Schema, read_json


class Pair(Schema):
    """A record with an object in it."""

    a: int
    b: dict[str, int] = {}


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"a": 1, "b": {"x": 1, "x": 1}}'])
def test_a_name_twice_in_one_object_is_refused(text: str, tmp_path: Path) -> None:
    """Refuse `{"a": 1, "a": 2}` at any depth, in records of seasons too: 1 would be lost without a word."""
    path = tmp_path / "pair.json"
    path.write_text('{"a": 1, "b": {"a": 1}}')
    assert read_json(Pair, path, 1000, "a pair", MoeloadError) == Pair(a=1, b={"a": 1})
    path.write_text(text)
    with pytest.raises(MoeloadError, match=r"pair\.json: '[ax]' occurs twice in one object"):
        read_json(Pair, path, 1000, "a pair", MoeloadError)
    with pytest.raises(SeasonError, match="occurs twice"):
        read_manifest(Pair, path)
