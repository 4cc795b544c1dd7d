"""Command groups that import a command only when it is called.

A group is given a table of names, one-line summaries and import addresses. `--help` prints the
table; nothing else is loaded, so the command line answers at once.
"""

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click

__all__ = ["LazyCommand", "LazyGroup"]


class LazyCommand(NamedTuple):
    """Where a command lives, and what its group says about it."""

    address: str
    """`module:attribute` of the click command."""
    summary: str
    """The line in the group's `--help`; the command's own first line."""


class LazyGroup(click.Group):
    """A click group whose commands are imported on first use."""

    # Any: click's constructor takes whatever a decorator was given.
    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.lazy.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.address.partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self.lazy.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in self.lazy:
            near = difflib.get_close_matches(name, self.lazy, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"one of: {', '.join(self.lazy)}"
            raise click.UsageError(f"no command {name!r}; {hint}", ctx=ctx)
        return super().resolve_command(ctx, args)
