"""The command line: assembles the commands; each lives in `moeload_bench.cli` and imports what it needs late."""

from __future__ import annotations

from typing import Annotated

import typer

from moeload_bench.cli import (
    check,
    corpora,
    export,
    import_,
    merge,
    plan,
    plot,
    publish,
    recipes,
    record,
    reproduce,
    rescore,
    run,
    season,
    submit,
    traces,
    validate,
    verify,
)

app = typer.Typer(
    name="moeload-bench",
    help="Traces and a benchmark for forecasting expert load while Mixture-of-Experts models train.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("moeload-bench"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


app.add_typer(traces.app, name="traces")
app.command("validate")(validate.validate)
app.command("check")(check.check)
app.command("run")(run.run)
app.command("rescore")(rescore.rescore)
app.command("publish")(publish.publish)
app.command("submit")(submit.submit)
app.command("verify")(verify.verify)
app.command("record")(record.record)
app.add_typer(recipes.app, name="recipes")
app.add_typer(corpora.app, name="corpora")
app.add_typer(season.app, name="season")
app.add_typer(plot.app, name="plot")
app.command("plan")(plan.plan)
app.add_typer(import_.app, name="import")
app.add_typer(export.app, name="export")
app.command("merge")(merge.merge)
app.add_typer(reproduce.app, name="reproduce")
