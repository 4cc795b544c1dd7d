"""Llama 3, 3.1 (and 3.3) and 3.2."""

from tests.unit.renderers.families.family import (
    Chat,
    Family,
    arguments_as_objects,
    text_only,
    without_thinking,
)
from tinsmith.renderers import Message

LLAMA = {"tokenizer": "llama3"}
LLAMA31_REFUSED = {
    "has thinking": "no thinking",
    "image": "no images",
    "parallel": "one call a message",
    "tool-call-with-text": "text beside a call, which the template drops",
    "tool-roundtrip-then-user": "text beside a call, which the template drops",
}
LLAMA3_DIFFERS = {"parts-text": "text parts are joined; the template writes Python's repr"}
LLAMA31_DIFFERS = {**LLAMA3_DIFFERS, "tool-args-string": "the template writes a quoted string"}


def fit_llama31(chat: Chat) -> Chat:
    """One call a message, nothing beside it, and the tools declared in a first user message."""
    messages, tools = without_thinking(chat)
    fitted: list[Message] = []
    for message in messages:
        calls = message.get("tool_calls")
        if calls:
            message = {**message, "tool_calls": list(calls)[:1], "content": ""}
        fitted.append(message)
    first = 1 if fitted[0]["role"] == "system" else 0
    starts_with_user = len(fitted) > first and fitted[first]["role"] == "user"
    return fitted, tools if starts_with_user else []


FAMILIES = (
    Family("llama3", "llama3", template="meta-llama__Meta-Llama-3-8B-Instruct",
           refused={"call": "no tools", "tools": "no tools", "has thinking": "no thinking",
                    "image": "no images"},
           differs=LLAMA3_DIFFERS, fit=text_only, **LLAMA),
    Family("llama3_1", "llama3.1", template="meta-llama__Llama-3.1-8B-Instruct",
           refused=LLAMA31_REFUSED, differs=LLAMA31_DIFFERS,
           fit=fit_llama31, template_form=arguments_as_objects, **LLAMA),
    Family("llama3_1", "llama3.1", template="meta-llama__Llama-3.1-8B-Instruct",
           options={"tools_in_user_message": False},
           renderer_options={"tools_in_user_message": False},
           refused=LLAMA31_REFUSED, differs=LLAMA31_DIFFERS,
           fit=fit_llama31, template_form=arguments_as_objects, **LLAMA),
    Family("llama3_1", "llama3.1", template="meta-llama__Llama-3.1-8B-Instruct",
           options={"date_string": "01 Jan 2025"}, renderer_options={"date": "01 Jan 2025"},
           refused=LLAMA31_REFUSED, differs=LLAMA31_DIFFERS,
           fit=fit_llama31, template_form=arguments_as_objects, **LLAMA),
    Family("llama3_2", "llama3.2", template="meta-llama__Llama-3.2-3B-Instruct",
           refused=LLAMA31_REFUSED, differs=LLAMA31_DIFFERS,
           fit=fit_llama31, template_form=arguments_as_objects, **LLAMA),
)  # fmt: skip
