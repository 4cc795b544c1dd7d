"""`tinsmith chat`: a conversation in the terminal."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from tinsmith.cli.options import (
    base_url_option,
    model_option,
    renderer_option,
    sampling_options,
    sampling_params,
)
from tinsmith.cli.sources import OpenSource, find_source, open_source

if TYPE_CHECKING:
    from tinsmith.renderers import Message
    from tinsmith.types import SamplingParams

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
    opened = open_source(find_source(model), base_url=base_url, renderer=renderer)
    params = sampling_params(sampling, opened.renderer.get_stop_sequences())
    click.echo(f"{opened.source.label}; {HELP}", err=True)
    _talk(opened, params, [{"role": "system", "content": system}] if system else [])


def _talk(opened: OpenSource, params: "SamplingParams", opening: "list[Message]") -> None:
    """Read, answer and remember until the person leaves."""
    history = list(opening)
    while (line := _read_line()) not in {None, "/quit"}:
        if line == "/new":
            history = list(opening)
        elif line == "/undo":
            history = history[: max(len(opening), len(history) - 2)]
        elif line and line.startswith("/"):
            click.echo(HELP, err=True)
        elif line:
            history.append({"role": "user", "content": line})
            history.append(_answer(opened, params, history))


def _answer(opened: OpenSource, params: "SamplingParams", history: "list[Message]") -> "Message":
    """Sample the next message, show it as it is drawn and return it."""
    from tinsmith.client import UnsupportedError

    prompt = opened.renderer.build_generation_prompt(history)
    try:
        with opened.client.stream(prompt, params) as stream:
            return _show(opened, (token for piece in stream for token in piece.tokens))
    except UnsupportedError:  # another server of the protocol: the answer comes in one piece
        response = opened.client.sample(prompt, 1, params).result()
        return _show(opened, response.sequences[0].tokens)


def _show(opened: OpenSource, tokens: Iterable[int]) -> "Message":
    """Write what a reply says aloud, each piece when its tokens are there; returns the message."""
    from tinsmith.renderers import ParsedResponse
    from tinsmith.renderers.deltas import TextDelta

    message: Message = {"role": "assistant", "content": ""}
    for piece in opened.renderer.stream_parse(tokens):
        if isinstance(piece, TextDelta):
            click.echo(piece.text, nl=False)  # and flushes
        elif isinstance(piece, ParsedResponse):
            message = piece.message
    click.echo()
    return message


def _read_line() -> str | None:
    """Return what the person typed, or None at the end of input; a pipe gets no prompt."""
    is_terminal = sys.stdin.isatty()
    try:
        return input("> " if is_terminal else "").strip()
    except EOFError:
        if is_terminal:
            click.echo("", err=True)
        return None
