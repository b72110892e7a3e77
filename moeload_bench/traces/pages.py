"""How much memory it takes to decompress the pages of a parquet file, read from the pages' own headers.

A footer may claim little while a page of a few kilobytes unpacks to two gigabytes of zeros: Arrow allocates what the
page's header announces. The headers are structs of Thrift's compact protocol (parquet.thrift: `PageHeader`). Only two
of their numbers are needed here; the rest is skipped, in time linear in the file.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from moeload_bench.errors import TraceError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

UNCOMPRESSED, COMPRESSED = 2, 3
MAX_DEPTH = 8
Bytes = mmap.mmap | bytes
STOP, TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 12
INTEGERS = (4, 5, 6)
FIXED = {TRUE: 0, FALSE: 0, BYTE: 1, DOUBLE: 8}
"""Bytes of the kinds that always take as many."""


def _usual_header() -> re.Pattern[bytes]:
    """Return a pattern for the usual header: type and both sizes, then structs of numbers and of bounds of 4 or 8
    bytes.

    It matches in one go, which matters because every column of every row group has a header. Any other header is read
    field by field. A field's first byte tells its kind, so the pattern never backtracks.
    """

    def tag(*kinds: int) -> bytes:  # a field whose number is larger than the last one's
        return b"[" + b"".join(b"\\x%x%x" % (step, kind) for step in range(1, 16) for kind in kinds) + b"]"

    number = rb"[\x80-\xff]{0,4}+[\x00-\x7f]"
    plain = tag(*INTEGERS) + number + b"|" + tag(TRUE, FALSE) + b"|" + tag(BINARY) + rb"(?:\x04.{4}|\x08.{8})"
    inner = tag(STRUCT) + rb"(?:" + plain + rb")*+\x00"
    outer = tag(STRUCT) + rb"(?:" + plain + b"|" + inner + rb")*+\x00"
    sizes = rb"\x15" + number + rb"\x15(" + number + rb")\x15(" + number + rb")"
    return re.compile(sizes + rb"(?:" + plain + b"|" + outer + rb")*+\x00", re.DOTALL)


_USUAL = _usual_header()


Chunk = tuple[int, int, int]
"""One column of one row group, from its footer: where its pages begin and end, and how many bytes its array takes."""


def chunks(metadata: pq.FileMetaData) -> list[Chunk]:
    """Return the columns of every row group. Columns that hold nothing are left out, because no page of them is read.

    A footer may lie: a negative number counts as 0, so that it cannot make up for another column's bytes.
    """
    columns, schema = [], metadata.schema
    widths = [4 if schema.column(j).physical_type in ("INT32", "FLOAT") else 8 for j in range(metadata.num_columns)]
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        for j, width in enumerate(widths):
            chunk = group.column(j)
            values = chunk.num_values
            if values <= 0:
                continue
            start, dictionary = chunk.data_page_offset, chunk.dictionary_page_offset
            if dictionary is not None and 0 < dictionary < start:
                start = dictionary  # Arrow looks for it first
            columns.append((start, start + chunk.total_compressed_size, values * width))
    return columns


def page_bytes(content: Bytes, chunks: list[Chunk], where: str) -> Iterator[int]:
    """Yield the size of every page, decompressed; raise `TraceError` for headers that cannot be read."""
    for start, stop, _ in chunks:
        try:
            yield from _pages(content, start, min(stop, len(content)))
        except (IndexError, ValueError) as error:
            raise TraceError(f"{where}: a page of a column at byte {start} is damaged: {error}") from None


def _pages(content: Bytes, position: int, stop: int) -> Iterator[int]:
    while 0 <= position < stop:
        usual = _USUAL.match(content, position)
        if usual is None:
            (size, compressed), position = _page_header(content, position)
        else:
            size, compressed, position = _number(usual[1]), _number(usual[2]), usual.end()
        if size < 0 or compressed < 0:
            raise ValueError("its header has no size")
        yield size
        position += compressed


def _page_header(content: Bytes, position: int) -> tuple[tuple[int, int], int]:
    """Return both sizes, decompressed and compressed (negative: not there), and the position where the header ends."""
    sizes = {UNCOMPRESSED: -1, COMPRESSED: -1}
    field = 0
    while (head := content[position]) & 15 != STOP:
        kind, position = head & 15, position + 1
        if head >> 4:
            field += head >> 4
        else:
            field, position = _integer(content, position)
        if field in sizes and kind in INTEGERS:
            sizes[field], position = _integer(content, position)
        else:
            position = _skip(content, position, kind, 0)
    return (sizes[UNCOMPRESSED], sizes[COMPRESSED]), position + 1


def _skip(content: Bytes, position: int, kind: int, depth: int) -> int:
    """Return the position where a value of this kind ends."""
    if depth > MAX_DEPTH:
        raise ValueError("its header is nested too deep")
    if kind in FIXED:
        return position + FIXED[kind]
    if kind in INTEGERS:
        return _integer(content, position)[1]
    if kind == BINARY:
        length, position = varint(content, position)
        return position + length
    if kind in (LIST, SET):
        count, inner, position = content[position] >> 4, content[position] & 15, position + 1
        if count == 15:
            count, position = varint(content, position)
        for _ in range(count):
            position = position + 1 if inner in (TRUE, FALSE) else _skip(content, position, inner, depth + 1)
            content[position - 1]  # a list cannot be longer than the file
        return position
    if kind == STRUCT:
        while (head := content[position]) & 15 != STOP:
            position = _integer(content, position + 1)[1] if head >> 4 == 0 else position + 1
            position = _skip(content, position, head & 15, depth + 1)
        return position + 1
    raise ValueError(f"its header holds a value of the unknown kind {kind}")


def _number(raw: bytes) -> int:
    """Return the number (as `_integer`) that all of these bytes form."""
    value = 0
    for byte in reversed(raw):
        value = value << 7 | byte & 127
    return (value >> 1) ^ -(value & 1)


def _integer(content: Bytes, position: int) -> tuple[int, int]:
    """Return a signed number in zigzag encoding, and where it ends."""
    raw, position = varint(content, position)
    return (raw >> 1) ^ -(raw & 1), position


def varint(content: Bytes, position: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, the low ones first, and where it ends; raise `ValueError` for no end."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("a number does not end")
