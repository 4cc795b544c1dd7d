"""The training text: an endless, seeded stream of short ChatML conversations.

A conversation is a list of ``{"role", "content"}``. Problems are split by their key: one in twenty
is held out and never appears in training, in any wording. Main names: ``conversations``,
``exchange``, ``render``.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

from facts_words import WORDS
from facts_world import WORLD, Relation, a
from prose import PROSE
from talk import CLOSINGS, TALK
from tasks import NAMES, TASKS, Exchange

Message = dict[str, str]

RELATIONS = {relation.name: relation for relation in (*WORLD, *WORDS)}
HELD_OUT_ONE_IN = 20

WEIGHTS: dict[str, float] = {
    "relation": 34.0,
    "talk": 9.0,
    "prose": 11.0,
    "addition": 9.0,
    "subtraction": 6.0,
    "multiplication": 1.5,
    "sorting": 9.0,
    "reversing": 8.0,
    "spelling": 2.5,
    "joining": 1.0,
    "letter_at": 1.0,
    "list_reversing": 1.5,
    "extreme": 1.5,
    "parity": 1.0,
    "counting": 0.5,
    "word_problem": 1.5,
    "reading": 2.0,
    "repeating": 1.0,
    "odd_one_out": 0.5,
}
"""How often each kind of exchange is drawn."""

PLAIN_SYSTEMS = (
    "You are a helpful assistant.",
    "You are a small assistant that answers simple questions.",
    "You are a friendly assistant.",
    "Answer the question.",
    "You help people with short answers.",
)
SHORT_SYSTEMS = (
    "Answer in one word.",
    "Answer briefly.",
    "Give short answers.",
    "Use as few words as you can.",
)
POLITE_SYSTEMS = ("Be very polite.", "You are a very polite assistant.")
SURE_SYSTEMS = ('Begin every answer with "Sure".', "Always start with the word Sure.")
OPENERS = (
    "Please tell me: ",
    "Quick question: ",
    "Hello! ",
    "Hi! ",
    "I have a question. ",
    "Can you help me? ",
    "Now tell me: ",
)
FOLLOW_UPS = ("And {}?", "What about {}?", "And what about {}?", "How about {}?")


def is_held_out(key: str) -> bool:
    """Tell whether the problem with this key is kept away from training."""
    return zlib.crc32(key.encode()) % HELD_OUT_ONE_IN == 0


def _upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def fact(rng: random.Random, relation: Relation, subject: str, ask: str | None = None) -> Exchange:
    """Ask one fact of a relation; held out by (relation, wording, subject), so facts stay known."""
    ask = ask or rng.choice(relation.questions)
    names = {"s": subject, "o": relation.items[subject], "as": a(subject)}
    answer = rng.choice(relation.answers[:1] * 2 + relation.answers)
    return Exchange(
        f"{relation.name}|{ask}|{subject}",
        _upper_first(ask.format(**names)),
        _upper_first(answer.format(**names)),
        names["o"],
    )


def _draw(rng: random.Random, kind: str) -> Exchange:
    if kind == "relation":
        relation = rng.choice(tuple(RELATIONS.values()))
        if rng.random() < 0.3:
            relation = RELATIONS[rng.choice(("capital", "colour", "opposite", "meaning"))]
        return fact(rng, relation, rng.choice(tuple(relation.items)))
    if kind == "talk":
        talk = rng.choice([talk for talks in TALK.values() for talk in talks])
        question = rng.choice(talk.questions)
        return Exchange(f"talk {question} {rng.random()}", question, rng.choice(talk.answers))
    if kind == "prose":
        return PROSE[rng.choice(tuple(PROSE))](rng)
    task, difficulties = TASKS[kind]
    return task(rng, rng.choice(difficulties))


def exchange(rng: random.Random, kind: str, held_out: bool = False) -> Exchange:
    """Draw an exchange of one kind from the training problems, or from those held out."""
    while True:
        drawn = _draw(rng, kind)
        if is_held_out(drawn.key) == held_out:
            return drawn


def _roughen(rng: random.Random, question: str) -> str:
    """Vary a question as people do: an opener, no capitals, no question mark, a please."""
    roll = rng.random()
    if roll < 0.06:
        return rng.choice(OPENERS) + question
    if roll < 0.11:
        return question[0].lower() + question[1:]
    if roll < 0.15:
        return question.rstrip("?.")
    if roll < 0.18 and question.endswith("."):
        return f"{question[:-1]}, please."
    return question


def _styled(rng: random.Random, style: str, item: Exchange) -> str:
    if style == "short" and item.short:
        return f"{_upper_first(item.short)}."
    if style == "polite":
        return f"{item.answer} I hope this helps."
    if style == "sure":
        return f"Sure. {item.answer}"
    return item.answer


def _system(rng: random.Random) -> tuple[str, str]:
    roll = rng.random()
    if roll < 0.70:
        return "", ""
    if roll < 0.85:
        return rng.choice(PLAIN_SYSTEMS), ""
    style, choices = rng.choice(
        (
            ("short", SHORT_SYSTEMS),
            ("short", SHORT_SYSTEMS),
            ("polite", POLITE_SYSTEMS),
            ("sure", SURE_SYSTEMS),
        )
    )
    return rng.choice(choices), style


def _turn(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _follow_ups(rng: random.Random, style: str) -> list[Message]:
    """Ask a fact, then the same about another subject in two or three words."""
    relation = RELATIONS[rng.choice(tuple(RELATIONS))]
    subjects = rng.sample(tuple(relation.items), rng.choice((2, 2, 3)))
    first = fact(rng, relation, subjects[0])
    if is_held_out(first.key):
        return _follow_ups(rng, style)
    turns = _turn(_roughen(rng, first.question), _styled(rng, style, first))
    for subject in subjects[1:]:
        item = fact(rng, relation, subject)
        named = relation.follow.format(s=subject)
        turns += _turn(rng.choice(FOLLOW_UPS).format(named), _styled(rng, style, item))
    return turns


def _name_memory(
    rng: random.Random, kinds: tuple[str, ...], weights: tuple[float, ...]
) -> list[Message]:
    """Tell a name, talk of something else, and ask for the name."""
    name = rng.choice(NAMES)
    hello = rng.choice(
        ("My name is {}.", "I am {}.", "Hello, I am {}.", "Hi, my name is {}.")
    ).format(name)
    turns = _turn(hello, f"Nice to meet you, {name}. How can I help you?")
    for _ in range(rng.choice((0, 0, 1))):
        item = exchange(rng, rng.choices(kinds, weights)[0])
        turns += _turn(item.question, item.answer)
    if rng.random() < 0.7:
        turns += _turn(
            rng.choice(("What is my name?", "Do you know my name?", "Who am I?")),
            f"Your name is {name}.",
        )
    return turns


def conversation(rng: random.Random, held_out: bool = False, turns: int = 0) -> list[Message]:
    """Draw a conversation; ``turns`` fixes the number of exchanges (0: mostly one)."""
    kinds, weights = tuple(WEIGHTS), tuple(WEIGHTS.values())
    system, style = _system(rng)
    head = [{"role": "system", "content": system}] if system else []
    if not held_out and not turns:
        roll = rng.random()
        if roll < 0.09:
            return head + _follow_ups(rng, style)
        if roll < 0.11:
            return _name_memory(rng, kinds, weights)
    messages = head
    for _ in range(turns or rng.choices((1, 2, 3), (12, 2, 1))[0]):
        item = exchange(rng, rng.choices(kinds, weights)[0], held_out)
        messages += _turn(_roughen(rng, item.question), _styled(rng, style, item))
    if rng.random() < 0.04:
        closing = rng.choice(CLOSINGS)
        messages += _turn(rng.choice(closing.questions), rng.choice(closing.answers))
    return messages


def conversations(seed: int, held_out: bool = False, turns: int = 0) -> Iterator[list[Message]]:
    """Yield conversations for ever; the same seed gives the same stream."""
    rng = random.Random(seed)
    while True:
        yield conversation(rng, held_out, turns)


def render(messages: list[Message]) -> str:
    """Write a conversation in ChatML, as the chat template of the model does."""
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
