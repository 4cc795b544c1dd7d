"""Qwen3.5, 3.6 and 3.8."""

from typing import Any

from tests.unit.renderers.families.family import Family, arguments_as_objects

SHARED: dict[str, Any] = {
    "tokenizer": "qwen3_5",
    "refused": {"developer": "the templates refuse it"},
    "extends": False,
    "template_form": arguments_as_objects,
}
V3_5 = {"golden": "qwen3.5", "template": "Qwen__Qwen3.5-4B", **SHARED}
SMALL = {"golden": "qwen3.5-small", "template": "Qwen__Qwen3.5-0.8B", **SHARED}
V3_6 = {"golden": "qwen3.6", "template": "Qwen__Qwen3.6-35B-A3B", **SHARED}
V3_8 = {"golden": "qwen3.8", "template": "Qwen__Qwen3.8-27B", **SHARED}
OFF = {"enable_thinking": False}

FAMILIES = (
    Family("qwen3_5", always_thinks=True, **V3_5),
    Family("qwen3_5_disable_thinking", options=OFF, **V3_5),
    Family("qwen3_5", label="qwen3_5-small", options={"enable_thinking": True},
           always_thinks=True, **SMALL),
    Family("qwen3_5_disable_thinking", label="qwen3_5_disable_thinking-small", **SMALL),
    Family("qwen3_6", always_thinks=True, **V3_6),
    Family("qwen3_6_disable_thinking", options=OFF, **V3_6),
    Family("qwen3_6_preserve_thinking", options={"preserve_thinking": True},
           always_thinks=True, **V3_6),
    Family("qwen3_8_xhigh_reasoning", always_thinks=True, **V3_8),
    Family("qwen3_8_medium_reasoning", options={"reasoning_effort": "medium"},
           always_thinks=True, **V3_8),
    Family("qwen3_8_low_reasoning", options={"reasoning_effort": "low"},
           always_thinks=True, **V3_8),
    Family("qwen3_8_disable_thinking", options=OFF, **{**V3_8, "extends": True}),
    Family("qwen3_8_xhigh_reasoning", options={"preserve_thinking": False},
           renderer_options={"keep_thinking": False}, always_thinks=True, **V3_8),
)  # fmt: skip
