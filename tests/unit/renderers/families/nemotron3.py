"""Nemotron 3 Nano, Super and Ultra."""

from typing import Any

from tests.unit.renderers.families.family import Family, arguments_as_objects

NEMOTRON: dict[str, Any] = {
    "tokenizer": "nemotron3",
    "refused": {"image": "no images"},
    "extends": False,
    "template_form": arguments_as_objects,
}
NANO = {
    "golden": "nemotron-3-nano",
    "template": "nvidia__NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    **NEMOTRON,
}
SUPER = {
    "golden": "nemotron-3-super",
    "template": "nvidia__NVIDIA-Nemotron-3-Super-120B-A12B-BF16",
    **NEMOTRON,
}
ULTRA = {
    "golden": "nemotron-3-ultra",
    "template": "nvidia__NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16",
    **NEMOTRON,
}
OFF: dict[str, Any] = {"options": {"enable_thinking": False}}
KEPT: dict[str, Any] = {"options": {"truncate_history_thinking": False}}

FAMILIES = (
    Family("nemotron3", **NANO),
    Family("nemotron3_disable_thinking", **OFF, **{**NANO, "extends": True}),
    Family("nemotron3_preserve_thinking", **KEPT, **NANO),
    Family("nemotron3", label="nemotron3-super", **SUPER),
    Family("nemotron3_low_thinking", options={"low_effort": True}, **SUPER),
    Family("nemotron3_ultra", **ULTRA),
    Family("nemotron3_ultra_disable_thinking", **OFF, **{**ULTRA, "extends": True}),
    Family("nemotron3_ultra_medium_thinking", options={"medium_effort": True}, **ULTRA),
    Family("nemotron3_ultra_preserve_thinking", **KEPT, **ULTRA),
)
