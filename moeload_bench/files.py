"""Where the package's own files lie, what a file is called, and how it is replaced: at once or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
"""The folder of the installed package; its suites, recipes and bundled traces lie in it."""

DEVICES = Path("/dev")
_PLAIN = re.compile(r"(?!index$)[a-z0-9]+([._-][a-z0-9]+)*")


def file_name(text: str) -> str:
    """Return a file's name for any text, without its ending: the text itself where it is plain, else its readable part
    and a hash that tells it from every other text. `arima@order=[1,1,1]` becomes `arima_order=1-1-1-8b0cd3bc`.
    """
    if _PLAIN.fullmatch(text) and len(text) <= 80:
        return text
    readable = re.sub(r"[\[\]\"' ]", "", text.lower()).replace(",", "-")
    readable = re.sub(r"[^a-z0-9=]*[^a-z0-9=.-][^a-z0-9=]*|[.-]{2,}", "_", readable).strip("._-=")[:60].rstrip("._-=")
    return f"{readable or 'x'}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@contextmanager
def replacing(target: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a file beside ``target`` that takes its place at the end, or is removed on any error.

    ``durable``: its content is on the disk before it has the name, and the name when this ends, so that a power cut
    leaves the old file or the new. An `OSError` names ``target``: the file beside it is gone by then.
    """
    with _naming(target):
        if target.is_dir():  # said before the content is made
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        if (target.exists() and not target.is_file()) or target.parent.resolve() == DEVICES:  # root would replace it
            raise OSError(errno.EINVAL, "a pipe or device, expected a file", str(target))
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        os.close(handle)
        scratch = Path(name)
        try:
            yield scratch
            scratch.chmod(0o644)
            if durable:
                with scratch.open("rb+") as file:
                    os.fsync(file.fileno())
            scratch.replace(target)
            if durable:
                _sync_folder(target.parent)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise


def read_at_most(path: Path, most: int) -> bytes:
    """Return a file's content; raise `OSError` for a folder, pipe or device, and for more than ``most`` bytes."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "a folder, pipe or device, expected a file", str(path))
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"more than {most} bytes", str(path))
    return content


def write_whole(target: Path, content: bytes) -> None:
    """Write a file completely or not at all; its folder is made first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as scratch:
        scratch.write_bytes(content)


@contextmanager
def _naming(target: Path) -> Iterator[None]:
    """Turn errors of the system about a file beside ``target`` into errors about ``target``."""
    try:
        yield
    except OSError as error:
        if not Path(str(error.filename)).name.startswith(f".{target.name}."):
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error  # of the subclass that the number stands for


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where its file system can say so: some of networks cannot."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
