"""Options that several commands share, written once: their declarations, and groups that make one value of several.

A command takes the options of a group's function in the place of one parameter (`with_options`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.main import get_command

from moeload_bench.errors import TraceError, printable


def check_ending(option: str, path: Path, *endings: str) -> None:
    """Raise `TraceError` for the name of a file to write that has another ending."""
    if path.suffix not in endings:
        raise TraceError(f"{option} is {printable(str(path))}, expected a file name that ends in {endings[0]}")


def no_trace(target: Path | None) -> Path | None:
    """Return the file to write, as given; raise `TraceError` if a trace lies there, the command's own or another.

    An earlier output of that name is replaced. Only recordings are protected, because they cannot be made again.
    """
    if target is not None and target.exists():
        from moeload_bench.traces.store import refuse_trace_at

        refuse_trace_at(target)
    return target


TraceArgument = Annotated[str, typer.Argument(help="An id (RECIPE/SPLIT/seedN), a .parquet file or a .parts folder.")]
TARGET = "A baseline's name, FILE.py:Class or package.module:Class, with optional @key=value,..."
Forecaster = Annotated[str, typer.Option(help=TARGET)]
ModelLayers = Annotated[
    int | None,
    typer.Option(metavar="<int>", min=1, help="Layers of the model, dense ones included: sglang's file has them all."),
]
Seed = Annotated[int, typer.Option(help="Seed of the forecaster.")]
Level = Annotated[str, typer.Option(help="Isolation: none, process or sandbox.")]
Jobs = Annotated[int, typer.Option(min=1, help="How many runs at a time.")]
FindLinks = Annotated[Path | None, typer.Option(help="A folder of wheels for the requirements.")]
NoIndex = Annotated[bool, typer.Option("--no-index", help="Take wheels from --find-links only.")]

INT = "<int>"
"""Shorter than `<int range>`, so that the longest option's name has its place in 80 columns."""
FirstLayer = Annotated[
    int | None,
    typer.Option(metavar=INT, min=0, help="Number in the model of the first MoE layer, if the source numbers from 0."),
]


def taking(record: type) -> type[TyperCommand]:
    """Return the class of commands that take a record's fields as options, too, and find the record as ``ctx.obj``.

    The fields of the record, a frozen dataclass, are annotated as the parameters of a command are.
    """
    apart = typer.Typer(add_completion=False)
    apart.command()(record)
    make = get_command(apart)

    class Taking(TyperCommand):
        def __init__(self, name: str | None, *, params: list[Any], **settings: Any) -> None:
            super().__init__(name, params=[*params, *make.params], **settings)

        def invoke(self, ctx: Any) -> Any:
            assert make.callback is not None
            ctx.obj = make.callback(**{str(one.name): ctx.params.pop(one.name) for one in make.params})
            return super().invoke(ctx)

    return Taking


def with_signature(
    command: Callable[..., Any], parameters: Iterable[inspect.Parameter], doc: str | None
) -> Callable[..., Any]:
    """Return ``command``, which takes keywords, with the signature that the command line is made from.

    All parameters become keywords, so that required ones may follow those with defaults.
    """
    keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    command.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in keywords}
    command.__doc__ = doc
    return command


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters by name, with their annotations resolved."""
    return dict(inspect.signature(function, eval_str=True).parameters)


def with_options(**groups: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Replace each parameter that is named for a group by the options of the group's function.

    The parameter gets what the function makes of them. A group's function may take a group itself.
    """

    def grouped(command: Callable[..., Any]) -> Callable[..., Any]:
        taken = {name: parameters_of(group) for name, group in groups.items()}

        def run(**given: Any) -> Any:
            made = {name: groups[name](**{one: given.pop(one) for one in taken[name]}) for name in groups}
            return command(**made, **given)

        own = parameters_of(command).items()
        parameters = [p for name, one in own for p in taken.get(name, {name: one}).values()]
        return with_signature(run, parameters, command.__doc__)

    return grouped
