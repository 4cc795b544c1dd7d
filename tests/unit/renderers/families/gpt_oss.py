"""gpt-oss at each reasoning effort; without a system turn no template can prove it."""

from collections.abc import Mapping
from typing import Any

from tests.unit.renderers.families.family import Chat, Family, arguments_as_objects
from tinsmith.renderers import Message

PARALLEL = "one call a message; the template writes the first and drops the others"


def fit(chat: Chat) -> Chat:
    """One call a message, and a description for every tool."""
    fitted: list[Message] = []
    for message in chat[0]:
        calls = message.get("tool_calls")
        fitted.append({**message, "tool_calls": list(calls)[:1]} if calls else message)
    return fitted, chat[1]


GPT_OSS: Mapping[str, Any] = {
    "golden": "gpt-oss",
    "template": "openai__gpt-oss-20b",
    "tokenizer": "o200k-harmony",
    "extends": False,
    "fit": fit,
    "template_form": arguments_as_objects,
    "refused": {
        "parallel": PARALLEL,
        "image": "no images",
        "odd-late-system": "the template drops late system messages",
    },
    "differs": {"tool-args-string": "the template writes a quoted string"},
}

FAMILIES = (
    Family("gpt_oss_medium_reasoning", **GPT_OSS),
    Family("gpt_oss_low_reasoning", options={"reasoning_effort": "low"}, **GPT_OSS),
    Family("gpt_oss_high_reasoning", options={"reasoning_effort": "high"}, **GPT_OSS),
    Family("gpt_oss_medium_reasoning", options={"model_identity": "You are a test model."},
           renderer_options={"identity": "You are a test model."}, **GPT_OSS),
)  # fmt: skip
