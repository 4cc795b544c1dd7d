"""Renderers by name, and the one that fits a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinsmith.core.errors import ConfigError, unknown_name
from tinsmith.core.paths import BUNDLED_MODEL
from tinsmith.renderers.base import Renderer
from tinsmith.renderers.chatml import ChatMLRenderer
from tinsmith.renderers.messages import Message
from tinsmith.renderers.role_colon import RoleColonRenderer
from tinsmith.renderers.tokenizers import Tokenizer

RendererFactory = Callable[[Any], Renderer]

_BUILT_IN: dict[str, RendererFactory] = {
    ChatMLRenderer.name: ChatMLRenderer,
    RoleColonRenderer.name: RoleColonRenderer,
}
_registered: dict[str, RendererFactory] = {}


def register_renderer(name: str, factory: RendererFactory) -> None:
    """Make a renderer available by name; it takes precedence over a built-in one."""
    _registered[name] = factory


def unregister_renderer(name: str) -> None:
    """Forget a registered renderer; built-in ones stay."""
    _registered.pop(name, None)


def list_renderers() -> list[str]:
    """All names, sorted."""
    return sorted({*_BUILT_IN, *_registered})


def get_renderer(name: str, tokenizer: Tokenizer) -> Renderer:
    """The renderer of that name over a tokenizer.

    Raises:
        UnknownNameError: No such renderer; the message offers the nearest name.
    """
    factory = _registered.get(name) or _BUILT_IN.get(name)
    if factory is None:
        raise unknown_name("renderer", name, list_renderers(), field="renderer")
    return factory(tokenizer)


def recommended_renderer(model: str, tokenizer: Any) -> str:
    """Name of the renderer that fits a model.

    A model with a chat template gets the renderer whose prompt equals that template on a probe
    conversation; a model without one is a base model and gets `role_colon`.

    Raises:
        ConfigError: The model has a template that no renderer here writes.
    """
    if model == BUNDLED_MODEL:
        return ChatMLRenderer.name
    if not getattr(tokenizer, "chat_template", None):
        return RoleColonRenderer.name
    if _writes_chatml(tokenizer):
        return ChatMLRenderer.name
    raise ConfigError(
        f"model={model!r}: no renderer here writes its chat template",
        field="renderer",
        hint=f"choose one yourself, renderer= {' or '.join(list_renderers())}",
    )


_PROBE: list[Message] = [
    {"role": "user", "content": "Is this plain ChatML?"},
    {"role": "assistant", "content": "It looks so."},
    {"role": "user", "content": "Sure?"},
]


def _writes_chatml(tokenizer: Any) -> bool:
    added = tokenizer.get_added_vocab()
    if "<|im_start|>" not in added or "<|im_end|>" not in added:
        return False
    expected = tokenizer.apply_chat_template(
        _PROBE, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return ChatMLRenderer(tokenizer).build_generation_prompt(_PROBE).to_ints() == list(expected)
