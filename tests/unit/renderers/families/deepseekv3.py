"""DeepSeek V3.1, with and without thinking."""

from collections.abc import Mapping
from typing import Any

from tests.unit.renderers.families.family import Family, arguments_as_text

DEEPSEEK: Mapping[str, Any] = {
    "golden": "deepseek-v3.1",
    "template": "deepseek-ai__DeepSeek-V3.1",
    "tokenizer": "deepseek-v3",
    "template_form": arguments_as_text,
    "refused": {"developer": "the template drops developer messages"},
    "declares_tools": False,
}

FAMILIES = (
    Family("deepseekv3", **DEEPSEEK),
    Family("deepseekv3_thinking", options={"thinking": True}, extends=False, **DEEPSEEK),
)
