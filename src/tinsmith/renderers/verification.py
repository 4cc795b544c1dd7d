"""A renderer against a tokenizer's own chat template, on conversations of every kind.

`verify_renderer` says for every conversation of the built-in battery whether the tokens are equal,
and where they are not, what both wrote. `battery` is the list.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from tinsmith.core.errors import ConfigError, UserError
from tinsmith.renderers.base import Renderer
from tinsmith.renderers.messages import Message
from tinsmith.renderers.probes import template_text

_BATTERY = Path(__file__).with_name("battery.json")


@dataclass(frozen=True)
class BatteryChat:
    """One conversation of the battery."""

    name: str
    messages: list[Message]
    tools: list[dict[str, Any]]


class Verdict(StrEnum):
    """What became of one comparison."""

    EQUAL = "equal"
    DIFFERENT = "different"
    RENDERER_REFUSES = "refused by the renderer"
    TEMPLATE_REFUSES = "refused by the template"


@dataclass(frozen=True)
class Comparison:
    """One conversation, as a prompt or as a whole.

    Attributes:
        name: The conversation.
        opens_reply: Whether it was rendered as a prompt.
        verdict: What became of it.
        ours: Text that the renderer wrote; why it refused, where it did.
        theirs: Text that the template wrote.
        num_tokens: Tokens compared.
        first_difference: Place of the first token that differs.
    """

    name: str
    opens_reply: bool
    verdict: Verdict
    ours: str = ""
    theirs: str = ""
    num_tokens: int = 0
    first_difference: int | None = None


@dataclass(frozen=True)
class Verification:
    """All comparisons of one renderer with one template."""

    renderer: str
    comparisons: tuple[Comparison, ...]

    @property
    def counts(self) -> Mapping[Verdict, int]:
        """How many comparisons had each verdict."""
        return Counter(comparison.verdict for comparison in self.comparisons)

    @property
    def is_proved(self) -> bool:
        """Whether something was compared and nothing differs."""
        return self.counts[Verdict.EQUAL] > 0 and self.counts[Verdict.DIFFERENT] == 0


@cache
def battery() -> tuple[BatteryChat, ...]:
    """Conversations with turns, blanks, scripts, thinking, tools, calls and results."""
    rows = json.loads(_BATTERY.read_text("utf-8"))
    return tuple(BatteryChat(row["id"], row["messages"], row.get("tools", [])) for row in rows)


def verify_renderer(
    renderer: Renderer,
    *,
    chats: Sequence[BatteryChat] | None = None,
    template_options: Mapping[str, Any] | None = None,
) -> Verification:
    """Compare a renderer with its tokenizer's own chat template, token for token.

    Tools that the template leaves out are left out of the comparison, too.

    Args:
        renderer: Made with `special_text="control"` if texts that spell control tokens are to be
            compared, too.
        chats: Conversations; the built-in battery by default.
        template_options: Variables of the template that ask for what the renderer writes, such as
            `enable_thinking`.

    Raises:
        ConfigError: The tokenizer has no chat template.
    """
    require_template(renderer.tokenizer)
    return Verification(
        renderer.name,
        tuple(
            _compare(renderer, chat, opens_reply, template_options or {})
            for chat in chats or battery()
            for opens_reply in (True, False)
        ),
    )


def require_template(tokenizer: Any) -> None:
    """Refuse a tokenizer that has nothing to compare with.

    Raises:
        ConfigError: It has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            "the tokenizer has no chat template to compare with",
            field="model",
            hint="a base model takes role_colon, which no template describes",
        )


def _compare(
    renderer: Renderer, chat: BatteryChat, opens_reply: bool, options: Mapping[str, Any]
) -> Comparison:
    tokenizer = renderer.tokenizer
    theirs = template_text(
        tokenizer, chat.messages, chat.tools, opens_reply=opens_reply, options=options
    )
    if theirs is None:
        return Comparison(chat.name, opens_reply, Verdict.TEMPLATE_REFUSES)
    tools = chat.tools
    if tools and theirs == template_text(
        tokenizer, chat.messages, (), opens_reply=opens_reply, options=options
    ):
        tools = []  # the template declares none (DeepSeek), so that there is nothing to compare
    try:
        tokens = renderer.template_tokens(
            chat.messages, tools=tools, add_generation_prompt=opens_reply
        )
        ours = renderer.render_text(chat.messages, tools=tools, add_generation_prompt=opens_reply)
    except UserError as error:
        return Comparison(chat.name, opens_reply, Verdict.RENDERER_REFUSES, error.message, theirs)
    expected = tokenizer.encode(theirs, add_special_tokens=False, verbose=False)
    difference = _first_difference(tokens, expected)
    return Comparison(
        chat.name,
        opens_reply,
        Verdict.EQUAL if difference is None else Verdict.DIFFERENT,
        ours,
        theirs,
        len(tokens),
        difference,
    )


def _first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    for place, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        if mine != other:
            return place
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))
