"""Tokenizers and conversations that renderer tests share."""

from typing import Any

import pytest
from hypothesis import strategies as st

from tests.assets import REPOSITORY
from tests.parity import ParityTally, tally_of
from tinsmith.renderers import Message, get_tokenizer


@pytest.fixture
def tally(pytestconfig: pytest.Config) -> ParityTally:
    """Counts what the parity suites compare; a mismatch fails its test and is never counted."""
    return tally_of(pytestconfig)


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_dir: object) -> Any:
    return get_tokenizer("tinsmith/tiny")


QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="session")
def joining_tokenizer() -> Any:
    """A small vocabulary that joins line breaks, as Qwen's does, so that cuts can go wrong."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    text = ["user\n\n\nHello  there:\r\n\r\n", "assistant\n\n don't \n \n", "system\n\t\n"] * 20
    backend.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")


@pytest.fixture(scope="session")
def qwen_tokenizer() -> Any:
    """A stand-in for Qwen's vocabulary, with its pre-tokenizer and normalizer."""
    return get_tokenizer(str(REPOSITORY / "tests" / "golden" / "tokenizers" / "qwen2-qwen3"))


# Line breaks, blanks, several scripts, combining marks and emoji, often at the edges of a text.
EDGES = ("\n", "\n\n", " ", "  ", "\t", "\r\n", "a", "Hello", "don't", ":", "user", "<", "|>", "12")
SCRIPTS = (
    "é",
    "e\u0301",
    "你好",
    "🥳",
    "👩\u200d👧",
    "مرحبا",
    "\u200b",
    "\u2028",
    "\x07",
    "\ufeff",
)
PIECES = st.sampled_from((*EDGES, *SCRIPTS))
TEXTS = st.one_of(
    st.lists(PIECES, max_size=8).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)


def normalized(tokenizer: Any, text: str) -> str:
    """What the tokenizer's normalizer (NFC) leaves of a text."""
    return tokenizer.decode(
        tokenizer.encode(text, add_special_tokens=False), clean_up_tokenization_spaces=False
    )


def conversations(
    *, last: str | None = None, max_size: int = 5, texts: st.SearchStrategy[str] = TEXTS
) -> st.SearchStrategy[list[Message]]:
    """Conversations of any shape; `last` fixes the role of the final message."""
    roles = st.sampled_from(["system", "user", "assistant"])

    def message(role: str, content: str) -> Message:
        return {"role": role, "content": content}

    any_message = st.builds(message, roles, texts)
    if last is None:
        return st.lists(any_message, min_size=1, max_size=max_size)
    ending = st.builds(message, st.just(last), texts)
    return st.builds(
        lambda body, end: [*body, end], st.lists(any_message, max_size=max_size), ending
    )
