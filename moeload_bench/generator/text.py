"""Training text: a pinned corpus, a folder of text files or a dataset of `datasets`, and its tokens.

A source is named by a string: `kjv` (a pinned corpus), `folder:PATH` or `dataset:NAME` with optional
`@config=...,split=...,column=...`. Only a trace from pinned corpora can be recorded again by anyone. Tokens are
those of a byte-level BPE trained on the text; the tokenizer and the token streams are cached.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moeload_bench.cache import cache_dir
from moeload_bench.errors import MissingExtraError, RecipeError
from moeload_bench.files import replacing, write_whole
from moeload_bench.generator.corpora import fetch_corpus, find_corpus

TEXT_SUFFIXES = (".txt", ".md", ".rst", ".py", ".json", ".html", ".tex")
_UNKNOWN_LICENCE = "unknown"
_CHUNK_LINES = 2000


@dataclass(frozen=True)
class TextSource:
    """One text on disk: its name, what it was made from, its licence, and the hash of its bytes."""

    name: str
    origin: str
    licence: str
    sha256: str
    bytes: int
    path: Path


def resolve_source(name: str) -> TextSource:
    """Return the text that a source's name stands for; fetch it or gather it into the cache first if needed.

    Raise `NotFoundError` for an unknown corpus and `RecipeError` for a folder or dataset without text.
    """
    kind, colon, rest = name.partition(":")
    if not colon:
        corpus = find_corpus(name)
        path = fetch_corpus(corpus)
        return TextSource(name, corpus.origin, corpus.licence, corpus.text_sha256, corpus.text_bytes, path)
    if kind == "folder":
        return _gathered(f"folder-{Path(rest).name}", "local folder", _folder_text(Path(rest)))
    if kind == "dataset":
        dataset, _, options = rest.partition("@")
        return _gathered(f"dataset-{dataset.replace('/', '-')}", rest, _dataset_text(dataset, options))
    raise RecipeError(f"source {name!r}: expected the name of a corpus, folder:PATH or dataset:NAME")


def _gathered(name: str, origin: str, pieces: Iterable[str]) -> TextSource:
    """Write pieces of text into one cached file that is named by its content."""
    folder = cache_dir() / "gathered"
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(dir=folder) as scratch, open(Path(scratch) / "text", "wb") as file:
        for piece in pieces:
            raw = (piece.strip() + "\n\n").encode()
            digest.update(raw)
            file.write(raw)
        size = file.tell()
        if size == 0:
            raise RecipeError(f"source {name} ({origin}) holds no text")
        path = folder / f"{digest.hexdigest()[:16]}.txt"
        file.flush()
        os.replace(file.name, path)
    return TextSource(name, origin, _UNKNOWN_LICENCE, digest.hexdigest(), size, path)


def _folder_text(folder: Path) -> Iterator[str]:
    """Yield the text files below a folder in the order of their names."""
    if not folder.is_dir():
        raise RecipeError(f"source folder {folder} does not exist")
    for path in sorted(folder.rglob("*")):
        if path.suffix in TEXT_SUFFIXES and path.is_file():
            yield path.read_text(encoding="utf-8", errors="replace")


def _dataset_text(name: str, options: str) -> Iterator[str]:
    """Yield one column of a dataset, streamed; options are `config`, `split` (train) and `column` (text)."""
    import datasets

    pieces = [piece for piece in options.split(",") if piece]
    unsaid = [piece for piece in pieces if "=" not in piece]
    if unsaid:
        raise RecipeError(
            f"source dataset {name}: got option {unsaid[0]!r}, expected NAME=VALUE, as config={unsaid[0]}"
        )
    given = dict(piece.split("=", 1) for piece in pieces)
    unknown = set(given) - {"config", "split", "column"}
    if unknown:
        raise RecipeError(f"source dataset {name}: unknown option {min(unknown)!r}; there is: config, split, column")
    column = given.get("column", "text")
    try:
        rows: Any = datasets.load_dataset(name, given.get("config"), split=given.get("split", "train"), streaming=True)
    except (OSError, ValueError) as error:
        raise RecipeError(f"source dataset {name}: {error}") from None
    for row in rows:
        if column not in row:
            raise RecipeError(f"source dataset {name} has no column {column!r}; there is: {', '.join(row)}")
        yield str(row[column])


# ------------------------------------------------------------------------------------------------ tokens


class TrainedTokenizer(NamedTuple):
    """A tokenizer and the SHA-256 of its vocabulary and merges."""

    tokenizer: Any
    sha256: str


def train_tokenizer(sources: Sequence[TextSource], vocabulary: int) -> TrainedTokenizer:
    """Return the byte-level BPE with `vocabulary` entries trained on whole texts; cached by hash of what it is made
    from.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtraError("tokenizers", "record", "recording a recipe") from None
    key = hashlib.sha256(json.dumps([vocabulary, [source.sha256 for source in sources]]).encode()).hexdigest()
    path = cache_dir() / "tokenizers" / f"{key[:16]}.json"
    if not path.is_file():
        tokenizer = _train([source.path for source in sources], vocabulary)
        write_whole(path, tokenizer.to_str().encode())
    tokenizer = Tokenizer.from_file(str(path))
    return TrainedTokenizer(tokenizer, _content_sha256(tokenizer))


def _train(paths: Sequence[Path], vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator((chunk for path in paths for chunk in _chunks(path)), trainer)
    return tokenizer


def _content_sha256(tokenizer: Any) -> str:
    model = json.loads(tokenizer.to_str())["model"]
    content = json.dumps([model["vocab"], model["merges"]], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def token_stream(source: TextSource, trained: TrainedTokenizer) -> NDArray[np.uint16]:
    """Return all tokens of a text in order, memory-mapped from the cache."""
    name = f"{source.name}-{source.sha256[:8]}-{trained.sha256[:16]}.npy"
    path = cache_dir() / "tokens" / name
    if not path.is_file():
        chunks = list(_chunks(source.path))
        encoded = trained.tokenizer.encode_batch_fast(chunks, add_special_tokens=False)
        ids = np.concatenate([np.array(piece.ids, dtype=np.uint16) for piece in encoded])
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as scratch, scratch.open("wb") as file:
            np.save(file, ids)
    stream: NDArray[np.uint16] = np.load(path, mmap_mode="r")
    return stream


def _chunks(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", newline="\n") as file:
        while lines := list(itertools.islice(file, _CHUNK_LINES)):
            yield "".join(lines)
