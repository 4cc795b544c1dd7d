"""Renderers by name, and the one that fits a model.

Names come from three places: `register_renderer`, the families of this package, and installed
packages that declare the entry point group `tinsmith.renderers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple, get_type_hints

from pydantic import TypeAdapter, ValidationError

from tinsmith.core.errors import ConfigError, TinsmithError, unknown_name
from tinsmith.core.paths import BUNDLED_MODEL
from tinsmith.renderers import (
    deepseekv3,
    glm,
    gpt_oss,
    kimi,
    llama3,
    nemotron3,
    qwen3,
    qwen3_5,
    qwen3_coder,
    qwen3_vl,
)
from tinsmith.renderers.base import Renderer, RendererFactory
from tinsmith.renderers.chat_template import ChatTemplateRenderer
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
    **kimi.RENDERERS,
    **glm.RENDERERS,
    **nemotron3.RENDERERS,
    "chatml": ChatMLRenderer,
    ChatTemplateRenderer.name: ChatTemplateRenderer,
    "role_colon": RoleColonRenderer,
}
_registered: dict[str, RendererFactory] = {}
ENTRY_POINTS = "tinsmith.renderers"


def register_renderer(name: str, factory: RendererFactory) -> None:
    """Make a renderer available by name; it takes precedence over any other of that name.

    The factory is called with a tokenizer and the options that `get_renderer` was given.
    """
    _registered[name] = factory


def unregister_renderer(name: str) -> None:
    """Forget a registered renderer; all others stay."""
    _registered.pop(name, None)


def list_renderers() -> list[str]:
    """All names, sorted."""
    return sorted({*_registered, *_BUILT_IN, *_plugins()})


class RendererRow(NamedTuple):
    """A line of the list."""

    name: str
    about: str


def describe_renderers() -> list[RendererRow]:
    """Every name with a line on what it is for."""
    own = {**_BUILT_IN, **_registered}
    rows = [RendererRow(name, _about(factory)) for name, factory in own.items()]
    rows += [
        RendererRow(name, f"from {point.value}")
        for name, point in _plugins().items()
        if name not in own
    ]
    return sorted(rows)


def _about(factory: RendererFactory) -> str:
    """First line of the format's class, with what a variant fixes."""
    if not isinstance(factory, partial):
        return next(iter((factory.__doc__ or "").strip().splitlines()), "")
    fixed = ", ".join(f"{key}={_short(value)}" for key, value in factory.keywords.items())
    return f"{_about(factory.func)} ({fixed})"


def _short(value: Any) -> str:
    return str(getattr(value, "label", value))


def get_renderer(name: str, tokenizer: Tokenizer, **options: Any) -> Renderer:
    """The renderer of that name over a tokenizer.

    Args:
        name: A name of `list_renderers()`.
        tokenizer: The model's tokenizer.
        options: Of the format, such as `special_text` or Llama's `date`.

    Raises:
        UnknownNameError: No such renderer, or no such option of it; the message offers the nearest.
        ConfigError: An option has a value that the renderer does not take; or a renderer of an
            installed package cannot be loaded, or takes the name of one of ours.
        UserError: The tokenizer lacks a control token of the format.
    """
    if name in _registered:
        return _registered[name](tokenizer, **options)
    plugin = _plugins().get(name)
    if plugin is not None:
        return _loaded(plugin)(tokenizer, **options)
    if name not in _BUILT_IN:
        raise unknown_name("renderer", name, list_renderers(), field="renderer")
    _check_options(name, _BUILT_IN[name], options)
    return _BUILT_IN[name](tokenizer, name=name, **options)


def _check_options(name: str, factory: RendererFactory, options: Mapping[str, Any]) -> None:
    """Refuse an option that the format lacks, and a value that its signature does not allow."""
    if not options:
        return
    made: Any = factory.func if isinstance(factory, partial) else factory  # a class
    allowed = {
        option: hint
        for option, hint in get_type_hints(made.__init__).items()
        if option not in ("tokenizer", "name", "return")
    }
    for option, value in options.items():
        if option not in allowed:
            raise unknown_name(f"option of {name}", option, allowed, field="renderer")
        try:
            TypeAdapter(allowed[option]).validate_python(value, strict=True)
        except ValidationError as error:
            reason = error.errors()[-1]["msg"]
            raise ConfigError(
                f"option of {name} {option}={value!r}: {reason[0].lower()}{reason[1:]}",
                field="renderer",
                hint="see tinsmith renderers list and the format's docstring",
            ) from error


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _loaded(plugin: EntryPoint) -> RendererFactory:
    package = plugin.dist.name if plugin.dist is not None else plugin.value
    if plugin.name in _BUILT_IN:
        raise ConfigError(
            f"renderer={plugin.name!r}: {package} declares a renderer of this name, and so does "
            "tinsmith",
            field="renderer",
            hint=f"rename it in {package}, or call register_renderer to choose it on purpose",
        )
    try:
        return plugin.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"renderer={plugin.name!r}: {package} declares it and it cannot be loaded: {error}",
            field="renderer",
            hint=f"repair or uninstall {package}",
        ) from error


def recommended_renderer(model: str, tokenizer: Any) -> str:
    """Name of the renderer that fits a model.

    A model with a chat template gets the first renderer that writes what the template writes, on
    conversations with everything that the renderer can express. Where none does, the template
    itself can be driven (`chat_template`). A model without one is a base model and gets
    `role_colon`.

    Raises:
        ConfigError: The model has a template that cannot even be driven.
    """
    if model == BUNDLED_MODEL:
        return ChatMLRenderer.name
    if not getattr(tokenizer, "chat_template", None):
        return RoleColonRenderer.name
    others = {RoleColonRenderer.name, ChatTemplateRenderer.name}
    for name, factory in {**_registered, **_BUILT_IN}.items():
        if name not in others and writes_template_of(tokenizer, factory):
            return name
    try:
        ChatTemplateRenderer(tokenizer)
    except TinsmithError as error:
        raise ConfigError(
            f"model={model!r}: no renderer here writes its chat template, and the template cannot "
            f"be driven: {error.message}",
            field="renderer",
            hint="choose one yourself: tinsmith renderers list",
        ) from error
    return ChatTemplateRenderer.name
