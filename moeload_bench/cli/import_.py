"""`moeload-bench import`: one command per format, with what all of them take."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from moeload_bench.cli.options import INT, FirstLayer, parameters_of, with_signature
from moeload_bench.cli.progress import pair_progress, print_entries, say
from moeload_bench.errors import TraceError, counted
from moeload_bench.interchange.formats import FORMATS
from moeload_bench.interchange.importing import import_from
from moeload_bench.interchange.rows import CutShortWarning, Options

app = typer.Typer(no_args_is_help=True, help="Turn existing counts into a trace: logs of engines, arrays, tables.")

Source = Annotated[Path, typer.Argument(help="The file to read.")]
Sources = Annotated[list[str], typer.Argument(help="Files, folders or globs in quotes.")]
TopK = Annotated[
    int | None, typer.Option(metavar=INT, min=1, help="Experts per token; leave it out when it varies or is unknown.")
]
Tokens = Annotated[
    int | None,
    typer.Option(
        metavar=INT, min=1, help="Tokens entering each layer in each step; else those of the log, else loads / top-k."
    ),
]
Out = Annotated[Path, typer.Option(help="The trace to write (.parquet).")]
Name = Annotated[str, typer.Option(help="The trace's recipe name.")]
Split = Annotated[str, typer.Option(help="train, test or a name of your own.")]
RunNumber = Annotated[int, typer.Option("--run", metavar=INT, min=0, help="Number of the run within its split.")]
Counted = Annotated[
    Literal["pre_drop", "post_drop"] | None,
    typer.Option(
        metavar="<str>",
        help="pre_drop or post_drop: with the tokens over an expert's capacity or without; by default as the format "
        "has it.",
    ),
]
Licence = Annotated[str, typer.Option(help="Licence of the numbers.")]
FirstStep = Annotated[int | None, typer.Option(metavar=INT, min=0, help="The first step to import.")]
LastStep = Annotated[int | None, typer.Option(metavar=INT, min=0, help="The last step to import.")]
Layers = Annotated[str | None, typer.Option(help="The numbers of all MoE layers in the model instead: 3-60, or 1,3,5.")]
MAX_EXPERTS = 1 << 16
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


def _spans(numbers: Sequence[int]) -> str:
    """Return rising numbers as they are given to --layers: 3-60, or 1,3,5."""
    first = [m for m in numbers if m - 1 not in numbers]
    last = [m for m in numbers if m + 1 not in numbers]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(first, last, strict=True))


def _shared(
    out: Out,
    top_k: TopK = None,
    tokens: Tokens = None,
    name: Name = "own",
    split: Split = "test",
    run: RunNumber = 0,
    counted: Counted = None,
    licence: Licence = "unknown",
    first_layer: FirstLayer = None,
    layers: Layers = None,
) -> None:
    """Take the options that every command has in addition to its own."""


def _bounds(first_step: FirstStep = None, last_step: LastStep = None) -> None:
    """Take the options of the commands that read a log step by step."""


def _command(name: str, *, bounds: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a format as a command: its own options are those of the function below, the shared ones are added."""

    def register(own: Callable[..., None]) -> Callable[..., None]:
        functions: list[Callable[..., Any]] = [own, _shared, *([_bounds] if bounds else [])]
        source, *more = parameters_of(own)

        def command(**given: Any) -> None:
            _run(name, given.pop(source), {key: given.pop(key) for key in more}, given)

        parameters = [p for f in functions for p in parameters_of(f).values()]
        app.command(name)(with_signature(command, parameters, own.__doc__))
        return own

    return register


def _run(name: str, source: Any, more: dict[str, Any], given: dict[str, Any]) -> None:
    meta = {"recipe": given["name"], "group": given["name"]} | {key: given[key] for key in ("split", "run", "licence")}
    bounds = given.get("first_step"), given.get("last_step")
    if None not in (given["first_layer"], given["layers"]):
        raise TraceError("--first-layer and --layers: expected one of them")
    numbers = given["first_layer"] if given["layers"] is None else _numbers(given["layers"])
    options = Options(given["top_k"], given["tokens"], given["counted"], *bounds, meta, numbers)
    with pair_progress(unit="bytes") as report, warnings.catch_warnings():
        warnings.simplefilter("ignore", CutShortWarning)  # they are among the notes
        done = import_from(name, source, given["out"], options, report, **more)
    made, indices = done.meta, [layer.index for layer in done.meta.layers]
    sampled = f", one in {made.stride}" if made.stride > 1 else ""
    layers, experts = counted(len(indices), "layer"), counted(made.experts, "expert")
    numbered = "" if indices == list(range(len(indices))) else f" (numbers {_spans(indices)})"
    routed = f"{done.tokens:,} tokens a step, top-{made.top_k}" if made.top_k else "top-k not known"
    say(f"{done.path}: {counted(done.steps, 'step')}{sampled}, {layers}{numbered}, {experts}, {routed}")
    for note in made.notes:
        say(f"note: {note}", err=True)


@app.command("formats")
def formats() -> None:
    """List the formats, what writes each, and what its counts are.

    Details: docs/guide/interchange.md in the project's repository.
    """
    print_entries(
        (f"{one.name}  {one.files}", f"written by: {one.written_by}; counts: {one.counts}") for one in FORMATS
    )


@_command("npz", bounds=False)
def from_npz(path: Source) -> None:
    """Import a NumPy archive.

    Arrays: load [steps, layers, experts], and optionally step [steps], tokens [steps] or [steps, layers], and the
    format's columns (load_half, dropped, loss, lr, ...) with the steps first.

    [bold]moeload-bench import npz counts.npz --top-k 2 --tokens 4096 --out my-run.parquet[/bold]
    """


@_command("csv")
def from_csv(path: Source) -> None:
    """Import a CSV table with a header line.

    Columns: step,layer,expert,load (one count per row) or step,layer,load_0,load_1,... (one layer-step per row), each
    with an optional column tokens. Zeros are written too; rows may come in any order.

    [bold]moeload-bench import csv counts.csv --top-k 2 --out my-run.parquet[/bold]
    """


@_command("jsonl")
def from_jsonl(paths: Sources) -> None:
    """Import JSON Lines: {"step": 0, "layer": 3, "load": [12, 9, 0, 11], "tokens": 16} per step and layer.

    Several files are ranks that routed tokens of their own: their counts are added.

    [bold]moeload-bench import jsonl 'loads/rank*.jsonl' --top-k 2 --out my-run.parquet[/bold]
    """


@_command("megatron-tokens")
def from_megatron_tokens(
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
    """Import Megatron-LM's tokens per expert (--save-tokens-per-expert-interval): rank*.jsonl of all ranks.

    [bold]moeload-bench import megatron-tokens tokens_per_expert --expert-parallel 4 --pipeline-parallel 2
    --stage-layers 12 --top-k 8 --out my-run.parquet[/bold]
    """


@_command("megatron-routing")
def from_megatron_routing(
    paths: Sources, experts: Experts, pipeline_parallel: Pipeline = None, stage_layers: StageLayers = None
) -> None:
    """Import Megatron-LM's routing trace (--moe-routing-trace-path): router_trace_rank*.jsonl of all ranks."""


@_command("sglang")
def from_sglang(paths: Sources) -> None:
    """Import sglang's expert distribution: one .pt of mode stat, or those of all ranks of mode per_pass."""


@_command("tensorrt-llm")
def from_tensorrt_llm(
    paths: Sources,
    replicated: Annotated[bool, typer.Option(help="Every rank counts all tokens: take them once.")] = False,
) -> None:
    """Import TensorRT-LLM's expert statistics: a folder with meta_info.json and rank*.safetensors."""


@_command("smartmoe")
def from_smartmoe(paths: Sources) -> None:
    """Import SmartMoE-AE's moe_trace: table_iter*_rank*.log."""


@_command("flame-moe")
def from_flame_moe(
    paths: Sources,
    experts: Experts,
    column: Annotated[str, typer.Option(help="The column of chosen experts.")] = "indices",
) -> None:
    """Import FLAME-MoE's choices of tokens at checkpoints: parquet files by checkpoint and layer."""


@_command("wandb")
def from_wandb(
    paths: Sources,
    pattern: Pattern = None,
    step_column: Annotated[str | None, typer.Option(help="The column of steps, where it has an unusual name.")] = None,
    experts: Annotated[
        int | None, typer.Option(metavar=INT, min=1, max=MAX_EXPERTS, help="Experts of a layer: bins of a histogram.")
    ] = None,
    shares: Shares = False,
) -> None:
    """Import a W&B history (.csv, .parquet, .jsonl): a row per step, a column per layer and expert.

    Or a histogram per layer, one bin for each expert, in parquet or JSON Lines; --pattern then has {l} alone.

    [bold]moeload-bench import wandb history.jsonl --experts 128 --top-k 4 --out run.parquet[/bold]
    """


@_command("tensorboard")
def from_tensorboard(paths: Sources, pattern: Pattern = None, shares: Shares = False) -> None:
    """Import scalars of TensorBoard's event files, one per layer and expert."""
