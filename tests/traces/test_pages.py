"""The headers of a parquet file's pages: those that are as usual, read in one go, and all others, field by field."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeload_bench.traces import pages
from moeload_bench.traces.lookup import list_traces

FILE = list_traces()[0].path
CONTENT = FILE.read_bytes()
STARTS = [start for start, _, _ in pages.chunks(pq.read_metadata(FILE))]


def both(content: bytes, at: int) -> tuple[object, object]:
    """The header in one go (None where it is not as usual), and field by field (None where it cannot be read)."""
    usual = pages._USUAL.match(content, at)
    found = None
    if usual is not None:
        found = (pages._number(usual[1]), pages._number(usual[2])), usual.end()
    try:
        return found, pages._page_header(content, at)
    except (IndexError, ValueError):
        return found, None


def test_every_header_of_a_trace_is_as_usual() -> None:
    """pyarrow's own are matched, each where its column begins and each after the one before."""
    for start, stop, _ in pages.chunks(pq.read_metadata(FILE)):
        at = start
        while at < stop:
            found, slow = both(CONTENT, at)
            assert found is not None
            assert found == slow
            (_, compressed), at = pages._page_header(CONTENT, at)
            at += compressed


@given(st.sampled_from(STARTS), st.lists(st.tuples(st.integers(0, 60), st.binary(min_size=1, max_size=3)), max_size=4))
def test_what_is_read_in_one_go_is_what_is_read_field_by_field(start: int, edits: list[tuple[int, bytes]]) -> None:
    """Whatever bytes of a header are others: never another size, never another end."""
    header = bytearray(CONTENT[start : start + 200])
    for at, raw in edits:
        header[at : at + len(raw)] = raw
    found, slow = both(bytes(header), 0)
    assert found is None or found == slow


@given(st.binary(max_size=80))
def test_a_header_of_any_fields_is_read_in_one_way(fields: bytes) -> None:
    """After the sizes, anything."""
    found, slow = both(b"\x15\x00\x15\xb2\xc0\x01\x15\x7e" + fields, 0)
    assert found is None or found == slow


@pytest.mark.parametrize("tail", [b"\x15\x02" * 40_000, b"\x1c" * 40_000, b"\x2c\x1c" * 20_000])
def test_a_header_without_an_end_is_refused(tail: bytes) -> None:
    """Of numbers or of structs within structs: neither pattern nor recursion runs away."""
    found, slow = both(b"\x15\x00\x15\x02\x15\x02" + tail, 0)
    assert found is None
    assert slow is None
