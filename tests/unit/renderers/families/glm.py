"""GLM 4.5, 4.7, 5.1 and 5.2."""

from typing import Any

from tests.unit.renderers.families.family import Family, arguments_as_objects

GLM: dict[str, Any] = {
    "tokenizer": "glm-4.5",
    "refused": {"developer": "the templates drop developer messages", "image": "no images"},
    "extends": False,
    "template_form": arguments_as_objects,
}
V4_5: dict[str, Any] = {"golden": "glm-4.5", "template": "zai-org__GLM-4.5", **GLM}
V4_7: dict[str, Any] = {"golden": "glm-4.7", "template": "zai-org__GLM-4.7-Flash", **GLM}
V5_1: dict[str, Any] = {"golden": "glm-5.1", "template": "zai-org__GLM-5.1", **GLM}
V5_2: dict[str, Any] = {"golden": "glm-5.2", "template": "zai-org__GLM-5.2", **GLM}
OFF: dict[str, Any] = {"options": {"enable_thinking": False}}
KEPT: dict[str, Any] = {"options": {"clear_thinking": False}}

FAMILIES = (
    Family("glm4_5", **V4_5),
    Family("glm4_5_disable_thinking", **OFF, **{**V4_5, "extends": True}),
    Family("glm4_7", **V4_7),
    Family("glm4_7_disable_thinking", **OFF, **{**V4_7, "extends": True}),
    Family("glm4_7_preserve_thinking", **KEPT, **V4_7),
    Family("glm5_1", **V5_1),
    Family("glm5_1_disable_thinking", **OFF, **{**V5_1, "extends": True}),
    Family("glm5_1_preserve_thinking", **KEPT, **V5_1),
    Family("glm5_2", **V5_2),
    Family("glm5_2_high_reasoning", options={"reasoning_effort": "high"}, **V5_2),
    Family("glm5_2_disable_thinking", **OFF, **{**V5_2, "extends": True}),
    # Not among the golden files: proved with random conversations.
    Family("glm5_2_preserve_thinking", **KEPT, **{**V5_2, "golden": "", "extends": True}),
)
