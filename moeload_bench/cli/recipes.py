"""`moeload-bench recipes list|show`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from moeload_bench.cli.progress import plain_console, print_entries
from moeload_bench.errors import printable
from moeload_bench.recipes.recipe import list_recipes, load_recipe, recipe_file

app = typer.Typer(help="See the training configurations that can be recorded.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the recipes and what each is for."""
    recipes = [load_recipe(name) for name in list_recipes()]
    if as_json:
        typer.echo(json.dumps([{"name": r.name, "version": r.version, "about": r.about} for r in recipes], indent=1))
        return
    width = max(len(r.name) for r in recipes)
    sizes = {r.name: f"{r.steps:,} x {r.data.sequences * r.data.sequence_length:,}" for r in recipes}
    print_entries((f"{r.name:{width}}  {sizes[r.name]}", r.about) for r in recipes)
    plain_console().print("Steps x tokens of a step. One to copy and change: moeload-bench recipes show NAME --toml")


@app.command("show")
def show(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or a .toml file.")],
    as_json: AsJson = False,
    toml: Annotated[bool, typer.Option("--toml", help="The file itself, to copy and change.")] = False,
) -> None:
    """Show a recipe as it is read: every key with its value, defaults included.

    [bold]moeload-bench recipes show qwen3moe-tiny-8e --toml > mine.toml[/bold]   then: record mine.toml
    """
    loaded = load_recipe(recipe)
    if toml:
        typer.echo(recipe_file(recipe).read_text(encoding="utf-8"), nl=False)
        return
    if as_json:
        typer.echo(loaded.model_dump_json(indent=1))
        return

    console = plain_console()
    for key, value in loaded.model_dump().items():
        if isinstance(value, dict):
            console.print(key, style="bold")
            for name, item in value.items():
                console.print(printable(f"  {name} = {item}"))
        else:
            console.print(printable(f"{key} = {value}"))
