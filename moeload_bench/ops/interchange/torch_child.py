"""Run as a script: turn the tensors of one `.pt` file into plain arrays, in a process with bounded resources.

    python -I -B torch_child.py FILE.pt MAX_BYTES MAX_SECONDS

`torch.load(weights_only=True)` is the only unpickler that is allowed here. It is restricted: it builds tensors,
numbers, strings and containers, nothing else. Standard output gets one line of JSON, `{"arrays": [[name, dtype, shape],
...]}` or `{"error": "..."}`, and then the arrays' bytes: no file is left behind, however this ends. It dies with its
parent. This script imports nothing of the package.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import resource
import sys
from typing import Any, BinaryIO

PR_SET_PDEATHSIG, SIGKILL = 1, 9


def main(file: str, max_bytes: int, seconds: int, out: BinaryIO) -> None:
    """Read ``file`` and write its tensors; of sglang's recorder what it counted, of one without a name as `load`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    import torch

    torch.set_num_threads(1)
    # torch itself takes some 4 GiB of address space, and the file is held at most twice
    room = 2 * max_bytes + (6 << 30)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    room = room if hard == resource.RLIM_INFINITY else min(room, hard)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    try:
        data = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # its own message advises to unpickle without limits
        raise ValueError("holds an object that is not a tensor, number, string or container") from None
    _write(_named(data), max_bytes, out)


def _named(data: Any) -> dict[str, Any]:
    """Return the tensors of a file by name: a dict's own, one tensor or a list of them, a step each, as `load`."""
    import torch

    if isinstance(data, list) and data:
        for tensor in data:
            _check("an item of the list", tensor)
        data = torch.stack(data)
    if isinstance(data, torch.Tensor):
        return {"load": data}
    if not isinstance(data, dict) or not data or not all(isinstance(name, str) for name in data):
        raise ValueError(f"holds a {type(data).__name__}, expected a tensor, a list of them or a dict of them by name")
    if "logical_count" in data:
        return {"logical_count": data["logical_count"]}
    return _records(data) if "records" in data else data


def _records(data: dict[str, Any]) -> dict[str, Any]:
    """Return the records of single passes: counts of physical experts, and the logical expert of each of these."""
    import torch

    records = data["records"]
    if not records:
        raise ValueError("holds no records, expected one per pass")
    for record in records:
        if "global_physical_count" not in record:
            raise ValueError(
                f"a record holds {sorted(map(str, record))[:10]}, expected 'global_physical_count': of the recorder's "
                "modes stat, stat_approx and per_pass are read"
            )
        _check("global_physical_count", record["global_physical_count"])
    return {
        "physical_count": torch.stack([record["global_physical_count"] for record in records]),
        "pass": torch.tensor([record["forward_pass_id"] for record in records]),
        "rank": torch.tensor([record["rank"] for record in records]),
        "physical_to_logical": data["last_physical_to_logical_map"],
    }


def _check(name: str, tensor: Any) -> None:
    """Refuse what is no tensor of numbers, or shows more of them than its storage holds (a stride of 0)."""
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name} is a {type(tensor).__name__}, expected a tensor of numbers")
    size = tensor.numel() * tensor.element_size()
    if tensor.layout != torch.strided or size > tensor.untyped_storage().nbytes():
        raise ValueError(f"{name} is a tensor of {size} bytes in a storage that holds fewer, expected a plain one")


def _write(arrays: dict[str, Any], max_bytes: int, out: BinaryIO) -> None:
    import torch

    for name, tensor in arrays.items():
        _check(name, tensor)
    size = sum(8 * tensor.numel() for tensor in arrays.values())
    if size > 2 * max_bytes:
        raise ValueError(f"holds numbers that take {size} bytes, expected at most {2 * max_bytes}")
    # not cast: a fraction must stay a fraction, so that it is refused later
    plain = {
        name: tensor.detach().to(torch.float64 if tensor.is_floating_point() else torch.int64).contiguous().numpy()
        for name, tensor in arrays.items()
    }
    described = [[name, array.dtype.str, array.shape] for name, array in plain.items()]
    out.write(json.dumps({"arrays": described}).encode() + b"\n")
    for array in plain.values():
        out.write(array.data)


def answer(file: str, max_bytes: int, seconds: int, out: BinaryIO) -> None:
    """Write what ``file`` holds, or why it is refused: whatever a stranger's file does, the parent gets one line."""
    try:
        main(file, max_bytes, seconds, out)
    except ModuleNotFoundError as error:
        out.write(json.dumps({"missing": error.name}).encode())
    except Exception as error:
        out.write(json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}).encode())
    out.close()


if __name__ == "__main__":
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints goes elsewhere
    answer(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sink)
