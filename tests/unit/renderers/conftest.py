"""Tokenizers and conversations that renderer tests share."""

from typing import Any

import pytest
from hypothesis import strategies as st

from tests.assets import asset
from tinsmith.renderers import Message, get_tokenizer


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_dir: object) -> Any:
    return get_tokenizer("tinsmith/tiny")


@pytest.fixture(scope="session")
def qwen_tokenizer() -> Any:
    """A vocabulary with Qwen's pre-tokenizer, which joins line breaks, and its NFC normalizer."""
    return get_tokenizer(str(asset("tokenizers", "standin", "qwen2-qwen3")))


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
