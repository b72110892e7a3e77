"""Run as a script: turn the tensors of one `.pt` file into plain arrays, in a process with bounded resources.

    python -I -B torch_child.py FILE.pt FOLDER MAX_BYTES MAX_SECONDS

`torch.load(weights_only=True)` is the only unpickler that is allowed here. It is restricted: it builds tensors,
numbers, strings and containers, nothing else. The arrays go to `FOLDER/*.npy`; one JSON object that describes them,
`{"arrays": [...]}` or `{"error": "..."}`, goes to standard output. This script imports nothing of the package.
"""

from __future__ import annotations

import json
import pickle
import resource
import sys
from pathlib import Path
from typing import Any


def main(file: str, folder: str, max_bytes: int, seconds: int) -> None:
    """Read ``file`` and write what sglang's recorder put into it."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * max_bytes, 2 * max_bytes))
    import torch

    torch.set_num_threads(1)
    # torch itself takes some 4 GiB of address space, and the file is held at most twice
    room = 2 * max_bytes + (6 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    try:
        data = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # its own message advises to unpickle without limits
        raise ValueError("holds an object that is not a tensor, number, string or container") from None
    if not isinstance(data, dict):
        raise ValueError(f"holds a {type(data).__name__}, expected a dict")
    if "logical_count" in data:
        arrays = {"logical_count": data["logical_count"]}
    elif "records" in data:
        arrays = _records(data)
    else:
        raise ValueError(f"holds {sorted(map(str, data))[:10]}, expected 'logical_count' or 'records'")
    _write(arrays, Path(folder))


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
    return {
        "physical_count": torch.stack([record["global_physical_count"] for record in records]),
        "pass": torch.tensor([record["forward_pass_id"] for record in records]),
        "rank": torch.tensor([record["rank"] for record in records]),
        "physical_to_logical": data["last_physical_to_logical_map"],
    }


def _write(arrays: dict[str, Any], folder: Path) -> None:
    import numpy as np
    import torch

    for name, tensor in arrays.items():
        if not isinstance(tensor, torch.Tensor) or tensor.is_complex() or tensor.dtype == torch.bool:
            raise ValueError(f"{name} is a {type(tensor).__name__}, expected a tensor of numbers")
        # not cast: a fraction must stay a fraction, so that it is refused later
        plain = tensor.detach().to(torch.float64 if tensor.is_floating_point() else torch.int64)
        np.save(folder / f"{name}.npy", plain.numpy(), allow_pickle=False)
    print(json.dumps({"arrays": sorted(arrays)}))


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": error.name}))
    except Exception as error:  # whatever an untrusted file does, the parent gets one line
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}))
