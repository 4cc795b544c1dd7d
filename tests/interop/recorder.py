"""Which public methods of the official clients, and which of its commands, the tests call."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest

CLASSES = ("ServiceClient", "TrainingClient", "SamplingClient", "RestClient", "AdminClient")
CALLED: set[str] = set()
"""`Class.method` as a test called it, and the words of each command that one ran."""
COLLECTED: set[Path] = set()
"""The modules of this run."""


def public_methods(package: Any) -> Iterator[tuple[type, str]]:
    """Every public method of the clients, the inherited ones too."""
    for name in CLASSES:
        cls = getattr(package, name)
        for method, value in inspect.getmembers(cls, callable):
            if not method.startswith("_"):
                assert callable(value)
                yield cls, method


def commands(group: click.Command, words: tuple[str, ...] = ()) -> Iterator[str]:
    """The words of every command below a group."""
    if not isinstance(group, click.Group):
        yield " ".join(words)
        return
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield from commands(command, (*words, name))


@contextmanager
def recorded(package: Any) -> Iterator[None]:
    """Note every call that a module of the tests makes; the package's own do not count."""
    with pytest.MonkeyPatch.context() as patch:
        for cls, name in public_methods(package):
            given = inspect.getattr_static(cls, name)
            label = f"{cls.__name__}.{name}"
            if isinstance(given, (staticmethod, classmethod)):
                patch.setattr(cls, name, type(given)(_noting(given.__func__, label)))
            else:
                patch.setattr(cls, name, _noting(given, label))
        yield


def _noting(function: Callable[..., Any], label: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if sys._getframe(1).f_globals.get("__name__", "").startswith("tests."):
            CALLED.add(label)
        return function(*args, **kwargs)

    return call
