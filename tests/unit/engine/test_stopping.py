"""Stop texts and tokens: where they appear, not before and not after."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.core.errors import UserError
from tinsmith.engine import stopping
from tinsmith.engine.stopping import StopRules, StopTexts, TextWatch, end_tokens
from tinsmith.renderers.tokenizers import get_tokenizer

TEXT = st.text(st.sampled_from(list("ab ü日🙂\n.")), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def tokenizer(tiny_dir: Path) -> Any:
    return get_tokenizer(str(tiny_dir))


def make_watch(tiny_dir: Path, words: list[str], *, by_decoding: bool) -> TextWatch:
    texts = StopTexts(str(tiny_dir), frozenset())
    make = texts.watch(tuple(words))
    if by_decoding:
        texts._pieces = None
        make = texts.watch(tuple(words))
    return make()


def place_of_stop(watch: TextWatch, tokens: list[int]) -> int | None:
    return next((place for place, token in enumerate(tokens) if watch.push(token)), None)


def expected_place(tokenizer: Any, tokens: list[int], words: list[str]) -> int | None:
    """By decoding everything so far at every token."""
    for place in range(len(tokens)):
        text = tokenizer.decode(tokens[: place + 1], skip_special_tokens=False)
        if any(word in text for word in words):
            return place
    return None


@pytest.mark.parametrize("by_decoding", [False, True])
@given(text=TEXT, words=st.lists(TEXT.map(lambda t: t[:3]), min_size=1, max_size=2))
def test_a_stop_text_ends_where_it_first_appears(
    tiny_dir: Path, tokenizer: Any, by_decoding: bool, text: str, words: list[str]
) -> None:
    tokens = tokenizer.encode(text, add_special_tokens=False)
    found = place_of_stop(make_watch(tiny_dir, words, by_decoding=by_decoding), tokens)
    assert found == expected_place(tokenizer, tokens, words)


@pytest.mark.parametrize("by_decoding", [False, True])
def test_a_character_spread_over_tokens_counts_at_its_last_byte(
    tiny_dir: Path, tokenizer: Any, by_decoding: bool
) -> None:
    tokens = tokenizer.encode("x🙂y", add_special_tokens=False)
    assert len(tokens) > 3, "the character takes several tokens"
    whole = [tokenizer.decode(tokens[: n + 1]) for n in range(len(tokens))]
    last = next(n for n, text in enumerate(whole) if "🙂" in text)
    watch = make_watch(tiny_dir, ["🙂"], by_decoding=by_decoding)
    assert place_of_stop(watch, tokens) == last
    # The first bytes of another character are not a replacement character of the text.
    other = make_watch(tiny_dir, ["\ufffd"], by_decoding=False)
    assert place_of_stop(other, tokens) is None


@pytest.mark.parametrize("by_decoding", [False, True])
def test_control_tokens_can_be_given_as_text(
    tiny_dir: Path, tokenizer: Any, by_decoding: bool
) -> None:
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokens = [*tokenizer.encode("so it is", add_special_tokens=False), end]
    watch = make_watch(tiny_dir, ["<|im_end|>"], by_decoding=by_decoding)
    assert place_of_stop(watch, tokens) == len(tokens) - 1


def test_bytes_of_every_token_join_to_the_decoded_text(tokenizer: Any) -> None:
    pieces = stopping._byte_pieces(tokenizer)
    assert pieces is not None
    text = "Größe 日本 🙂\n\tend<|im_end|>"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert b"".join(pieces[token] for token in tokens).decode() == text


def test_rules_of_every_form_of_stop(tiny_dir: Path) -> None:
    texts = StopTexts(str(tiny_dir), frozenset({2, 0}))
    assert StopRules.from_params(None, texts).tokens == {0, 2}
    assert StopRules.from_params([], texts) == StopRules(frozenset(), None)
    assert StopRules.from_params([5, 7], texts) == StopRules(frozenset({5, 7}), None)
    for words in ("end", ["end"], ["x", "end"]):
        rules = StopRules.from_params(words, texts)
        assert rules.tokens == frozenset()
        assert rules.make_watch is not None


def test_stop_texts_without_a_tokenizer_are_refused(model_dir: Path) -> None:
    texts = StopTexts(str(model_dir), frozenset())
    with pytest.raises(UserError, match="stop texts need the model's tokenizer") as caught:
        StopRules.from_params("end", texts)
    assert caught.value.field == "sampling_params.stop"


def test_end_tokens_come_from_the_generation_config_and_the_config(tiny_dir: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_dir)
    assert end_tokens(model, str(tiny_dir)) == {2, 0}
    model.generation_config.eos_token_id = None
    assert end_tokens(model, str(tiny_dir)) == {2}
    model.config.eos_token_id = None
    assert end_tokens(model, str(tiny_dir)) == {get_tokenizer(str(tiny_dir)).eos_token_id}
