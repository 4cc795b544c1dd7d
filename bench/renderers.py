"""Rendering against `apply_chat_template(tokenize=True)`, on the same random conversations.

Every round has conversations of its own, of synthetic words with the frequencies of language
(Zipf), so that what a renderer remembers is what it would in training. Vocabularies are the small
stand-ins of tests/golden; templates come from the test assets, and without them only the bundled
model is measured. Main name: `renderer_measurements`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.measurement import Measurement, Setting
from bench.results import REPOSITORY, Bound, Row
from bench.timing import compare, seconds_of
from tinsmith.renderers import Message, Renderer, get_renderer, get_tokenizer

__all__ = ["renderer_measurements"]

FAMILIES = {
    "qwen3": ("Qwen__Qwen3-8B", "qwen2-qwen3"),
    "qwen3_coder": ("Qwen__Qwen3-Coder-30B-A3B-Instruct", "qwen2-qwen3"),
    "qwen3_vl_instruct": ("Qwen__Qwen3-VL-4B-Instruct", "qwen2-qwen3"),
    "qwen3_6": ("Qwen__Qwen3.6-35B-A3B", "qwen3_5"),
    "llama3_1": ("meta-llama__Llama-3.1-8B-Instruct", "llama3"),
    "deepseekv3": ("deepseek-ai__DeepSeek-V3.1", "deepseek-v3"),
    "gpt_oss_medium_reasoning": ("openai__gpt-oss-20b", "o200k-harmony"),
}
"""Template and vocabulary of a renderer."""
LENGTHS = {"2 short turns": (2, 20), "10 turns": (10, 60), "100 turns": (100, 60)}
"""Messages, and words of each."""
TARGET = Bound("at least", 2.0)
GROWTH_TARGET = Bound("at most", 1.5)


def renderer_measurements(setting: Setting) -> Iterator[Measurement]:
    """Each family at each length, and how time grows with turns."""
    for name, tokenizer in _families():
        renderer = get_renderer(name, tokenizer)
        for length, (num_messages, num_words) in LENGTHS.items():
            label = f"rendering, {length}"
            yield Measurement(
                label,
                name,
                lambda r=renderer, n=num_messages, w=num_words, label=label: _throughput(
                    label, r, n, w, setting.quick
                ),
            )
        label = "rendering, time a turn: 400 turns over 50"
        yield Measurement(
            label, name, lambda r=renderer, label=label: _growth(label, r, setting.quick)
        )


def _families() -> Iterator[tuple[str, Any]]:
    yield "chatml", get_tokenizer("tinsmith/tiny")
    named = os.environ.get("TINSMITH_TEST_ASSETS")
    assets = Path(named) if named else REPOSITORY.parent / "shared" / "assets"
    for name, (template, vocabulary) in FAMILIES.items():
        path = assets / "chat_templates" / f"{template}.jinja"
        if path.exists():
            tokenizer = get_tokenizer(str(REPOSITORY / "tests/golden/tokenizers" / vocabulary))
            tokenizer.chat_template = path.read_text("utf-8")
            yield name, tokenizer


class _Talk:
    """Makes conversations, never the same twice."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        letters = np.array(list("etaoinshrdlcumwfgypbvk"))
        sizes = self._random.integers(2, 10, size=5000)
        self._words = ["".join(self._random.choice(letters, size=size)) for size in sizes]
        ranks = np.arange(1, len(self._words) + 1)
        self._chances = (1 / ranks) / (1 / ranks).sum()

    def messages(self, num_messages: int, num_words: int) -> list[Message]:
        """Questions and answers in turn."""
        return [
            {"role": "user" if turn % 2 == 0 else "assistant", "content": self._text(num_words)}
            for turn in range(num_messages)
        ]

    def _text(self, num_words: int) -> str:
        words = self._random.choice(self._words, size=num_words, p=self._chances).tolist()
        marks = self._random.choice(["", "", "", "", ",", ".\n", " 12"], size=num_words).tolist()
        return " ".join(word + mark for word, mark in zip(words, marks, strict=True)).capitalize()


def _throughput(
    label: str, renderer: Renderer, num_messages: int, num_words: int, quick: bool
) -> Row:
    """Conversations a second; each round renders its own."""
    rounds = 2 if quick else 15
    num_chats = 2 if quick else max(3, 200 // num_messages)
    talk = _Talk(seed=0)
    # What the first seconds of a training run see, before it is measured: 60,000 words.
    for _ in range(1 if quick else 50):
        renderer.build_supervised_example(talk.messages(20, 60))
    batches = [
        [talk.messages(num_messages, num_words) for _ in range(num_chats)]
        for _ in range(rounds + 1)
    ]
    ours, theirs = iter(batches), iter(batches)
    tokenizer: Any = renderer.tokenizer

    def render() -> None:
        for messages in next(ours):
            renderer.build_supervised_example(messages, "all_assistant_messages")

    def apply_template() -> None:
        for messages in next(theirs):
            tokenizer.apply_chat_template(messages, tokenize=True)

    timed = compare(render, apply_template, rounds=rounds)
    return timed.row(label, renderer.name, amount=num_chats, unit="conversations/s", target=TARGET)


def _growth(label: str, renderer: Renderer, quick: bool) -> Row:
    """Time a turn of a long conversation over that of a short one: 1 where growth is linear."""
    rounds = 1 if quick else 9
    talk = _Talk(seed=1)
    times = {}
    for num_messages in (50, 400):
        chats = [talk.messages(num_messages, 40) for _ in range(rounds + 1)]
        seconds = [
            seconds_of(lambda m=messages: renderer.build_supervised_example(m))
            for messages in chats
        ]
        times[num_messages] = min(seconds[1:]) / num_messages
    return Row(
        name=label,
        model=renderer.name,
        unit="x",
        ours=times[400] / times[50],
        target=GROWTH_TARGET,
    )
