"""Questions before what cannot be undone: on stderr, and only where there is somebody to answer."""

import sys

import click

from tinsmith.core.errors import UserError

__all__ = ["is_confirmed", "require_terminal"]


def require_terminal(what: str) -> None:
    """Check that there is somebody to ask before `what` is done.

    Raises:
        UserError: there is nobody.
    """
    if not sys.stdin.isatty():
        raise UserError(f"{what}, and there is no terminal to ask on", hint="add --yes")


def is_confirmed(question: str, *, what: str) -> bool:
    """Ask for leave to do `what`; no is the default.

    Raises:
        UserError: there is nobody to ask.
    """
    require_terminal(what)
    return click.confirm(question, err=True)
