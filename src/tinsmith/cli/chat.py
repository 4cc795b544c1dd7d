"""`tinsmith chat`: a conversation in the terminal."""

from typing import Any

import click

from tinsmith.cli.options import (
    base_url_option,
    model_option,
    renderer_option,
    sampling_options,
    sampling_params,
)
from tinsmith.cli.sources import find_source, open_source

__all__ = ["chat"]

HELP = "/new starts over, /undo takes the last exchange back, /quit (or Ctrl-D) leaves"


@click.command()
@model_option
@click.option("--system", metavar="TEXT", help="A system message before the conversation.")
@sampling_options
@renderer_option
@base_url_option
def chat(
    model: str,
    system: str | None,
    renderer: str | None,
    base_url: str | None,
    **sampling: Any,
) -> None:
    """Talk with a model in the terminal.

    The model sees the whole conversation; /new starts over and /quit leaves.
    """
    from tinsmith.renderers import Message

    opened = open_source(find_source(model), base_url=base_url, renderer=renderer)
    params = sampling_params(sampling, opened.renderer.get_stop_sequences())
    opening = [{"role": "system", "content": system}] if system else []
    history: list[Message] = list(opening)
    click.echo(f"{opened.source.label}; {HELP}", err=True)
    while (line := _read_line()) is not None:
        if line == "/quit":
            break
        if line in {"/new", "/undo"}:
            history = (
                list(opening) if line == "/new" else history[: max(len(opening), len(history) - 2)]
            )
            continue
        if line.startswith("/"):
            click.echo(HELP, err=True)
            continue
        if not line:
            continue
        history.append({"role": "user", "content": line})
        prompt = opened.renderer.build_generation_prompt(history)
        response = opened.client.sample(
            prompt=prompt, num_samples=1, sampling_params=params
        ).result()
        answer = opened.renderer.parse_response(response.sequences[0].tokens).message
        history.append(answer)
        click.echo(answer["content"])


def _read_line() -> str | None:
    """Return what the person typed, or None at the end of input."""
    try:
        return input("> ").strip()
    except EOFError:
        click.echo("", err=True)
        return None
