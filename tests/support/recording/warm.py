"""What ranks would import one by one, imported once: the server that they are forked from loads this module."""

from __future__ import annotations

import importlib

import tests.support.recording.loops

_LATE = (
    "pandas",
    "pyarrow.parquet",
    "torch._dynamo",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "transformers.integrations.tensor_parallel",
    "transformers.modeling_utils",
    "transformers.quantizers.auto",
    *(f"transformers.models.{name}.modeling_{name}" for name in ("qwen3_moe", "mixtral", "switch_transformers")),
)

loops = tests.support.recording.loops
for late in _LATE:
    importlib.import_module(late)
