"""`tinsmith sample`: one prompt, one or more answers."""

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from tinsmith.cli.options import (
    base_url_option,
    json_option,
    model_option,
    renderer_option,
    sampling_options,
    sampling_params,
)
from tinsmith.cli.sources import OpenSource, find_source, open_source
from tinsmith.core.errors import UserError

if TYPE_CHECKING:
    from tinsmith.renderers import Message
    from tinsmith.types import ModelInput, SampleResponse

__all__ = ["sample"]


@click.command()
@click.argument("prompt")
@model_option
@click.option("--system", metavar="TEXT", help="A system message before the prompt.")
@click.option("--raw", is_flag=True, help="Continue the prompt as plain text, not as a chat turn.")
@click.option("-n", "--num-samples", type=click.IntRange(1), default=1, show_default=True)
@sampling_options
@renderer_option
@base_url_option
@json_option
def sample(
    prompt: str,
    model: str,
    system: str | None,
    raw: bool,
    num_samples: int,
    renderer: str | None,
    base_url: str | None,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Answer one prompt.

    PROMPT is what the user says; `-` reads it from standard input.
    """
    text = sys.stdin.read() if prompt == "-" else prompt
    if raw and system:
        raise click.UsageError("--system needs a chat turn; leave out --raw")
    opened = open_source(find_source(model), base_url=base_url, renderer=renderer)
    params = sampling_params(sampling, None if raw else opened.renderer.get_stop_sequences())
    prompt_tokens = _prompt(opened, text, system=system, raw=raw)
    response = opened.client.sample(
        prompt=prompt_tokens, num_samples=num_samples, sampling_params=params
    ).result()
    _print(opened, response, prompt=text, raw=raw, as_json=as_json)


def _prompt(opened: OpenSource, text: str, *, system: str | None, raw: bool) -> "ModelInput":
    from tinsmith.types import ModelInput

    if raw:
        tokens = opened.renderer.tokenizer.encode(text, add_special_tokens=False)
        if not tokens:
            raise UserError("prompt: is empty", field="prompt", hint="say something")
        return ModelInput.from_ints(tokens)
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    return opened.renderer.build_generation_prompt(messages)


def _print(
    opened: OpenSource, response: "SampleResponse", *, prompt: str, raw: bool, as_json: bool
) -> None:
    rows = [
        {
            "text": _answer_text(opened, list(sequence.tokens), raw=raw),
            "stop_reason": sequence.stop_reason,
            "num_tokens": len(sequence.tokens),
            "logprob": sum(sequence.logprobs) if sequence.logprobs is not None else None,
        }
        for sequence in response.sequences
    ]
    if as_json:
        print(json.dumps({"model": opened.source.label, "prompt": prompt, "samples": rows}))
        return
    for number, row in enumerate(rows, start=1):
        if len(rows) > 1:
            print(f"--- {number}")
        print(row["text"])


def _answer_text(opened: OpenSource, tokens: list[int], *, raw: bool = False) -> str:
    """Return the text of sampled tokens: the message's content, or everything with `raw`."""
    from tinsmith.renderers.messages import content_text

    if raw:
        return opened.renderer.tokenizer.decode(tokens)
    return content_text(opened.renderer.parse_response(tokens).message)
