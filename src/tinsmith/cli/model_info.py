"""`tinsmith model-info`: what the model table knows of a base model."""

from dataclasses import asdict
from typing import Any

import click

from tinsmith.cli.options import json_option
from tinsmith.cli.tables import print_json, print_properties, print_table, yes_or_no
from tinsmith.core.errors import UserError

__all__ = ["model_info"]


@click.command("model-info")
@click.argument("name", required=False)
@json_option
def model_info(name: str | None, as_json: bool) -> None:
    """Say what is known of base models."""
    from tinsmith.renderers.model_info import get_model_info, list_models

    if name is None:
        infos = [get_model_info(known) for known in list_models()]
        if as_json:
            print_json({"models": [asdict(info) for info in infos]})
            return
        rows = [
            (
                info.name,
                _size(info.size_b, info.active_b),
                f"{info.context_length:,}",
                ", ".join(info.renderers),
            )
            for info in infos
        ]
        print_table(f"{len(rows)} models", ("Model", "Size", "Context", "Renderers"), rows)
        return
    known = describe(name)
    if as_json:
        print_json(known)
    else:
        print_properties(_properties(known))


def describe(name: str) -> dict[str, Any]:  # Any: JSON values
    """What is known of a model, with the settings to start from, as JSON values."""
    from tinsmith.renderers.model_info import (
        get_model_info,
        has_fitted_learning_rate,
        lora_defaults,
        recommended_learning_rate,
    )

    info = get_model_info(name)
    try:
        learning_rate = recommended_learning_rate(name)
    except UserError:
        learning_rate = None
    return {
        **asdict(info),
        "lora": lora_defaults()._asdict(),
        "learning_rate": learning_rate,
        "learning_rate_is_fitted": has_fitted_learning_rate(name),
    }


def _properties(known: dict[str, Any]) -> list[tuple[str, str]]:
    rate = known["learning_rate"]
    how = "" if known["learning_rate_is_fitted"] else " (a guess: nobody has swept this family)"
    return [
        ("model", known["name"]),
        ("organization", known["organization"]),
        ("family", f"{known['family']} {known['version']}"),
        ("size", _size(known["size_b"], known["active_b"])),
        ("context", f"{known['context_length']:,} tokens"),
        ("chat", yes_or_no(known["is_chat"])),
        ("vision", yes_or_no(known["has_vision"])),
        ("audio", yes_or_no(known["has_audio"])),
        ("renderers", ", ".join(known["renderers"])),
        ("LoRA rank", str(known["lora"]["rank"])),
        ("learning rate", "unknown: choose one" if rate is None else f"{rate:.2e}{how}"),
    ]


def _size(size_b: float, active_b: float) -> str:
    return f"{size_b:g}B" + (f", {active_b:g}B active" if active_b < size_b else "")
