"""Renderers by name, and the one that fits a model."""

from __future__ import annotations

from typing import Any

from tinsmith.core.errors import ConfigError, unknown_name
from tinsmith.core.paths import BUNDLED_MODEL
from tinsmith.renderers import (
    deepseekv3,
    gpt_oss,
    llama3,
    qwen3,
    qwen3_5,
    qwen3_coder,
    qwen3_vl,
)
from tinsmith.renderers.base import Renderer, RendererFactory
from tinsmith.renderers.chatml import ChatMLRenderer
from tinsmith.renderers.probes import writes_template_of
from tinsmith.renderers.role_colon import RoleColonRenderer
from tinsmith.renderers.tokenizers import Tokenizer

# In the order of recommendation: of two that write a model's template, the more able comes first.
_BUILT_IN: dict[str, RendererFactory] = {
    **qwen3.RENDERERS,
    **qwen3_coder.RENDERERS,
    **qwen3_vl.RENDERERS,
    **qwen3_5.RENDERERS,
    **llama3.RENDERERS,
    **deepseekv3.RENDERERS,
    **gpt_oss.RENDERERS,
    "chatml": ChatMLRenderer,
    "role_colon": RoleColonRenderer,
}
_registered: dict[str, RendererFactory] = {}


def register_renderer(name: str, factory: RendererFactory) -> None:
    """Make a renderer available by name; it takes precedence over a built-in one.

    The factory is called with a tokenizer and the options that `get_renderer` was given.
    """
    _registered[name] = factory


def unregister_renderer(name: str) -> None:
    """Forget a registered renderer; built-in ones stay."""
    _registered.pop(name, None)


def list_renderers() -> list[str]:
    """All names, sorted."""
    return sorted({*_BUILT_IN, *_registered})


def get_renderer(name: str, tokenizer: Tokenizer, **options: Any) -> Renderer:
    """The renderer of that name over a tokenizer.

    Args:
        name: A name of `list_renderers()`.
        tokenizer: The model's tokenizer.
        options: Of the format, such as `special_text` or Llama's `date`.

    Raises:
        UnknownNameError: No such renderer; the message offers the nearest name.
        UserError: The tokenizer lacks a control token of the format.
    """
    if name in _registered:
        return _registered[name](tokenizer, **options)
    if name not in _BUILT_IN:
        raise unknown_name("renderer", name, list_renderers(), field="renderer")
    return _BUILT_IN[name](tokenizer, name=name, **options)


def recommended_renderer(model: str, tokenizer: Any) -> str:
    """Name of the renderer that fits a model.

    A model with a chat template gets the first renderer that writes what the template writes, on
    conversations with everything that the renderer can express; a model without one is a base
    model and gets `role_colon`.

    Raises:
        ConfigError: The model has a template that no renderer here writes.
    """
    if model == BUNDLED_MODEL:
        return ChatMLRenderer.name
    if not getattr(tokenizer, "chat_template", None):
        return RoleColonRenderer.name
    for name, factory in {**_registered, **_BUILT_IN}.items():
        if name != RoleColonRenderer.name and writes_template_of(tokenizer, factory):
            return name
    raise ConfigError(
        f"model={model!r}: no renderer here writes its chat template",
        field="renderer",
        hint=f"choose one yourself, renderer= {' or '.join(list_renderers())}",
    )
