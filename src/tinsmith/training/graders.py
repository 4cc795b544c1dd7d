"""Graders: how good a sampled answer is, 0 to 1, by comparing it with the one in the data.

A grader is a function of the sampled text and the expected answer. Those of installed packages are
found by the entry points `tinsmith.graders`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from tinsmith.core.errors import ConfigError, unknown_name
from tinsmith.data import final_answer

Grader = Callable[[str, str], float]
_GROUP = "tinsmith.graders"


def exact(text: str, answer: str) -> float:
    """1 if the texts are the same but for space around them."""
    return float(text.strip() == answer.strip())


def contains(text: str, answer: str) -> float:
    """1 if the answer stands somewhere in the text, in any case of letters."""
    return float(final_answer(answer).casefold() in text.casefold())


def same_final_answer(text: str, answer: str) -> float:
    """1 if both end in the same answer: what is boxed, or after `####`, or all of the text."""
    return float(final_answer(text) == final_answer(answer))


GRADERS: Mapping[str, Grader] = MappingProxyType(
    {"exact": exact, "contains": contains, "final_answer": same_final_answer}
)


def get_grader(name: str) -> Grader:
    """A grader by name.

    Raises:
        UnknownNameError: No such grader.
    """
    return GRADERS[name] if name in GRADERS else load_entry_point(_GROUP, name, GRADERS, "grader")


def load_entry_point(group: str, name: str, built_in: Mapping[str, Any], kind: str) -> Any:
    """What an installed package offers under a name.

    Raises:
        UnknownNameError: No package offers it.
        ConfigError: One does, and it cannot be loaded.
    """
    found = {point.name: point for point in entry_points(group=group)}
    if name not in found:
        raise unknown_name(kind, name, sorted({*built_in, *found}))
    try:
        return found[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{kind}={name!r}: {found[name].value} cannot be loaded: {error}",
            field=kind,
            hint="repair or uninstall the package that declares it",
        ) from error
