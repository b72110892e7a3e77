"""The tensors of a stranger's `.pt` file as arrays.

A `.pt` file is a pickle. Its archive is checked for sizes first; then `torch.load(weights_only=True)` opens it in a
separate process with limits on memory and time.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from moeload_bench.errors import MissingExtraError, TraceError, printable
from moeload_bench.ops.interchange.torch_archive import check_archive

MAX_BYTES = 2 << 30
"""Unpacked size: a file is read whole, and its counts are held several times."""
SECONDS = 600
CHILD = Path(__file__).with_name("torch_child.py")


def load_arrays(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Return a file's tensors as arrays, by name; another process opens the file. A tensor without a name is `load`.

    Raise `TraceError` for a file that is not an archive of `torch.save`, is larger than ``max_bytes`` unpacked, or
    holds anything but tensors and plain values; `MissingExtraError` without torch.
    """
    try:
        check_archive(path, max_bytes)
    except ValueError as error:
        raise TraceError(f"{path}: {error}") from None
    command = [sys.executable, "-I", "-B", str(CHILD), str(path.resolve()), str(max_bytes), str(SECONDS)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=2 * SECONDS, cwd=tempfile.gettempdir(), check=False)
        line, _, data = done.stdout.partition(b"\n")
        answer = json.loads(line)
    except subprocess.TimeoutExpired:
        raise TraceError(f"{path}: not read within {2 * SECONDS} s") from None
    except ValueError:
        tail = printable(done.stderr.decode(errors="replace").strip()[-200:])
        raise TraceError(f"{path}: the reading process ended with {done.returncode}: {tail}") from None
    if answer.get("missing"):
        raise MissingExtraError(answer["missing"], "torch", "reading .pt files")
    if "error" in answer:
        reason = printable(" ".join(str(answer["error"]).split()))[:300]
        raise TraceError(f"{path}: expected tensors: {reason}")
    arrays, start = {}, 0
    for name, dtype, shape in answer["arrays"]:
        arrays[name] = np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape)
        start += arrays[name].nbytes
    return arrays
