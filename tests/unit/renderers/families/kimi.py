"""Kimi K2 and K2.5.

The template of K2.5 is proved with tools as JSON, which is what it writes without the TypeScript
that the tokenizer's own code would hand to it. The templates of K2-Instruct and K2.6 are not at
hand; K2.6 without `preserve_thinking` is K2.5.
"""

import json
from typing import Any

from tests.unit.renderers.families.family import Chat, Family, without_thinking


def sorted_tools(chat: Chat) -> Chat:
    """As the tokenizer of K2 sorts them before its template sees them."""
    return chat[0], json.loads(json.dumps(chat[1], sort_keys=True))


KIMI: dict[str, Any] = {"tokenizer": "kimi-k2", "extends": False}
K2_5: dict[str, Any] = {"golden": "kimi-k2.5", "template": "moonshotai__Kimi-K2.5", **KIMI}
UNPROVED: dict[str, Any] = {**KIMI, "golden": "", "template": "", "extends": True}

FAMILIES = (
    Family("kimi_k2", golden="kimi-k2-thinking", template="moonshotai__Kimi-K2-Thinking",
           template_form=sorted_tools, refused={"image": "no images"}, **KIMI),
    Family("kimi_k25", renderer_options={"tool_form": "template"}, **K2_5),
    Family("kimi_k25_disable_thinking", options={"thinking": False},
           renderer_options={"tool_form": "template"}, **{**K2_5, "extends": True}),
    Family("kimi_k25", **{**UNPROVED, "extends": False}),
    Family("kimi_k2_instruct", fit=without_thinking, **UNPROVED),
    Family("kimi_k26_preserve_thinking", **UNPROVED),
)  # fmt: skip
