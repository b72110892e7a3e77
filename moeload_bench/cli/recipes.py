"""`moeload-bench recipes list|show`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(help="See the training configurations that can be recorded.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the recipes and what each is for."""
    from rich.table import Table

    from moeload_bench.cli.progress import plain_console
    from moeload_bench.recipes.recipe import list_recipes, load_recipe

    recipes = [load_recipe(name) for name in list_recipes()]
    if as_json:
        typer.echo(json.dumps([{"name": r.name, "version": r.version, "about": r.about} for r in recipes], indent=1))
        return
    table = Table(show_lines=True)
    table.add_column("recipe", no_wrap=True)
    table.add_column("steps x tokens", no_wrap=True)
    table.add_column("what for")
    for r in recipes:
        table.add_row(r.name, f"{r.steps} x {r.data.sequences * r.data.sequence_length}", r.about)
    plain_console().print(table)


@app.command("show")
def show(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or a .toml file.")],
    as_json: AsJson = False,
) -> None:
    """Show a recipe as it is read: every key with its value, defaults included."""
    from moeload_bench.recipes.recipe import load_recipe

    loaded = load_recipe(recipe)
    if as_json:
        typer.echo(loaded.model_dump_json(indent=1))
        return
    from moeload_bench.cli.progress import plain_console
    from moeload_bench.errors import printable

    console = plain_console()
    for key, value in loaded.model_dump().items():
        if isinstance(value, dict):
            console.print(key, style="bold")
            for name, item in value.items():
                console.print(printable(f"  {name} = {item}"))
        else:
            console.print(printable(f"{key} = {value}"))
