"""What `tinsmith chat` shows while an answer is drawn."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tinsmith.cli.chat import _answer
from tinsmith.cli.sources import OpenSource, Source
from tinsmith.client import UnsupportedError
from tinsmith.renderers import Message, get_renderer, get_tokenizer
from tinsmith.types import SamplingParams

TEXT = "Iron bends when it is hot."


class Client:
    """Answers with the same text, in pieces if it may."""

    def __init__(self, tokens: list[int], *, streams: bool, shown: list[str], capsys: Any) -> None:
        self._tokens = tokens
        self._streams = streams
        self._shown = shown
        self._capsys = capsys  # Any: pytest's own

    @contextmanager
    def stream(self, prompt: object, params: object) -> Iterator[Iterator[SimpleNamespace]]:
        yield self._pieces()

    def _pieces(self) -> Iterator[SimpleNamespace]:
        if not self._streams:
            raise UnsupportedError("no streams here")
        for token in self._tokens:
            yield SimpleNamespace(tokens=[token])
            self._shown.append(self._capsys.readouterr().out)

    def sample(self, prompt: object, num_samples: int, params: object) -> SimpleNamespace:
        response = SimpleNamespace(sequences=[SimpleNamespace(tokens=self._tokens)])
        return SimpleNamespace(result=lambda: response)


@pytest.mark.parametrize("streams", [True, False])
def test_an_answer_is_shown_while_it_is_drawn_or_else_in_one_piece(
    capsys: pytest.CaptureFixture[str], streams: bool
) -> None:
    tokenizer = get_tokenizer("tinsmith/tiny")
    renderer = get_renderer("chatml", tokenizer)
    (stop,) = renderer.get_stop_sequences()
    assert isinstance(stop, int)
    tokens = [*tokenizer.encode(TEXT, add_special_tokens=False), stop]
    shown: list[str] = []
    client = Client(tokens, streams=streams, shown=shown, capsys=capsys)
    # Any: a client of the service has more, and a chat needs no more.
    opened = OpenSource(
        Source(base_model="tinsmith/tiny"), cast("Any", None), cast("Any", client), renderer
    )
    history: list[Message] = [{"role": "user", "content": "What of iron?"}]
    answer = _answer(opened, SamplingParams(), history)
    assert answer == {"role": "assistant", "content": TEXT}
    assert "".join(shown) + capsys.readouterr().out == TEXT + "\n"
    if streams:
        assert len([piece for piece in shown if piece]) > 3, "it comes in pieces"
