"""A sign of life while something takes seconds: on stderr, and only on a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["waiting_for"]


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Show that `what` is under way until the block ends."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
