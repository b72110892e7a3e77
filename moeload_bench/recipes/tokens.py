"""Byte-level BPE trained on pinned text, and token streams cached as arrays."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moeload_bench.cache import cache_dir
from moeload_bench.errors import MissingExtraError
from moeload_bench.files import replacing, write_whole
from moeload_bench.recipes.text import TextSource

_CHUNK_LINES = 2000


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
