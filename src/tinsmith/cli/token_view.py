"""Tokens on a terminal: their boundaries, and which of them are trained."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from tinsmith.renderers import SupervisedExample

__all__ = ["TokenRow", "print_tokens", "token_rows"]

BAR = "|"


class TokenRow(NamedTuple):
    """One token, or the few that share a character's bytes.

    Attributes:
        tokens: Their ids; empty for an image.
        text: Their text.
        weight: Loss weight; the lowest of the row.
    """

    tokens: list[int]
    text: str
    weight: float


def token_rows(tokenizer: Any, example: "SupervisedExample") -> list[TokenRow]:
    """Rows of a training example; bytes of one character are kept together."""
    from tinsmith.renderers.tokenizers import decode_exactly
    from tinsmith.types import EncodedTextChunk

    rows: list[TokenRow] = []
    place = 0
    for chunk in example.model_input.chunks:
        if not isinstance(chunk, EncodedTextChunk):
            rows.append(TokenRow([], f"<{chunk.type}: {chunk.length} tokens>", 0.0))
            place += chunk.length
            continue
        held: list[int] = []
        for token in chunk.tokens:
            held.append(token)
            place += 1
            text = decode_exactly(tokenizer, held)
            if not text.endswith("\ufffd"):
                weight = float(example.weights[place - len(held) : place].min())
                rows.append(TokenRow(held, text, weight))
                held = []
        if held:
            weight = float(example.weights[place - len(held) : place].min())
            rows.append(TokenRow(held, decode_exactly(tokenizer, held), weight))
    return rows


def print_tokens(renderer: str, rows: Sequence[TokenRow]) -> None:
    """Print the rows as one text, and how many tokens are trained."""
    is_terminal = sys.stdout.isatty()
    click.echo(_coloured(rows) if is_terminal else _plain(rows))
    num_tokens = sum(len(row.tokens) for row in rows)
    num_trained = sum(len(row.tokens) for row in rows if row.weight)
    how = "in green" if is_terminal else "between « and »"
    click.echo(f"\n{renderer}: {num_tokens} tokens, {num_trained} trained ({how})")


def _coloured(rows: Sequence[TokenRow]) -> str:
    """Two shades in turn show where tokens begin; trained ones are green."""
    shades = {True: ("green", "bright_green"), False: ("white", "bright_black")}
    return "".join(
        click.style(_shown(row.text), fg=shades[row.weight > 0][number % 2])
        for number, row in enumerate(rows)
    )


def _plain(rows: Sequence[TokenRow]) -> str:
    pieces: list[str] = []
    is_trained = False
    for number, row in enumerate(rows):
        if (row.weight > 0) is not is_trained:
            pieces.append("»" if is_trained else "«")
            is_trained = not is_trained
        elif number:
            pieces.append(BAR)
        pieces.append(_shown(row.text))
    return "".join(pieces) + ("»" if is_trained else "")


def _shown(text: str) -> str:
    """Line breaks are shown and kept; other control characters are spelled."""
    shown = "".join(
        letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text
    )
    return shown.replace("\n", "⏎\n")
