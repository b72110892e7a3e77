"""`moeload-bench import`: one command per format, with what all of them take."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from moeload_bench.cli.options import parameters_of, with_signature
from moeload_bench.cli.progress import pair_progress, print_entries
from moeload_bench.errors import counted
from moeload_bench.interchange.flame_moe import read_flame_moe
from moeload_bench.interchange.formats import FORMATS
from moeload_bench.interchange.jsonlines import read_jsonl
from moeload_bench.interchange.laer_moe import read_laer_moe
from moeload_bench.interchange.megatron import Layout, read_tokens, read_trace
from moeload_bench.interchange.npz import import_npz
from moeload_bench.interchange.rows import CutShortWarning, Log, Options, write_log
from moeload_bench.interchange.sglang import read_sglang
from moeload_bench.interchange.smartmoe import read_smartmoe
from moeload_bench.interchange.table import read_csv
from moeload_bench.interchange.tensorboard import read_tensorboard
from moeload_bench.interchange.tensorrt_llm import read_tensorrt_llm
from moeload_bench.interchange.wandb import read_wandb
from moeload_bench.traces.store import write_trace

app = typer.Typer(
    no_args_is_help=True, help="Turn counts that somebody has already into a trace: logs of engines, arrays, tables."
)

Source = Annotated[Path, typer.Argument(help="The file to read.")]
Sources = Annotated[list[str], typer.Argument(help="Files, folders or globs in quotes.")]
TopK = Annotated[int | None, typer.Option(min=1, help="Experts per token; leave it out when it varies or is unknown.")]
Tokens = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens entering each layer in each step; else those of the log, else loads / top-k."),
]
Out = Annotated[Path, typer.Option(help="The trace to write (.parquet).")]
Name = Annotated[str, typer.Option(help="The trace's recipe name.")]
Split = Annotated[str, typer.Option(help="train or test.")]
RunNumber = Annotated[int, typer.Option("--run", min=0, help="Number of the run within its split.")]
Counted = Annotated[
    Literal["pre_drop", "post_drop"] | None,
    typer.Option(help="Whether tokens over an expert's capacity are in the counts; by default as the format has it."),
]
Licence = Annotated[str, typer.Option(help="Licence of the numbers.")]
FirstStep = Annotated[int | None, typer.Option(min=0, help="The first step to import.")]
LastStep = Annotated[int | None, typer.Option(min=0, help="The last step to import.")]
Experts = Annotated[int, typer.Option(min=1, help="Experts of a layer, which the files do not say.")]
Pattern = Annotated[
    str | None, typer.Option(help="Names of the values, {l} for the layer and {e} for the expert: moe/{l}/{e}.")
]
Pipeline = Annotated[int, typer.Option(min=1, help="Pipeline stages.")]
StageLayers = Annotated[
    int | None, typer.Option(min=1, help="Transformer layers of one pipeline stage, dense ones included.")
]


_SUPPLIED = ("options", "report")


def _shared(
    out: Out,
    top_k: TopK = None,
    tokens: Tokens = None,
    name: Name = "own",
    split: Split = "test",
    run: RunNumber = 0,
    counted: Counted = None,
    licence: Licence = "unknown",
) -> None:
    """What every command takes beside its own arguments."""


def _bounds(first_step: FirstStep = None, last_step: LastStep = None) -> None:
    """What the commands that read a log step by step take too."""


def _command(name: str, *, bounds: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register ``read``, which makes a `Log` or a `Trace` of its own arguments, as a command with the shared ones."""

    def register(read: Callable[..., Any]) -> Callable[..., Any]:
        functions: list[Callable[..., Any]] = [read, _shared, *([_bounds] if bounds else [])]
        asked = [p for f in functions for p in parameters_of(f).values()]
        parameters = [p for p in asked if p.name not in _SUPPLIED]
        own = [name for name in parameters_of(read) if name not in _SUPPLIED]

        def command(**given: Any) -> None:
            _run(read, {key: given.pop(key) for key in own}, given)

        app.command(name)(with_signature(command, parameters, read.__doc__))
        return read

    return register


def _run(read: Callable[..., Any], own: dict[str, Any], given: dict[str, Any]) -> None:
    with pair_progress(unit="bytes") as report:
        _write(read, {**own, "report": report}, given)


def _write(read: Callable[..., Any], own: dict[str, Any], given: dict[str, Any]) -> None:
    out, name = given["out"], given["name"]
    meta = {"recipe": name, "split": given["split"], "run": given["run"], "group": name, "licence": given["licence"]}
    options = Options(
        given["top_k"], given["tokens"], given["counted"], given.get("first_step"), given.get("last_step"), meta
    )
    found = read(**own) if "first_step" in given else read(options=options, **own)
    if isinstance(found, Log):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CutShortWarning)  # they are among the notes
            done = write_log(found, out, options)
        steps, layers, experts, notes = done.steps, done.layers, done.experts, done.notes
        sampled = f", one in {done.stride}" if done.stride > 1 else ""
    else:
        write_trace(found, out)
        steps, layers, experts, notes, sampled = found.steps, found.num_layers, found.num_experts, (), ""
    typer.echo(f"{out}: {counted(steps, 'step')}{sampled}, {counted(layers, 'layer')}, {counted(experts, 'expert')}")
    for note in notes:
        typer.echo(f"note: {note}", err=True)


def _meta(options: Any) -> dict[str, Any]:
    """Fields of the metadata for the readers of whole files (npz, csv)."""
    # without top-k nothing can be said about drops, and nothing is checked against the tokens
    counted = options.counted or "pre_drop"
    return {
        "count_semantics": counted if options.top_k is not None or counted == "post_drop" else "unknown",
        **options.meta,
    }


@app.command("formats")
def formats() -> None:
    """List the formats, what writes each, and what its counts are. Details: docs/guide/interchange.md."""
    print_entries(
        (f"{one.name}  {one.files}", f"written by: {one.written_by}; counts: {one.counts}") for one in FORMATS
    )


@_command("npz", bounds=False)
def from_npz(path: Source, *, options: Any, report: Any) -> Any:
    """Import a NumPy archive.

    Arrays: load [steps, layers, experts], and optionally step [steps], tokens [steps] or [steps, layers], and the
    format's columns (load_half, dropped, loss, lr, ...) with the steps first.

    [bold]moeload-bench import npz counts.npz --top-k 2 --tokens 4096 --out my-run.parquet[/bold]
    """
    return import_npz(path, options.top_k, options.tokens, **_meta(options))


@_command("csv")
def from_csv(path: Source, *, report: Any) -> Any:
    """Import a CSV table with a header line.

    Columns: step,layer,expert,load (one count per row) or step,layer,load_0,load_1,... (one layer-step per row), each
    with an optional column tokens. Zeros are written too; rows may come in any order.

    [bold]moeload-bench import csv counts.csv --top-k 2 --out my-run.parquet[/bold]
    """
    return read_csv(path, report)


@_command("jsonl")
def from_jsonl(paths: Sources, *, report: Any) -> Any:
    """Import JSON Lines: {"step": 0, "layer": 3, "load": [12, 9, 0, 11], "tokens": 16} per step and layer.

    Several files are ranks that routed tokens of their own: their counts are added.

    [bold]moeload-bench import jsonl 'loads/rank*.jsonl' --top-k 2 --out my-run.parquet[/bold]
    """
    return read_jsonl(paths, report)


@_command("megatron-tokens")
def from_megatron_tokens(
    paths: Sources,
    expert_parallel: Annotated[int, typer.Option(min=1, help="Expert-parallel size.")] = 1,
    pipeline_parallel: Pipeline = 1,
    stage_layers: StageLayers = None,
    expert_tensor_parallel: Annotated[
        int, typer.Option(min=1, help="Tensor-parallel size of the experts: ranks that see the same tokens.")
    ] = 1,
    *,
    report: Any,
) -> Any:
    """Import Megatron-LM's tokens per expert (--save-tokens-per-expert-interval): rank*.jsonl of all ranks.

    [bold]moeload-bench import megatron-tokens tokens_per_expert --expert-parallel 4 --pipeline-parallel 2
    --stage-layers 12 --top-k 8 --out my-run.parquet[/bold]
    """
    return read_tokens(paths, Layout(expert_parallel, pipeline_parallel, stage_layers, expert_tensor_parallel), report)


@_command("megatron-routing")
def from_megatron_routing(
    paths: Sources,
    experts: Experts,
    pipeline_parallel: Pipeline = 1,
    stage_layers: StageLayers = None,
    *,
    report: Any,
) -> Any:
    """Import Megatron-LM's routing trace (--moe-routing-trace-path): router_trace_rank*.jsonl of all ranks."""
    return read_trace(paths, experts, Layout(1, pipeline_parallel, stage_layers), report)


@_command("sglang")
def from_sglang(paths: Sources, *, report: Any) -> Any:
    """Import sglang's expert distribution: one .pt of mode stat, or those of all ranks of mode per_pass."""
    return read_sglang(paths, report)


@_command("tensorrt-llm")
def from_tensorrt_llm(
    paths: Sources,
    replicated: Annotated[bool, typer.Option(help="Every rank counts all tokens: take them once.")] = False,
    *,
    report: Any,
) -> Any:
    """Import TensorRT-LLM's expert statistics: a folder with meta_info.json and rank*.safetensors."""
    return read_tensorrt_llm(paths, replicated=replicated, report=report)


@_command("smartmoe")
def from_smartmoe(paths: Sources, *, report: Any) -> Any:
    """Import SmartMoE-AE's moe_trace: table_iter*_rank*.log."""
    return read_smartmoe(paths, report)


@_command("laer-moe")
def from_laer_moe(
    paths: Sources,
    device_loads: Annotated[bool, typer.Option(help="Import devices in the place of experts.")] = False,
    method: Annotated[str | None, typer.Option(help="The method whose rows are wanted.")] = None,
    model: Annotated[str | None, typer.Option(help="The model whose rows are wanted.")] = None,
    *,
    report: Any,
) -> Any:
    """Import LAER-MoE-AE's tokens per device, if --device-loads says so: it holds no loads of experts."""
    return read_laer_moe(paths, device_loads=device_loads, method=method, model=model, report=report)


@_command("flame-moe")
def from_flame_moe(
    paths: Sources,
    experts: Experts,
    column: Annotated[str, typer.Option(help="The column of chosen experts.")] = "indices",
    *,
    report: Any,
) -> Any:
    """Import FLAME-MoE's choices of tokens at checkpoints: parquet files by checkpoint and layer."""
    return read_flame_moe(paths, experts, column=column, report=report)


@_command("wandb")
def from_wandb(
    paths: Sources,
    pattern: Pattern = None,
    step_column: Annotated[str | None, typer.Option(help="The column of steps, where it has an unusual name.")] = None,
    *,
    report: Any,
) -> Any:
    """Import a table with one row per step and one column per layer and expert: a W&B history, or any such CSV."""
    return read_wandb(paths, pattern=pattern, step_column=step_column, report=report)


@_command("tensorboard")
def from_tensorboard(paths: Sources, pattern: Pattern = None, *, report: Any) -> Any:
    """Import scalars of TensorBoard's event files, one per layer and expert."""
    return read_tensorboard(paths, pattern=pattern, report=report)
