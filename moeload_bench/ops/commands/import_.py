"""`moeload-bench import`: one command per format, with what all of them take, and `import merge`."""

from __future__ import annotations

import functools
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand
from typer.main import get_command

from moeload_bench.cli.options import INT, FirstLayer
from moeload_bench.cli.progress import pair_progress, print_entries, say
from moeload_bench.errors import TraceError, counted
from moeload_bench.ops.interchange.importing import FORMATS, import_from
from moeload_bench.ops.interchange.model_layers import read_layers
from moeload_bench.ops.interchange.rows import CutShortWarning, Imported, Options, spans
from moeload_bench.recording.stages import merge_stages
from moeload_bench.traces.store import read_trace

app = typer.Typer(no_args_is_help=True, help="Turn counts of engines, arrays and tables into a trace.")

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


def common(
    out: Annotated[Path, typer.Option(help="The trace to write (.parquet).")],
    top_k: Annotated[
        int | None, typer.Option(metavar=INT, min=1, help="Experts per token, if fixed and known.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            metavar=INT, min=1, help="Tokens entering each layer in each step; else the log's, else loads / top-k."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="The trace's recipe name.")] = "own",
    split: Annotated[str, typer.Option(help="train, test or a name of your own.")] = "test",
    run: Annotated[int, typer.Option(metavar=INT, min=0, help="Number of the run within its split.")] = 0,
    counted: Annotated[
        Literal["pre_drop", "post_drop"] | None,
        typer.Option(
            metavar="<str>",
            help="pre_drop or post_drop: with the tokens over an expert's capacity or without; by default as the "
            "format has it.",
        ),
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the numbers.")] = "unknown",
    first_layer: FirstLayer = None,
    layers: Annotated[
        str | None, typer.Option(help="The numbers of all MoE layers in the model instead: 3-60, or 1,3,5.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="The model's config.json instead: it says which layers are MoE layers.")
    ] = None,
    first_step: Annotated[int | None, typer.Option(metavar=INT, min=0, help="The first step to import.")] = None,
    last_step: Annotated[int | None, typer.Option(metavar=INT, min=0, help="The last step to import.")] = None,
) -> tuple[Path, Options]:
    """Return the trace to write and what the user says of the log: the options that every format has."""
    if [first_layer, layers, model].count(None) < 2:
        raise TraceError("--first-layer, --layers and --model: expected one of them")
    meta = {"recipe": name, "group": name, "split": split, "run": run, "licence": licence}
    options = Options(top_k, tokens, counted, first_step, last_step, meta)
    if model is not None:
        numbers = read_layers(model)
        return out, replace(options, layers=numbers.decoder + numbers.predicting, predicting=numbers.predicting)
    return out, replace(options, layers=first_layer if layers is None else _numbers(layers))


_shared = typer.Typer(add_completion=False)
_shared.command()(common)


class ImportCommand(TyperCommand):
    """The command of a format: a function declares its help and its own options, and this imports the log."""

    shared = get_command(_shared)

    def __init__(self, name: str | None, *, params: list[Any], **settings: Any) -> None:
        super().__init__(name, params=[*params, *self.shared.params], **settings)

    def invoke(self, ctx: Any) -> None:
        """Import the files that the call names, and say what the trace holds."""
        own = dict(ctx.params)
        shared = {str(param.name): own.pop(param.name) for param in self.shared.params}
        assert self.shared.callback is not None
        out, options = self.shared.callback(**shared)
        with pair_progress(unit="bytes") as report, warnings.catch_warnings():
            warnings.simplefilter("ignore", CutShortWarning)  # they are among the notes
            done = import_from(str(self.name), own.pop("paths"), out, options, report, **own)
        _say_imported(done)


format_command = functools.partial(app.command, cls=ImportCommand)


def _say_imported(done: Imported) -> None:
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
        (f"{row.name}  {row.files}", f"written by: {row.written_by}; counts: {row.counts}") for row in FORMATS
    )


@format_command("npz")
def from_npz(paths: Sources) -> None:
    """Import arrays or tensors.

    A NumPy archive has load [steps, layers, experts], and optionally step [steps], tokens [steps] or [steps, layers],
    and the format's columns (load_half, dropped, loss, lr, ...) with the steps first. A bare .npy or tensor is load; a
    .pt file may hold a list of tensors [layers, experts], a step each, or a dict of these names.

    \b
    moeload-bench import npz counts.npz --top-k 2 --tokens 4096 --out run.parquet
    """


@format_command("csv")
def from_csv(paths: Sources) -> None:
    """Import a CSV table with a header line.

    Columns: step,layer,expert,load (one count per row) or step,layer,load_0,load_1,... (one layer-step per row), each
    with an optional column tokens. Zeros are written too; rows may come in any order.

    \b
    moeload-bench import csv counts.csv --top-k 2 --out my-run.parquet
    """


@format_command("jsonl")
def from_jsonl(paths: Sources) -> None:
    """Import JSON Lines: one record per step and layer.

    Each is {"step": 0, "layer": 3, "load": [12, 9, 0, 11], "tokens": 16}. Several files are ranks that routed
    tokens of their own: their counts are added.

    \b
    moeload-bench import jsonl 'loads/rank*.jsonl' --top-k 2 --out my-run.parquet
    """


@format_command("megatron-tokens")
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
    """Import Megatron-LM's tokens per expert.

    Files: rank*.jsonl of all ranks, by --save-tokens-per-expert-interval.

    \b
    moeload-bench import megatron-tokens tokens_per_expert --top-k 8 \\
      --expert-parallel 4 --pipeline-parallel 2 --stage-layers 12 \\
      --out my-run.parquet
    """


@format_command("megatron-routing")
def from_megatron_routing(
    paths: Sources,
    experts: Experts,
    pipeline_parallel: Pipeline = None,
    stage_layers: StageLayers = None,
) -> None:
    """Import Megatron-LM's routing trace.

    Files: router_trace_rank*.jsonl of all ranks, by --moe-routing-trace-path.
    """


@format_command("load-history")
def from_load_history(
    paths: Sources,
    interval: Annotated[
        int, typer.Option(metavar=INT, min=1, max=MAX_INTERVAL, help="Steps whose loads an entry adds up.")
    ] = 1,
) -> None:
    """Import vLLM's load history.

    File: one JSON document, {"load_history": [{"logical_expert_load": [[..]]}]},
    known as expert-load.json.
    """


@format_command("routed")
def from_routed(paths: Sources, experts: Experts) -> None:
    """Import arrays of routed expert ids.

    Files: .npy and .npz of [tokens, layers, top-k], one array per request or
    batch, as --enable-return-routed-experts of vLLM returns them. -1 is none.

    \b
    moeload-bench import routed 'routed/*.npy' --experts 128 --out run.parquet
    """


@format_command("sglang")
def from_sglang(paths: Sources) -> None:
    """Import sglang's expert distribution.

    Files: one .pt of mode stat, or those of all ranks of mode per_pass.
    """


@format_command("ultra-ep")
def from_ultra_ep(
    paths: Sources,
    micro_batches: Annotated[
        int,
        typer.Option(metavar=INT, min=1, max=MAX_INTERVAL, help="Micro-batches of a step, which the files do not say."),
    ],
) -> None:
    """Import UltraEP's load traces.

    Files: NAME.manifest.json and NAME.chunk*.npz of one group, or of all that
    hold the same layers. They have no steps: M micro-batches make one.

    \b
    moeload-bench import ultra-ep ultra_ep_traces --micro-batches 8 --top-k 8 \\
      --out run.parquet
    """


@format_command("flame-moe")
def from_flame_moe(
    paths: Sources,
    experts: Experts,
    column: Annotated[str, typer.Option(help="The column of chosen experts.")] = "indices",
) -> None:
    """Import FLAME-MoE's choices of tokens at checkpoints.

    Files: parquet by checkpoint and layer.
    """


@format_command("wandb")
def from_wandb(
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


@format_command("tensorboard")
def from_tensorboard(paths: Sources, pattern: Pattern = None, shares: Shares = False) -> None:
    """Import scalars of TensorBoard's event files.

    One per layer and expert.
    """


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
    say(f"{out}: {', '.join(counted(*axis) for axis in size)}")
