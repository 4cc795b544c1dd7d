"""Qwen3-VL-Instruct."""

from typing import Any

from tests.unit.renderers.families.family import Family, without_thinking

VL: dict[str, Any] = {
    "golden": "qwen3-vl",
    "template": "Qwen__Qwen3-VL-4B-Instruct",
    "tokenizer": "qwen2-qwen3",
    "refused": {
        "developer": "the template drops developer messages",
        "odd-late-system": "the template drops a later system message",
        "has thinking": "no thinking",
    },
    "fit": without_thinking,
}

FAMILIES = (
    Family("qwen3_vl_instruct", **VL),
    Family(
        "qwen3_vl_instruct",
        options={"add_vision_id": True},
        renderer_options={"number_pictures": True},
        **VL,
    ),
)
