"""Weights of a forecaster from a model repository: one safetensors file of a pinned hash; no code of it is run."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from huggingface_hub import HfApi

from moeload_bench.errors import HashMismatchError, MissingExtraError, not_found
from moeload_bench.traces.hub import READ_WAITS_S, hub_request, parse_place, with_retries

WEIGHTS = "model.safetensors"
MAX_BYTES = 64 << 20
PINNED = {"gated": "d1d7d1b8a2bc3b70b0f7a6b45f9963d828f84b51a8f76f669c46a3ec23c4d02d"}
"""SHA-256 of each forecaster's `model.safetensors`, as this version of the package reads it."""


def pretrained(name: str, place: str, *, api: HfApi | None = None) -> bytes:
    """Return the weights of a forecaster by name, from ``place`` (`ORG/NAME@TAG`), as its ``fitted`` argument.

    `Gated(info, seed, fitted=pretrained("gated", "ORG/NAME@v1.0"))`. Raise `NotFoundError` for a forecaster without
    weights, `HashMismatchError` if the file is not the one that this version pins, `HubError` if it cannot be had.
    """
    if name not in PINNED:
        raise not_found("forecaster with weights", name, list(PINNED))
    pin = parse_place(place)
    client = api or HfApi()
    path = hub_request(
        place,
        lambda: with_retries(lambda: client.hf_hub_download(pin.repo, WEIGHTS, revision=pin.revision), READ_WAITS_S),
    )
    return archive_of(Path(path), PINNED[name])


def archive_of(path: Path, sha256: str) -> bytes:
    """Return the arrays of a safetensors file as a NumPy archive; raise `HashMismatchError` for another file."""
    size = path.stat().st_size
    data = path.read_bytes() if size <= MAX_BYTES else b""
    got = hashlib.sha256(data).hexdigest()
    if got != sha256:
        raise HashMismatchError(f"{path}: {size} bytes with SHA-256 {got[:16]}, expected {sha256[:16]}")
    try:
        from safetensors.numpy import load
    except ModuleNotFoundError:
        raise MissingExtraError("safetensors", "record", "reading weights") from None
    file = io.BytesIO()
    np.savez(file, **load(data))  # type: ignore[arg-type]  # names of arrays, none of them an option of savez
    return file.getvalue()
