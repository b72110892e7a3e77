"""The metadata of a recorded trace."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeload_bench.traces.trace import LayerMeta

if TYPE_CHECKING:
    from moeload_bench.recording.routers import Router

_PACKAGES = ("moeload-bench", "torch", "transformers", "accelerate", "tokenizers", "numpy")


def layer_metas(
    routers: Sequence[Router], experts: int, top_k_L: Sequence[int | None], offset: int = 0
) -> tuple[LayerMeta, ...]:
    """One record per router; ``offset`` is added to the numbers of their blocks."""
    return tuple(
        LayerMeta.model_validate(
            {"index": r.block + offset, "stack": r.stack, "kind": r.kind, "experts": experts, "top_k": k}
        )
        for r, k in zip(routers, top_k_L, strict=True)
    )


def package_versions() -> dict[str, str]:
    """Versions of Python and of what decides the numbers of a run."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, Any]:
    """Machine, processor and accelerator, without names of hosts or users."""
    import torch

    found: dict[str, Any] = {"machine": platform.machine(), "system": platform.system(), "cpu": _cpu_name()}
    found["cpu_count"] = os.cpu_count()
    found["threads"] = torch.get_num_threads()
    found["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
