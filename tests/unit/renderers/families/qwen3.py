"""Qwen3 and its 2507 releases."""

from collections.abc import Mapping
from typing import Any

from tests.unit.renderers.families.family import Family, without_thinking

PARTS_JOINED = "text parts are joined; the template writes nothing for a list"
NO_DEVELOPER = "the template drops developer messages"
QWEN3: Mapping[str, Any] = {
    "extends": False,
    "template": "Qwen__Qwen3-8B",
    "tokenizer": "qwen2-qwen3",
    "refused": {"developer": NO_DEVELOPER, "image": "no images"},
    "differs": {"parts-text": PARTS_JOINED},
}

FAMILIES = (
    Family("qwen3", "qwen3", **QWEN3),
    Family("qwen3_disable_thinking", "qwen3", options={"enable_thinking": False}, **QWEN3),
    Family("qwen3_thinking", "qwen3-thinking-2507",
           **{**QWEN3, "template": "Qwen__Qwen3-4B-Thinking-2507"}, always_thinks=True),
    Family("qwen3_instruct", "qwen3-instruct-2507",
           template="Qwen__Qwen3-4B-Instruct-2507", tokenizer="qwen2-qwen3",
           refused={**QWEN3["refused"], "has thinking": "no thinking"},
           differs=QWEN3["differs"], fit=without_thinking),
)  # fmt: skip
