"""Options that several commands share."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from tinsmith.types import SamplingParams

__all__ = [
    "accessible_option",
    "base_url_option",
    "json_option",
    "limit_option",
    "model_option",
    "renderer_option",
    "sampling_options",
    "sampling_params",
]

# Any: a decorator hands back the command it was given, whatever its flags.
Command = TypeVar("Command", bound=Callable[..., Any])

model_option = click.option(
    "-m",
    "--model",
    "model",
    default="tinsmith/tiny",
    show_default=True,
    metavar="MODEL",
    help="A base model, a model's folder, a run's folder, or a tinker:// address.",
)
base_url_option = click.option(
    "--base-url",
    metavar="URL",
    help="The service to use; default: TINSMITH_BASE_URL, else an embedded one.",
)
renderer_option = click.option(
    "--renderer", metavar="NAME", help="How messages become tokens; default: the model's own."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
limit_option = click.option(
    "--limit",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="The longest list; 0 shows all.",
)
accessible_option = click.option(
    "--accessible",
    "access_scope",
    flag_value="accessible",
    default="owned",
    type=click.Choice(["owned", "accessible"]),
    help="Also what others have published, not only your own.",
)


def sampling_options(command: Command) -> Command:
    """Add the options of `SamplingParams` to a command."""
    for option in (
        click.option("--seed", type=int, help="Fixes the tokens that are drawn."),
        click.option("--top-p", type=click.FloatRange(0, 1), default=1.0, show_default=True),
        click.option("--top-k", type=int, default=-1, help="-1 keeps every token."),
        click.option(
            "--temperature",
            type=click.FloatRange(0),
            default=0.7,
            show_default=True,
            help="0 takes the likeliest token each time.",
        ),
        click.option(
            "--max-tokens",
            type=click.IntRange(1),
            default=200,
            show_default=True,
            help="The longest answer, in tokens.",
        ),
    ):
        command = option(command)
    return command


def sampling_params(
    options: dict[str, Any],  # Any: the values of the flags above, checked by SamplingParams
    stop: list[str] | list[int] | None,
) -> "SamplingParams":
    """Return the parameters that a command's sampling options name."""
    from tinsmith.types import SamplingParams

    return SamplingParams(**options, stop=stop)
