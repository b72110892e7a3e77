"""What decompressing the pages of a parquet file takes, from the pages' own headers.

A footer may say little and a page behind it hold two gigabytes of zeros in a few kilobytes: Arrow allocates what the
page's header announces. The headers are structs of Thrift's compact protocol (parquet.thrift: `PageHeader`), of which
two numbers are of interest here; the rest is stepped over, in time linear in the file.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from moeload_bench.errors import TraceError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

UNCOMPRESSED, COMPRESSED = 2, 3
MAX_DEPTH = 8
STOP, TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 12
INTEGERS = (4, 5, 6)


def largest_page_bytes(path: Path, metadata: pq.FileMetaData) -> int:
    """The largest page of a file, decompressed; raises `TraceError` for headers that cannot be read."""
    largest = 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for start, stop in _chunks(metadata):
            try:
                for size in _pages(content, start, min(stop, len(content))):
                    largest = max(largest, size)
            except (IndexError, ValueError) as error:
                raise TraceError(f"{path}: a page of a column at byte {start} is damaged: {error}") from None
    return largest


def _chunks(metadata: pq.FileMetaData) -> Iterator[tuple[int, int]]:
    """Where each column's pages lie in each row group, dictionary first, as Arrow looks for them."""
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        for chunk in map(group.column, range(group.num_columns)):
            if chunk.num_values <= 0:
                continue  # of which no page is read
            start, dictionary = chunk.data_page_offset, chunk.dictionary_page_offset
            if dictionary is not None and 0 < dictionary < start:
                start = dictionary
            yield start, start + chunk.total_compressed_size


def _pages(content: mmap.mmap, at: int, stop: int) -> Iterator[int]:
    while 0 <= at < stop:
        sizes, at = _page_header(content, at)
        yield sizes[UNCOMPRESSED]
        at += sizes[COMPRESSED]


def _page_header(content: mmap.mmap, at: int) -> tuple[dict[int, int], int]:
    """The two sizes, and where the header ends."""
    sizes = {UNCOMPRESSED: -1, COMPRESSED: -1}
    field = 0
    while (head := content[at]) & 15 != STOP:
        kind, at = head & 15, at + 1
        if head >> 4:
            field += head >> 4
        else:
            field, at = _integer(content, at)
        if field in sizes and kind in INTEGERS:
            sizes[field], at = _integer(content, at)
        else:
            at = _skip(content, at, kind, 0)
    if min(sizes.values()) < 0:
        raise ValueError("its header has no size")
    return sizes, at + 1


def _skip(content: mmap.mmap, at: int, kind: int, depth: int) -> int:
    """Where a value of a kind ends."""
    if depth > MAX_DEPTH:
        raise ValueError("its header is nested too deep")
    if kind in (TRUE, FALSE):
        return at
    if kind == BYTE:
        return at + 1
    if kind == DOUBLE:
        return at + 8
    if kind in INTEGERS:
        return _integer(content, at)[1]
    if kind == BINARY:
        length, at = _varint(content, at)
        return at + length
    if kind in (LIST, SET):
        count, inner, at = content[at] >> 4, content[at] & 15, at + 1
        if count == 15:
            count, at = _varint(content, at)
        for _ in range(count):
            at = at + 1 if inner in (TRUE, FALSE) else _skip(content, at, inner, depth + 1)
            content[at - 1]  # a list cannot be longer than the file
        return at
    if kind == STRUCT:
        while (head := content[at]) & 15 != STOP:
            at = _integer(content, at + 1)[1] if head >> 4 == 0 else at + 1
            at = _skip(content, at, head & 15, depth + 1)
        return at + 1
    raise ValueError(f"its header holds a value of the unknown kind {kind}")


def _integer(content: mmap.mmap, at: int) -> tuple[int, int]:
    """A signed number, zigzag."""
    raw, at = _varint(content, at)
    return (raw >> 1) ^ -(raw & 1), at


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number of its header does not end")
