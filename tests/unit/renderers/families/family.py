"""One row of the parity suites: a renderer, its template and vocabulary, and known differences."""

import copy
import datetime
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest

from tests.assets import REPOSITORY, asset
from tinsmith.renderers import Feature, Message, Renderer, get_renderer, get_tokenizer

GOLDEN = REPOSITORY / "tests" / "golden"
NOW = datetime.datetime(2025, 6, 28, 12)
"""What the clock says in the golden files, for templates that read it."""

Chat = tuple[list[Message], list[dict[str, Any]]]
"""Messages and tools."""


@dataclass(frozen=True)
class Family:
    """One renderer and what proves it."""

    renderer: str
    golden: str
    """Golden file of the assets; empty where none has these options."""
    template: str
    """Name of the template in the assets; empty where it is not at hand."""
    tokenizer: str
    """Folder of the vocabulary."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Template variables that ask for what the renderer writes."""
    renderer_options: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    """Golden conversations, by id, tag or "has thinking", that the renderer refuses, and why."""
    differs: Mapping[str, str] = field(default_factory=dict)
    """Golden conversations, by id or by tag, that it writes otherwise, and why."""
    extends: bool = True
    """Whether the renderer must have the extension property."""
    always_thinks: bool = False
    """The prompt opens thinking, so that an answer without any shares a token with the prompt."""
    declares_tools: bool = True
    """Whether the template declares tools; one that does not ignores them, so none are given."""
    fit: Callable[[Chat], Chat] = lambda chat: chat
    """Takes out of a random conversation what the family cannot express."""
    template_form: Callable[[Chat], Chat] = lambda chat: chat
    """The form in which the template wants a conversation."""

    label: str = ""
    """A name for a row that shares renderer and options with another."""

    def __str__(self) -> str:
        """A name of its own for every row: files and test ids carry it."""
        if self.label:
            return self.label
        chosen = self.renderer_options.items()
        words = [f"{key}={str(value).replace(' ', '_')}" for key, value in chosen]
        return "-".join([self.renderer, *words])

    def make(self, tokenizer: Any, **options: Any) -> Renderer:
        return get_renderer(self.renderer, tokenizer, **{**self.renderer_options, **options})

    def reason(self, table: str, conversation: Mapping[str, Any]) -> str | None:
        reasons: Mapping[str, str] = getattr(self, table)
        keys = [conversation["id"], *conversation["tags"]]
        if any(m.get("reasoning_content") for m in conversation["messages"]):
            keys.append("has thinking")
        return next((reasons[key] for key in keys if key in reasons), None)


# --------------------------------------------------------------------- fitting conversations


def without_thinking(chat: Chat) -> Chat:
    messages, tools = chat
    return [{k: v for k, v in m.items() if k != "reasoning_content"} for m in messages], tools  # type: ignore[misc]


def without_tools(chat: Chat) -> Chat:
    kept = [
        {k: v for k, v in m.items() if k != "tool_calls"} for m in chat[0] if m["role"] != "tool"
    ]
    return kept, []  # type: ignore[return-value]


def text_only(chat: Chat) -> Chat:
    return without_thinking(without_tools(chat))


def arguments_as_objects(chat: Chat) -> Chat:
    messages, tools = copy.deepcopy(chat)
    for message in messages:
        for call in message.get("tool_calls") or ():
            arguments = call["function"]["arguments"]
            if isinstance(arguments, str):
                call["function"]["arguments"] = json.loads(arguments)
    return messages, tools


def arguments_as_text(chat: Chat) -> Chat:
    messages, tools = copy.deepcopy(chat)
    for message in messages:
        for call in message.get("tool_calls") or ():
            arguments = call["function"]["arguments"]
            if not isinstance(arguments, str):
                call["function"]["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return messages, tools


# ------------------------------------------------------------------------------- the assets


def template_of(family: Family) -> str:
    """The family's chat template; the calling test skips, and says so, where there is none."""
    if not family.template:
        pytest.skip(f"no chat template at hand proves {family}: nothing to compare its tokens with")
    path = asset("chat_templates", f"{family.template}.jinja")
    with path.open(encoding="utf-8", newline="") as file:
        return file.read()


@cache
def standin(name: str) -> Any:
    """A small vocabulary with a family's own control tokens and pre-tokenizer."""
    return get_tokenizer(str(GOLDEN / "tokenizers" / name))


def fitted(family: Family, renderer: Renderer, chat: Chat) -> Chat:
    """The part of a random conversation that a family can express."""
    messages, tools = chat
    messages = [m for m in messages if m["role"] in renderer.roles] or [
        {"role": "user", "content": ""}
    ]
    if Feature.TOOLS not in renderer.features:
        messages, tools = without_tools((messages, tools))
    return family.fit((messages, tools if family.declares_tools else []))
