"""Command lines whose commands are listed from a table; a command's module is imported when the command is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group


@dataclass(frozen=True)
class CommandTable:
    """The commands of a program.

    ``about``: a name to its line of help. ``module_of``: a name to the module that holds the command.
    """

    about: Mapping[str, str]
    module_of: Callable[[str], str]


class LazyCommands(TyperGroup):
    """A group that knows its commands from a table."""

    table: ClassVar[CommandTable]

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the table."""
        return list(self.table.about)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a stand-in that holds a command's line of help; None for an unknown name."""
        about = self.table.about.get(cmd_name)
        return about and TyperCommand(cmd_name, short_help=about)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command itself, for the arguments that name it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load_command(str(name), self.table.module_of(str(name))), rest


def lazy_app(name: str, about: str, table: CommandTable) -> typer.Typer:
    """Make a command line of the commands of a table."""
    return typer.Typer(
        name=name,
        cls=type("Commands", (LazyCommands,), {"table": table}),
        callback=lambda: None,  # without one, typer refuses an application that lists no command itself
        help=about,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def load_command(name: str, module_name: str) -> Any:
    """Return a command with its options: the group ``app`` of its module, or the function that is named as it is."""
    module = import_module(module_name)
    outer = typer.Typer(add_completion=False, rich_markup_mode=None)
    if hasattr(module, "app"):
        outer.add_typer(module.app, name=name)
    else:
        function = name.replace("-", "_")
        outer.command(name)(getattr(module, function, None) or getattr(module, f"{function}_"))
    return get_group(outer).commands[name]
