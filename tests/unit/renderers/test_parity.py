"""Every family equals `apply_chat_template`, token for token.

Three proofs: the golden battery of the assets (stand-in and real vocabularies), random
conversations against the templates themselves, and our own recordings in tests/golden, which need
nothing from outside. What a family refuses or writes otherwise on purpose is listed in
`families.py`, is counted, and must really be so.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import jinja2
import pytest
from hypothesis import given

from tests.assets import asset
from tests.parity import ParityTally
from tests.unit.renderers.chat_strategy import chats, drawn
from tests.unit.renderers.families import (
    GOLDEN,
    NOW,
    PROVED,
    Family,
    fitted,
    standin,
    template_of,
)
from tinsmith.renderers import Message, Renderer, RendererError, get_tokenizer
from tinsmith.renderers.verification import battery as our_battery


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates and renderers read the golden files' date."""
    import datetime

    import transformers.utils.chat_template_utils as templates

    class Fixed(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return NOW

    class FixedDate(datetime.date):
        @classmethod
        def today(cls) -> Any:
            return NOW.date()

    monkeypatch.setattr(templates, "datetime", Fixed)
    monkeypatch.setattr(datetime, "date", FixedDate)


@lru_cache(maxsize=1)
def battery() -> dict[str, dict[str, Any]]:
    return {c["id"]: c for c in json.loads(asset("conversations.json").read_text("utf-8"))}


def messages_of(conversation: dict[str, Any]) -> list[Message]:
    return conversation["messages"]


def tokens_of(
    renderer: Renderer, messages: list[Message], tools: list[Any], *, opens_reply: bool
) -> list[int]:
    """As the library is used; images are their placeholders."""
    if opens_reply and not any(isinstance(m["content"], list) for m in messages):
        return renderer.build_generation_prompt(messages, tools=tools).to_ints()
    return renderer.template_tokens(messages, tools=tools, add_generation_prompt=opens_reply)


def cases(golden: dict[str, Any], family: Family) -> Iterator[tuple[dict[str, Any], bool, Any]]:
    """Conversation, whether a reply is opened, and the recording (None: the template refuses)."""
    for case in golden["cases"]:
        if case["mode"] == "chat" and case["kwargs"] == dict(family.options):
            recorded = None if "error" in case else golden["renders"][case["render"]]
            yield battery()[case["conv"]], case["add_generation_prompt"], recorded


@pytest.mark.parametrize("family", [f for f in PROVED if f.golden], ids=str)
@pytest.mark.parametrize("vocabulary", ["standin", "real"])
def test_the_golden_battery(family: Family, vocabulary: str, tally: ParityTally) -> None:
    golden = json.loads(asset("golden", f"{family.golden}.json").read_text("utf-8"))
    folder = asset("tokenizers", vocabulary) / family.tokenizer
    if not folder.exists():
        pytest.skip(f"no real vocabulary of {family.tokenizer} is at hand")
    tokenizer = get_tokenizer(str(folder))
    renderer = family.make(tokenizer, special_text="control")
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for conversation, opens_reply, recorded in cases(golden, family):
        if recorded is None:
            counts["template refuses"] += 1
            continue
        messages = messages_of(conversation)
        tools = conversation.get("tools") or [] if family.declares_tools else []
        if family.reason("refused", conversation):
            with pytest.raises(RendererError):
                tokens_of(renderer, messages, tools, opens_reply=opens_reply)
            counts["refused"] += 1
            continue
        tokens = tokens_of(renderer, messages, tools, opens_reply=opens_reply)
        equal = tokens == recorded[f"ids_{vocabulary}"]
        if family.reason("differs", conversation):
            assert not equal, f"{conversation['id']} is said to differ and does not"
            counts["differs on purpose"] += 1
        elif equal:
            counts["equal"] += 1
            counts["tokens"] += len(tokens)
        else:
            wrong.append(difference(tokenizer, conversation["id"], tokens, recorded["text"]))
    assert wrong == [], "\n".join(wrong[:3])
    assert counts["equal"] > 40
    tally.add(family, f"golden battery, {vocabulary} vocabulary", counts)


def difference(tokenizer: Any, name: str, tokens: list[int], text: str) -> str:
    ours = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
    return f"{name}\n  ours:     {ours!r}\n  template: {text!r}"


def template_tokens(
    tokenizer: Any, template: str, family: Family, chat: Any, *, opens_reply: bool
) -> list[int]:
    messages, tools = family.template_form(chat)
    return tokenizer.apply_chat_template(
        messages,
        tools=tools or None,
        chat_template=template,
        add_generation_prompt=opens_reply,
        tokenize=True,
        return_dict=False,
        **family.options,
    )


NUM_RANDOM = 500
NUM_RANDOM_VARIANT = 100
"""For a second renderer of the same template, such as one with another option."""


def num_random(family: Family) -> int:
    first = next(other for other in PROVED if other.template == family.template)
    return NUM_RANDOM if first is family else NUM_RANDOM_VARIANT


@pytest.mark.parametrize("family", PROVED, ids=str)
def test_random_conversations(family: Family, tally: ParityTally) -> None:
    """Random conversations, each as a prompt and as a whole, against the template itself."""
    renderer = family.make(standin(family.tokenizer), special_text="control")
    template = template_of(family)
    counts: Counter[str] = Counter()

    def check(chat: Any) -> None:
        part = fitted(family, renderer, chat)
        for opens_reply in (True, False):
            expected = template_tokens(
                renderer.tokenizer, template, family, part, opens_reply=opens_reply
            )
            tokens = tokens_of(renderer, *part, opens_reply=opens_reply)
            assert tokens == list(expected), (part, opens_reply)
            counts["tokens"] += len(tokens)
        counts["random conversations"] += 1

    try:
        for chat in drawn(chats, NUM_RANDOM)[-num_random(family) :]:
            check(chat)
    except AssertionError:
        given(chat=chats())(check)()  # finds the smallest conversation that differs
        raise
    tally.add(family, "random conversations", counts)
    assert counts["random conversations"] >= num_random(family)


RECORDINGS = GOLDEN / "renderers"


def sha256(text: str | bytes) -> str:
    return hashlib.sha256(text if isinstance(text, bytes) else text.encode()).hexdigest()


def record(family: Family, renderer: Renderer) -> None:
    """Write down what the template gives: the oracle speaks, never the renderer."""
    template = template_of(family)
    cases = []
    for conversation in our_battery():
        chat = fitted(family, renderer, (conversation.messages, conversation.tools))
        for opens_reply in (True, False):
            try:
                ids = template_tokens(
                    renderer.tokenizer, template, family, chat, opens_reply=opens_reply
                )
            except (jinja2.TemplateError, TypeError):
                continue  # a conversation that the template refuses
            text = renderer.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            case = {"conversation": conversation.name, "opens_reply": opens_reply,
                    "text_sha256": sha256(text), "ids": " ".join(map(str, ids))}  # fmt: skip
            cases.append(case)
    head = {"template_sha256": sha256(template), "tokenizer": family.tokenizer,
            "tokenizer_sha256": vocabulary_hash(family)}  # fmt: skip
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    text = f'{json.dumps(head)[:-1]},\n"cases": [\n{lines}\n]}}\n'
    (RECORDINGS / f"{family}.json").write_text(text, encoding="utf-8")


def vocabulary_hash(family: Family) -> str:
    return sha256((GOLDEN / "tokenizers" / family.tokenizer / "tokenizer.json").read_bytes())


@pytest.mark.parametrize("family", PROVED, ids=str)
def test_own_recordings(family: Family, request: pytest.FixtureRequest, tally: ParityTally) -> None:
    """What the templates gave when we asked them; a missing recording is a failure."""
    renderer = family.make(standin(family.tokenizer), special_text="control")
    if request.config.getoption("--regenerate-golden"):
        record(family, renderer)
    recorded = json.loads((RECORDINGS / f"{family}.json").read_text("utf-8"))
    assert recorded["tokenizer_sha256"] == vocabulary_hash(family)
    by_name = {chat.name: chat for chat in our_battery()}
    counts: Counter[str] = Counter()
    for case in recorded["cases"]:
        conversation = by_name[case["conversation"]]
        chat = fitted(family, renderer, (conversation.messages, conversation.tools))
        tokens = tokens_of(renderer, *chat, opens_reply=case["opens_reply"])
        where = (case["conversation"], case["opens_reply"])
        assert tokens == [int(token) for token in case["ids"].split()], where
        text = renderer.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        assert sha256(text) == case["text_sha256"], where
        counts["recorded"] += 1
        counts["tokens"] += len(tokens)
    tally.add(family, "own recordings", counts)
    assert counts["recorded"] >= 20


@pytest.mark.parametrize("family", PROVED, ids=str)
def test_one_changed_character_is_noticed(family: Family) -> None:
    """The comparison itself can fail: each character of a template's text, changed, is seen."""
    tokenizer = standin(family.tokenizer)
    renderer = family.make(tokenizer)
    messages: list[Message] = [{"role": "user", "content": "Hi"}]
    tokens = tokens_of(renderer, messages, [], opens_reply=True)
    text = renderer.render_text(messages, add_generation_prompt=True)
    for place, letter in enumerate(text):
        changed = text[:place] + ("x" if letter != "x" else "y") + text[place + 1 :]
        assert tokenizer.encode(changed, add_special_tokens=False) != tokens, place
    assert tokenizer.encode(text, add_special_tokens=False) == tokens
