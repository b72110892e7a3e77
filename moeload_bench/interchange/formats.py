"""What can be imported: one record per format, for the importer, `import formats` and the docs."""

from __future__ import annotations

from typing import NamedTuple


class Format(NamedTuple):
    """A foreign format: where it comes from, how its engine is made to write it, and what its counts are."""

    name: str
    files: str
    written_by: str
    counts: str


FORMATS = (
    Format("npz", "FILE.npz", "np.savez(load=..., step=..., tokens=...)", "as you say"),
    Format("csv", "FILE.csv", "step,layer,expert,load or step,layer,load_0,...", "as you say"),
    Format("jsonl", "*.jsonl", "a few lines in any loop: this project's own shape", "before drops; ranks are added"),
    Format(
        "megatron-tokens",
        "tokens_per_expert/rank*.jsonl",
        "Megatron-LM --save-tokens-per-expert-interval N",
        "behind the dispatch: after drops, local experts; put together over ranks and pipeline stages",
    ),
    Format(
        "megatron-routing",
        "router_trace_rank*.jsonl",
        "Megatron-LM --moe-routing-trace-path DIR",
        "before drops; micro-batches with drops are not in the files",
    ),
    Format(
        "load-history",
        "expert-load.json",
        "vLLM: load_history with logical_expert_load",
        "before drops, intervals of inference",
    ),
    Format(
        "routed",
        "*.npy, *.npz",
        "vLLM --enable-return-routed-experts, RL trainers",
        "before drops, a step per request or batch",
    ),
    Format(
        "sglang",
        "expert_distribution_recorder_*.pt",
        "sglang --expert-distribution-recorder-mode stat | per_pass",
        "before drops, passes of inference",
    ),
    Format(
        "tensorrt-llm",
        "meta_info.json, rank*.safetensors",
        "TensorRT-LLM EXPERT_STATISTIC_ITER_RANGE=A-B",
        "before drops, iterations of inference",
    ),
    Format("smartmoe", "table_iter*_rank*.log", "SmartMoE-AE's moe_trace", "before drops, every tenth iteration"),
    Format("flame-moe", "**/layer_*.parquet", "FLAME-MoE-Traces on the Hub", "before drops, at checkpoints"),
    Format(
        "wandb",
        "history.csv, .parquet or .jsonl",
        "W&B: scan_history(), scalars or histograms",
        "as logged, or shares",
    ),
    Format(
        "tensorboard", "events.out.tfevents.*", "add_scalar per layer and expert", "as logged up to 2^24, or shares"
    ),
)
