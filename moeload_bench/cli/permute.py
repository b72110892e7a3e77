"""`moeload-bench permute`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from moeload_bench.cli.progress import pair_progress, say
from moeload_bench.errors import counted
from moeload_bench.interchange.checkpoints import permute_checkpoint, read_orders


def permute(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a Hugging Face checkpoint: config.json, .safetensors.")],
    placement: Annotated[Path, typer.Option(help="The plan: what `plan --write FILE --format json` wrote.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not exist.")],
    as_json: Annotated[bool, typer.Option("--json", help="What was done, as one JSON object.")] = False,
) -> None:
    """Put the experts of a checkpoint in the order of a plan, for engines that place experts by number.

    The model computes the same: weights and rows of the router move together. Device d then holds experts
    d * E / D to (d + 1) * E / D - 1 of the new numbers. The plan must hold each expert once (`plan --slots E`). Traces
    recorded with the old numbers do not fit the new ones.

    [bold]moeload-bench permute my-model --placement placement.json --out my-model-placed[/bold]
    """
    orders = read_orders(placement)
    with pair_progress(as_json, "bytes") as report:
        done = permute_checkpoint(checkpoint, orders, out, report)
    if as_json:
        say(json.dumps(asdict(done)))
        return
    say(
        f"{out}: {len(done.layers)} of {counted(len(done.moe_layers), 'MoE layer')} in a new order: "
        f"{counted(done.renamed, 'tensor')} renamed, {done.reordered} reordered by rows"
    )
    if done.left_out:
        say(f"not taken along: {', '.join(done.left_out)}")
