"""Archives of weights with something else in them than what wrote them put there."""

from __future__ import annotations

import io
from typing import Any

import numpy as np


def changed_archive(data: bytes, **changes: Any) -> bytes:
    """An npz archive with other arrays in place of its own; without those that are changed to None."""
    with np.load(io.BytesIO(data)) as archive:
        arrays = {name: archive[name] for name in archive.files} | changes
    file = io.BytesIO()
    np.savez(file, **{name: value for name, value in arrays.items() if value is not None})
    return file.getvalue()
