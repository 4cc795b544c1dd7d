"""Pieces to tokens: as of the joined text, cut where a token belongs to two parts."""

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.renderers.conftest import TEXTS
from tests.unit.renderers.families import GOLDEN, standin
from tinsmith.renderers.encoding import (
    _CUT,
    _PIECE,
    SegmentEncoder,
    Stretch,
    _backend_of,
    _FastBackend,
)
from tinsmith.renderers.scripts import Part, Segment

VOCABULARIES = sorted(path.name for path in (GOLDEN / "tokenizers").iterdir())
WORDS = st.lists(
    st.sampled_from(["the", "Cat", "don't", "42", "x1", "é", "中文", "🥳", ".", ",", "\n", "", " ",
                     "<think>", "</think>", "U+00C5", "a\u0301", "I'll", "(b)", "\tq", "'s", "-1"]),
    max_size=30,
).map(" ".join)  # fmt: skip


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_remembered_words_make_the_same_tokens(vocabulary: str) -> None:
    tokenizer = standin(vocabulary)
    backend = _backend_of(tokenizer, (), "control")
    assert isinstance(backend, _FastBackend)
    assert backend._cuts_at_words

    @given(texts=st.lists(st.one_of(WORDS, TEXTS), min_size=1, max_size=3))
    def check(texts: list[str]) -> None:
        long = [text + " and so on, until it is long enough to be cut into words" for text in texts]
        expected = [tuple(tokenizer.encode(text, add_special_tokens=False)) for text in long]
        assert backend.ids(long) == expected

    check()


@given(text=st.one_of(WORDS, TEXTS, st.text("aZ9é .,(\n\t'", max_size=30)))
def test_pieces_are_what_stands_between_cuts(text: str) -> None:
    assert _PIECE.findall(text) == ([] if not text else _CUT.split(text))


def test_words_are_forgotten_before_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinsmith.renderers.encoding._MAX_WORDS", 10)
    tokenizer = standin("llama3")
    backend = _FastBackend(tokenizer.backend_tokenizer, (), "control")
    for number in range(20):
        text = " ".join(f"word{number} {n} other" for n in range(10))
        assert backend.ids([text]) == [tuple(tokenizer.encode(text, add_special_tokens=False))]
        assert len(backend._words) < 40


def test_a_tokenizer_that_cuts_elsewhere_is_not_cut_at_words() -> None:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    whole = Tokenizer(models.BPE())
    whole.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    assert not _FastBackend(whole, (), "control")._cuts_at_words
    assert not _FastBackend(Tokenizer(models.BPE()), (), "control")._cuts_at_words
    greedy = Tokenizer.from_str(standin("llama3").backend_tokenizer.to_str())
    greedy.add_tokens([AddedToken("two words", normalized=False)])
    assert not _FastBackend(greedy, (), "control")._cuts_at_words
    stripping = Tokenizer.from_str(standin("llama3").backend_tokenizer.to_str())
    stripping.add_tokens([AddedToken("<x>", rstrip=True)])
    assert not _FastBackend(stripping, (), "control")._cuts_at_words


PARTS = st.lists(
    st.tuples(st.one_of(WORDS, TEXTS), st.sampled_from([0.0, 1.0])), min_size=1, max_size=5
)


def encoded(encoder: SegmentEncoder, parts: list[tuple[str, float]]) -> list[Stretch]:
    segments = [Segment(text, Part.OUTPUT, 0) for text, _ in parts]
    return encoder.encode(segments, [weight for _, weight in parts])


@given(parts=PARTS)
def test_a_token_of_two_parts_gets_the_lower_weight(parts: list[tuple[str, float]]) -> None:
    """Against the offsets of the tokenizer itself, character by character."""
    tokenizer = standin("llama3")
    text = "".join(part for part, _ in parts)
    expected = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    encoder = SegmentEncoder(tokenizer, special_text="control", name="test")
    stretches = encoded(encoder, parts)
    tokens = [token for stretch in stretches for token in stretch.tokens]
    weights = [weight for stretch in stretches for weight in stretch.weights]
    assert tokens == expected["input_ids"]
    by_character = [weight for part, weight in parts for _ in part]
    for (start, end), weight in zip(expected["offset_mapping"], weights, strict=True):
        assert weight == min(by_character[start:end])


class Slow:
    """A tokenizer without a Rust backend."""

    all_special_tokens = ("<|eot_id|>",)

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str, **options: Any) -> list[int]:
        return self._tokenizer.encode(text, **options)

    def decode(self, tokens: list[int], **options: Any) -> str:
        return self._tokenizer.decode(tokens, **options)

    def get_added_vocab(self) -> dict[str, int]:
        return self._tokenizer.get_added_vocab()


@given(parts=st.lists(st.tuples(st.text("ab \n.", max_size=8), st.sampled_from([0.0, 1.0]))))
def test_a_tokenizer_in_python_gives_the_same(parts: list[tuple[str, float]]) -> None:
    fast = SegmentEncoder(standin("llama3"), special_text="text", name="test")
    slow: Any = SegmentEncoder(Slow(standin("llama3")), special_text="text", name="test")  # type: ignore[arg-type]
    assert encoded(slow, parts) == encoded(fast, parts)


def test_a_tokenizer_in_python_keeps_spelled_tokens_text() -> None:
    parts = [("a <|eot_id|> b", 1.0)]
    fast = SegmentEncoder(standin("llama3"), special_text="text", name="test")
    slow: Any = SegmentEncoder(Slow(standin("llama3")), special_text="text", name="test")  # type: ignore[arg-type]
    assert encoded(slow, parts) == encoded(fast, parts)
    assert len(encoded(slow, parts)[0].tokens) > 5


def test_many_threads_encode_at_once() -> None:
    encoder = SegmentEncoder(standin("qwen2-qwen3"), special_text="text", name="test")
    texts = [
        f"thread {n} says the word number {n * 7} again and again, and so on" for n in range(40)
    ]
    expected = [encoder.encode_text(text) for text in texts]
    wrong: list[str] = []

    def work() -> None:
        fresh = SegmentEncoder(standin("qwen2-qwen3"), special_text="text", name="test")
        wrong.extend(
            t for t, ids in zip(texts, expected, strict=True) if fresh.encode_text(t) != ids
        )

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
