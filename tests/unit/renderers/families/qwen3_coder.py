"""Qwen3-Coder."""

from tests.unit.renderers.families.family import Family, arguments_as_objects, without_thinking

FAMILIES = (
    Family(
        "qwen3_coder",
        "qwen3-coder",
        template="Qwen__Qwen3-Coder-30B-A3B-Instruct",
        tokenizer="qwen2-qwen3",
        refused={"has thinking": "no thinking", "image": "no images"},
        fit=without_thinking,
        template_form=arguments_as_objects,
    ),
)
