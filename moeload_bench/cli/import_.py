"""`moeload-bench import`: one command per format, with what all of them take, and `import merge`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from moeload_bench.cli.options import INT, FirstLayer, taking
from moeload_bench.cli.progress import pair_progress, print_entries, say
from moeload_bench.errors import TraceError, counted
from moeload_bench.interchange.formats import FORMATS
from moeload_bench.interchange.importing import import_from
from moeload_bench.interchange.model_layers import read_layers
from moeload_bench.interchange.rows import CutShortWarning, Options, spans
from moeload_bench.recording.stages import merge_stages
from moeload_bench.traces.store import read_trace

app = typer.Typer(no_args_is_help=True, help="Turn counts of engines, arrays and tables into a trace.")

Source = Annotated[Path, typer.Argument(help="The file to read.")]
Sources = Annotated[list[str], typer.Argument(help="Files, folders or globs in quotes.")]
MAX_EXPERTS = 1 << 16
MAX_INTERVAL = 1 << 20
Experts = Annotated[
    int, typer.Option(metavar=INT, min=1, max=MAX_EXPERTS, help="Experts of a layer, which the files do not say.")
]
Pattern = Annotated[
    str | None, typer.Option(help="Names of the values, {l} for the layer and {e} for the expert: moe/{l}/{e}.")
]
Shares = Annotated[
    bool, typer.Option(help="Values are shares or ratios to the mean; counts follow from --tokens and --top-k.")
]
Pipeline = Annotated[int | None, typer.Option(metavar=INT, min=1, help="Pipeline stages; needed with several ranks.")]
StageLayers = Annotated[
    int | None, typer.Option(metavar=INT, min=1, help="Transformer layers of one pipeline stage, dense ones included.")
]


def _numbers(text: str) -> tuple[int, ...]:
    """Return the numbers in `3-60` or `1,3,5`."""
    parts = [re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part.strip()) for part in text.split(",")]
    if None in parts:
        raise TraceError(f"--layers: got {text[:80]!r}, expected numbers such as 3-60 or 1,3,5")
    return tuple(n for part in parts if part for n in range(int(part[1]), int(part[2] or part[1]) + 1))


@dataclass(frozen=True)
class Common:
    """The options that every format has in addition to its own."""

    out: Annotated[Path, typer.Option(help="The trace to write (.parquet).")]
    top_k: Annotated[int | None, typer.Option(metavar=INT, min=1, help="Experts per token, if fixed and known.")] = None
    tokens: Annotated[
        int | None,
        typer.Option(
            metavar=INT, min=1, help="Tokens entering each layer in each step; else the log's, else loads / top-k."
        ),
    ] = None
    name: Annotated[str, typer.Option(help="The trace's recipe name.")] = "own"
    split: Annotated[str, typer.Option(help="train, test or a name of your own.")] = "test"
    run: Annotated[int, typer.Option(metavar=INT, min=0, help="Number of the run within its split.")] = 0
    counted: Annotated[
        Literal["pre_drop", "post_drop"] | None,
        typer.Option(
            metavar="<str>",
            help="pre_drop or post_drop: with the tokens over an expert's capacity or without; by default as the "
            "format has it.",
        ),
    ] = None
    licence: Annotated[str, typer.Option(help="Licence of the numbers.")] = "unknown"
    first_layer: FirstLayer = None
    layers: Annotated[
        str | None, typer.Option(help="The numbers of all MoE layers in the model instead: 3-60, or 1,3,5.")
    ] = None
    model: Annotated[
        Path | None, typer.Option(help="The model's config.json instead: it says which layers are MoE layers.")
    ] = None

    def options(self) -> Options:
        """Return what the user says of the log; raise `TraceError` for layers that are numbered twice."""
        if [self.first_layer, self.layers, self.model].count(None) < 2:
            raise TraceError("--first-layer, --layers and --model: expected one of them")
        meta = {"recipe": self.name, "group": self.name, "split": self.split, "run": self.run, "licence": self.licence}
        known = Options(self.top_k, self.tokens, self.counted, meta=meta)
        if self.model is not None:
            model = read_layers(self.model)
            return replace(known, layers=model.decoder + model.predicting, predicting=model.predicting)
        return replace(known, layers=self.first_layer if self.layers is None else _numbers(self.layers))


@dataclass(frozen=True)
class Stepwise(Common):
    """The options of the formats that are read step by step."""

    first_step: Annotated[int | None, typer.Option(metavar=INT, min=0, help="The first step to import.")] = None
    last_step: Annotated[int | None, typer.Option(metavar=INT, min=0, help="The last step to import.")] = None

    def options(self) -> Options:
        """Return what the user says of the log and which of its steps are wanted."""
        return replace(super().options(), first_step=self.first_step, last_step=self.last_step)


def _import(ctx: typer.Context, source: str | Path | Sequence[str], **own: Any) -> None:
    """Import ``source`` as the command says; ``own``: the format's own options."""
    common: Common = ctx.obj
    with pair_progress(unit="bytes") as report, warnings.catch_warnings():
        warnings.simplefilter("ignore", CutShortWarning)  # they are among the notes
        done = import_from(str(ctx.info_name), source, common.out, common.options(), report, **own)
    made, indices = done.meta, [layer.index for layer in done.meta.layers]
    sampled = f", one in {made.stride}" if made.stride > 1 else ""
    layers, experts = counted(len(indices), "layer"), counted(made.experts, "expert")
    numbered = "" if indices == list(range(len(indices))) else f" (numbers {spans(indices)})"
    routed = f"{done.tokens:,} tokens a step, top-{made.top_k}" if made.top_k else "top-k not known"
    say(f"{done.path}: {counted(done.steps, 'step')}{sampled}, {layers}{numbered}, {experts}, {routed}")
    for note in made.notes:
        say(f"note: {note}", err=True)


@app.command("formats")
def formats() -> None:
    """List the formats, what writes each, what its counts are.

    Details: docs/guide/interchange.md in the project's repository.
    """
    print_entries(
        (f"{one.name}  {one.files}", f"written by: {one.written_by}; counts: {one.counts}") for one in FORMATS
    )


@app.command("npz", cls=taking(Common))
def from_npz(ctx: typer.Context, path: Source) -> None:
    """Import a NumPy archive.

    Arrays: load [steps, layers, experts], and optionally step [steps], tokens [steps] or [steps, layers], and the
    format's columns (load_half, dropped, loss, lr, ...) with the steps first.

    \b
    moeload-bench import npz counts.npz --top-k 2 --tokens 4096 --out run.parquet
    """
    _import(ctx, path)


@app.command("csv", cls=taking(Stepwise))
def from_csv(ctx: typer.Context, path: Source) -> None:
    """Import a CSV table with a header line.

    Columns: step,layer,expert,load (one count per row) or step,layer,load_0,load_1,... (one layer-step per row), each
    with an optional column tokens. Zeros are written too; rows may come in any order.

    \b
    moeload-bench import csv counts.csv --top-k 2 --out my-run.parquet
    """
    _import(ctx, path)


@app.command("jsonl", cls=taking(Stepwise))
def from_jsonl(ctx: typer.Context, paths: Sources) -> None:
    """Import JSON Lines: one record per step and layer.

    Each is {"step": 0, "layer": 3, "load": [12, 9, 0, 11], "tokens": 16}. Several files are ranks that routed
    tokens of their own: their counts are added.

    \b
    moeload-bench import jsonl 'loads/rank*.jsonl' --top-k 2 --out my-run.parquet
    """
    _import(ctx, paths)


@app.command("megatron-tokens", cls=taking(Stepwise))
def from_megatron_tokens(
    ctx: typer.Context,
    paths: Sources,
    expert_parallel: Annotated[
        int | None, typer.Option(metavar=INT, min=1, help="Expert-parallel size; needed with several ranks.")
    ] = None,
    pipeline_parallel: Pipeline = None,
    stage_layers: StageLayers = None,
    expert_tensor_parallel: Annotated[
        int,
        typer.Option(metavar=INT, min=1, help="Tensor-parallel size of the experts: ranks that see the same tokens."),
    ] = 1,
) -> None:
    """Import Megatron-LM's tokens per expert.

    Files: rank*.jsonl of all ranks, by --save-tokens-per-expert-interval.

    \b
    moeload-bench import megatron-tokens tokens_per_expert --top-k 8 \\
      --expert-parallel 4 --pipeline-parallel 2 --stage-layers 12 \\
      --out my-run.parquet
    """
    _import(
        ctx,
        paths,
        expert_parallel=expert_parallel,
        pipeline_parallel=pipeline_parallel,
        stage_layers=stage_layers,
        expert_tensor_parallel=expert_tensor_parallel,
    )


@app.command("megatron-routing", cls=taking(Stepwise))
def from_megatron_routing(
    ctx: typer.Context,
    paths: Sources,
    experts: Experts,
    pipeline_parallel: Pipeline = None,
    stage_layers: StageLayers = None,
) -> None:
    """Import Megatron-LM's routing trace.

    Files: router_trace_rank*.jsonl of all ranks, by --moe-routing-trace-path.
    """
    _import(ctx, paths, experts=experts, pipeline_parallel=pipeline_parallel, stage_layers=stage_layers)


@app.command("load-history", cls=taking(Stepwise))
def from_load_history(
    ctx: typer.Context,
    paths: Sources,
    interval: Annotated[
        int, typer.Option(metavar=INT, min=1, max=MAX_INTERVAL, help="Steps whose loads an entry adds up.")
    ] = 1,
) -> None:
    """Import vLLM's load history.

    File: one JSON document, {"load_history": [{"logical_expert_load": [[..]]}]},
    known as expert-load.json.
    """
    _import(ctx, paths, interval=interval)


@app.command("routed", cls=taking(Stepwise))
def from_routed(ctx: typer.Context, paths: Sources, experts: Experts) -> None:
    """Import arrays of routed expert ids.

    Files: .npy and .npz of [tokens, layers, top-k], one array per request or
    batch, as --enable-return-routed-experts of vLLM returns them. -1 is none.

    \b
    moeload-bench import routed 'routed/*.npy' --experts 128 --out run.parquet
    """
    _import(ctx, paths, experts=experts)


@app.command("sglang", cls=taking(Stepwise))
def from_sglang(ctx: typer.Context, paths: Sources) -> None:
    """Import sglang's expert distribution.

    Files: one .pt of mode stat, or those of all ranks of mode per_pass.
    """
    _import(ctx, paths)


@app.command("tensorrt-llm", cls=taking(Stepwise))
def from_tensorrt_llm(
    ctx: typer.Context,
    paths: Sources,
    replicated: Annotated[bool, typer.Option(help="Every rank counts all tokens: take them once.")] = False,
) -> None:
    """Import TensorRT-LLM's expert statistics.

    Files: a folder with meta_info.json and rank*.safetensors.
    """
    _import(ctx, paths, replicated=replicated)


@app.command("smartmoe", cls=taking(Stepwise))
def from_smartmoe(ctx: typer.Context, paths: Sources) -> None:
    """Import SmartMoE-AE's moe_trace: table_iter*_rank*.log."""
    _import(ctx, paths)


@app.command("flame-moe", cls=taking(Stepwise))
def from_flame_moe(
    ctx: typer.Context,
    paths: Sources,
    experts: Experts,
    column: Annotated[str, typer.Option(help="The column of chosen experts.")] = "indices",
) -> None:
    """Import FLAME-MoE's choices of tokens at checkpoints.

    Files: parquet by checkpoint and layer.
    """
    _import(ctx, paths, experts=experts, column=column)


@app.command("wandb", cls=taking(Stepwise))
def from_wandb(
    ctx: typer.Context,
    paths: Sources,
    pattern: Pattern = None,
    step_column: Annotated[str | None, typer.Option(help="The column of steps, where it has an unusual name.")] = None,
    experts: Annotated[
        int | None, typer.Option(metavar=INT, min=1, max=MAX_EXPERTS, help="Experts of a layer: bins of a histogram.")
    ] = None,
    shares: Shares = False,
) -> None:
    """Import a W&B history (.csv, .parquet, .jsonl).

    It has a row per step and a column per layer and expert. Or a histogram per layer, one bin for each expert, in
    parquet or JSON Lines; --pattern then has {l} alone.

    \b
    moeload-bench import wandb history.jsonl --experts 128 --top-k 4 \\
      --out run.parquet
    """
    _import(ctx, paths, pattern=pattern, step_column=step_column, experts=experts, shares=shares)


@app.command("tensorboard", cls=taking(Stepwise))
def from_tensorboard(ctx: typer.Context, paths: Sources, pattern: Pattern = None, shares: Shares = False) -> None:
    """Import scalars of TensorBoard's event files.

    One per layer and expert.
    """
    _import(ctx, paths, pattern=pattern, shares=shares)


@app.command("merge")
def merge(
    paths: Annotated[list[Path], typer.Argument(help="The stages: .parquet, or .parts of an unfinished recording.")],
    out: Annotated[Path, typer.Option(help="The trace to write (.parquet).")],
) -> None:
    """Put traces of pipeline stages together, as one trace.

    It has the layers of all, by their numbers in the model.

    \b
    moeload-bench import merge runs/my-run/test/seed0.stage*.parquet \\
      --out runs/my-run/test/seed0.parquet
    """
    trace = read_trace(merge_stages(paths, out), verify=False)
    size = ((trace.steps, "step"), (trace.num_layers, "layer"), (trace.num_experts, "expert"))
    say(f"{out}: {', '.join(counted(*one) for one in size)}")
