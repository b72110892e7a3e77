"""What a stranger's `.pt` file may be: an archive as `torch.save` writes it, checked before torch opens it.

`torch.load(weights_only=True)` runs no code, but it takes the memory that a file asks for: `bytearray(10**10)` is
one instruction of a pickle, and a compressed member unpacks to anything.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path

from moeload_bench.errors import printable

MAX_MEMBERS = 1_000_000


def check_archive(path: Path, max_bytes: int) -> None:
    """Raise `ValueError` for a file that `torch.save` did not write, for compressed members, and for too many bytes.

    ``max_bytes``: of all members together, unpacked. Torch has a reader of archives of its own; what the two could read
    differently is refused: content before the first member, a comment, and names that differ in case alone.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":  # of a bare pickle with an archive behind it, torch would read the pickle
                raise ValueError
        with zipfile.ZipFile(path) as archive:
            entries, comment = archive.infolist(), archive.comment
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        raise ValueError("not an archive as torch.save writes it; a bare pickle is not read") from None
    size = sum(entry.file_size for entry in entries)
    if size > max_bytes or len(entries) > MAX_MEMBERS:
        raise ValueError(f"{size} bytes in {len(entries)} members unpacked, expected at most {max_bytes}")
    packed = next((entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise ValueError(f"member {printable(packed.filename)[:80]} is compressed, torch.save stores plainly")
    names = {entry.filename.lower() for entry in entries}
    if comment or len(names) < len(entries) or min((entry.header_offset for entry in entries), default=0):
        raise ValueError(
            "not an archive as torch.save writes it: two members of one name, a comment, or more before it"
        )


def imported_names(path: Path) -> Iterator[str]:
    """Yield what the pickles in an archive import, as "module name"; raise `ValueError` for a damaged one."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.lower().endswith("data.pkl"):
                for code, argument, _ in pickletools.genops(archive.read(entry)):
                    if code.name in ("GLOBAL", "INST"):
                        yield str(argument)
