"""Tasks with one checkable answer: sums, sorting, reversing, counting, choosing, reading.

Every task draws a problem at a difficulty from a ``random.Random`` and returns an ``Exchange``.
The answers to the three tasks that ``evaluate.py`` measures are bare ("57", "3 8 12", "tac"), so
that exact match is a fair reward. Main names: ``Exchange``, ``TASKS``, ``MEASURED``.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from facts_words import CATEGORIES, LETTER_WORDS, NUMBERS
from facts_world import words as split_words

NAMES = split_words("""
Anna Ben Carla Dan Emma Finn Grace Hugo Ida Jack Kate Leo Mia Nora Otto Paul Rosa Sam Tom Zoe
""")
THINGS = split_words("""
apples books coins pens stones shells stamps eggs balls cards cakes nuts keys cups
""")


class Exchange(NamedTuple):
    """One question with its answer."""

    key: str
    """Names the problem whatever its wording; decides whether it is held out."""
    question: str
    answer: str
    short: str = ""
    """The answer in as few words as possible, where one exists."""


Task = Callable[[random.Random, int], Exchange]


def _digits(rng: random.Random, digits: int) -> int:
    return rng.randrange(10) if digits == 1 else rng.randrange(10 ** (digits - 1), 10**digits)


def addition(rng: random.Random, digits: int) -> Exchange:
    """Add two numbers of up to ``digits`` digits."""
    x, y = _digits(rng, digits), _digits(rng, digits)
    ask = rng.choice(
        (
            "What is {} + {}?",
            "{} + {} = ?",
            "Add {} and {}.",
            "What is {} plus {}?",
            "Calculate {} + {}.",
        )
    )
    return Exchange(f"{x}+{y}", ask.format(x, y), str(x + y))


def subtraction(rng: random.Random, digits: int) -> Exchange:
    """Subtract the smaller of two numbers from the larger."""
    x, y = sorted((_digits(rng, digits), _digits(rng, digits)), reverse=True)
    ask = rng.choice(
        ("What is {} - {}?", "{} - {} = ?", "What is {} minus {}?", "Calculate {} - {}.")
    )
    return Exchange(f"{x}-{y}", ask.format(x, y), str(x - y))


def multiplication(rng: random.Random, digits: int) -> Exchange:
    """Multiply two numbers from the small times table."""
    x, y = rng.randrange(2, 10 + digits), rng.randrange(2, 10)
    ask = rng.choice(("What is {} * {}?", "What is {} times {}?", "Multiply {} and {}."))
    return Exchange(f"{x}*{y}", ask.format(x, y), str(x * y))


def sorting(rng: random.Random, count: int) -> Exchange:
    """Sort ``count`` numbers below 100, up by default and down when asked."""
    numbers = [rng.randrange(100) for _ in range(count)]
    down = rng.random() < 0.15
    ask = rng.choice(
        ("Sort in descending order: {}", "Sort from largest to smallest: {}")
        if down
        else (
            "Sort these numbers: {}",
            "Sort: {}",
            "Put these numbers in order: {}",
            "Sort in ascending order: {}",
            "Sort from smallest to largest: {}",
        )
    )
    shown = " ".join(map(str, numbers))
    return Exchange(
        f"sort {shown}", ask.format(shown), " ".join(map(str, sorted(numbers, reverse=down)))
    )


def letters(rng: random.Random, length: int) -> str:
    """Return a word of ``length`` letters: half of the time from the list, else drawn at random."""
    known = [word for word in LETTER_WORDS if len(word) == length]
    if known and rng.random() < 0.5:
        return rng.choice(known)
    pattern = ("bcdfghklmnprstvw", "aeiou") if rng.random() < 0.8 else ("aeiou", "bcdfghklmnprstvw")
    return "".join(rng.choice(pattern[i % 2]) for i in range(length))


def reversing(rng: random.Random, length: int) -> Exchange:
    """Reverse the letters of a word."""
    word = letters(rng, length)
    ask = rng.choice(
        (
            "Reverse the word: {}",
            "Reverse: {}",
            "Write {} backwards.",
            "Reverse the letters of {}.",
            'What is "{}" backwards?',
        )
    )
    return Exchange(f"reverse {word}", ask.format(word), word[::-1])


def spelling(rng: random.Random, length: int) -> Exchange:
    """Spell a word, its letters apart, forwards or backwards."""
    word = letters(rng, length)
    back = rng.random() < 0.4
    ask = rng.choice(
        ("Spell {} backwards.", "Spell the word {} backwards.")
        if back
        else ("Spell the word {}.", "Spell {}.", "How do you spell {}?")
    )
    return Exchange(f"spell {word}", ask.format(word), " ".join(word[::-1] if back else word))


def joining(rng: random.Random, length: int) -> Exchange:
    """Join letters that stand apart into a word."""
    word = letters(rng, length)
    ask = rng.choice(("Join these letters: {}", "Which word is this: {}?"))
    return Exchange(f"join {word}", ask.format(" ".join(word)), word)


def letter_at(rng: random.Random, length: int) -> Exchange:
    """Name the first or the last letter of a word, or count its letters."""
    word = letters(rng, length)
    what = rng.choice(("first", "last", "count"))
    if what == "count":
        ask = rng.choice(("How many letters are in the word {}?", "How many letters does {} have?"))
        return Exchange(
            f"count {word}", ask.format(word), f"The word {word} has {length} letters.", str(length)
        )
    ask = rng.choice(("What is the {} letter of {}?", "Which is the {} letter of the word {}?"))
    letter = word[0] if what == "first" else word[-1]
    return Exchange(
        f"{what} {word}",
        ask.format(what, word),
        f"The {what} letter of {word} is {letter}.",
        letter,
    )


def list_reversing(rng: random.Random, count: int) -> Exchange:
    """Reverse a list of digits or of words."""
    words = (
        [str(rng.randrange(10)) for _ in range(count)]
        if rng.random() < 0.5
        else rng.sample(LETTER_WORDS, count)
    )
    ask = rng.choice(("Reverse this list: {}", "Write this list backwards: {}"))
    return Exchange(f"list {words}", ask.format(" ".join(words)), " ".join(words[::-1]))


def extreme(rng: random.Random, count: int) -> Exchange:
    """Choose the largest or the smallest of some numbers."""
    numbers = rng.sample(range(100), count)
    large = rng.random() < 0.5
    ask = rng.choice(
        (
            "What is the largest number: {}?",
            "Which number is the biggest: {}?",
            "Find the maximum: {}",
        )
        if large
        else (
            "What is the smallest number: {}?",
            "Which number is the smallest: {}?",
            "Find the minimum: {}",
        )
    )
    shown = ", ".join(map(str, numbers))
    best = max(numbers) if large else min(numbers)
    return Exchange(
        f"{large} {shown}",
        ask.format(shown),
        f"The {'largest' if large else 'smallest'} number is {best}.",
        str(best),
    )


def parity(rng: random.Random, digits: int) -> Exchange:
    """Tell even from odd numbers, or name the neighbours of a number."""
    x = _digits(rng, digits) + 1
    kind = rng.choice(("parity", "after", "before"))
    if kind == "parity":
        word = "even" if x % 2 == 0 else "odd"
        return Exchange(f"parity {x}", f"Is {x} even or odd?", f"{x} is {word}.", word)
    other = x + 1 if kind == "after" else x - 1
    ask = rng.choice(("What number comes {} {}?", "Which number is just {} {}?"))
    return Exchange(f"{kind} {x}", ask.format(kind, x), f"{other} comes {kind} {x}.", str(other))


def counting(rng: random.Random, top: int) -> Exchange:
    """Count up or down."""
    top += 1
    if rng.random() < 0.5:
        return Exchange(
            f"count to {top}", f"Count to {top}.", " ".join(map(str, range(1, top + 1)))
        )
    start = rng.randrange(60)
    return Exchange(
        f"count {start} {top}",
        f"Count from {start} to {start + top}.",
        " ".join(map(str, range(start, start + top + 1))),
    )


def word_problem(rng: random.Random, size: int) -> Exchange:
    """Solve a one-step story problem with small numbers."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    x, y = sorted((rng.randrange(1, 6 * size), rng.randrange(1, 6 * size)), reverse=True)
    if rng.random() < 0.5:
        story = rng.choice(
            (
                "{} has {} {} and gets {} more.",
                "{} has {} {} and buys {} more.",
                "{} finds {} {} and then {} more.",
            )
        )
        result = x + y
    else:
        story = rng.choice(
            (
                "{} has {} {} and gives away {}.",
                "{} has {} {} and loses {}.",
                "{} has {} {} and sells {}.",
            )
        )
        result = x - y
    question = f"{story.format(name, x, thing, y)} How many {thing} does {name} have now?"
    return Exchange(
        f"story {x} {y} {result}", question, f"{name} has {result} {thing} now.", str(result)
    )


def reading(rng: random.Random, people: int) -> Exchange:
    """Find in a short text who has what, or which colour a thing has."""
    names, colours = rng.sample(NAMES, people), rng.sample(CATEGORIES["colour"], people)
    things = rng.sample(
        ("ball", "hat", "kite", "car", "book", "bag", "cup", "coat", "bike", "doll"), people
    )
    text = " ".join(f"{n} has a {c} {t}." for n, c, t in zip(names, colours, things, strict=True))
    i = rng.randrange(people)
    name, colour, thing = names[i], colours[i], things[i]
    question, answer, short = rng.choice(
        (
            (f"What colour is the {thing}?", f"The {thing} is {colour}.", colour),
            (f"Who has the {thing}?", f"{name} has the {thing}.", name),
            (f"What does {name} have?", f"{name} has a {colour} {thing}.", thing),
        )
    )
    return Exchange(f"read {text} {question}", f"{text} {question}", answer, short)


def repeating(rng: random.Random, count: int) -> Exchange:
    """Say a word a number of times, or repeat some words."""
    if rng.random() < 0.5:
        word = rng.choice(LETTER_WORDS)
        return Exchange(
            f"say {word} {count}", f"Say {word} {NUMBERS[count]} times.", " ".join([word] * count)
        )
    words = " ".join(rng.sample(LETTER_WORDS, count))
    ask = rng.choice(("Repeat after me: {}", "Repeat these words: {}", "Say this: {}"))
    return Exchange(f"repeat {words}", ask.format(words), words)


def odd_one_out(rng: random.Random, count: int) -> Exchange:
    """Find the word that does not belong to the others."""
    kind, other = rng.sample(("fruit", "animal", "tool", "colour", "drink", "vehicle", "metal"), 2)
    odd = rng.choice(CATEGORIES[other])
    words = [*rng.sample(CATEGORIES[kind], count), odd]
    rng.shuffle(words)
    shown = ", ".join(words)
    return Exchange(
        f"odd {shown}", f"Which word does not fit: {shown}?", f"The word {odd} does not fit.", odd
    )


TASKS: dict[str, tuple[Task, tuple[int, ...]]] = {
    "addition": (addition, (1, 2, 2, 2, 3)),
    "subtraction": (subtraction, (1, 2, 2)),
    "multiplication": (multiplication, (1, 2)),
    "sorting": (sorting, (2, 3, 3, 4, 5)),
    "reversing": (reversing, (3, 3, 4, 4, 5, 6)),
    "spelling": (spelling, (3, 4, 5, 6)),
    "joining": (joining, (3, 4, 5, 6)),
    "letter_at": (letter_at, (3, 4, 5, 6)),
    "list_reversing": (list_reversing, (2, 3, 4, 5)),
    "extreme": (extreme, (2, 3, 4)),
    "parity": (parity, (1, 2)),
    "counting": (counting, (3, 4, 5, 7, 9)),
    "word_problem": (word_problem, (1, 2)),
    "reading": (reading, (1, 2, 3)),
    "repeating": (repeating, (2, 3, 4)),
    "odd_one_out": (odd_one_out, (3,)),
}
"""Each task with the difficulties that training draws from."""

MEASURED: dict[str, tuple[int, ...]] = {
    "addition": (1, 2, 3),
    "subtraction": (1, 2),
    "sorting": (2, 3, 4, 5),
    "reversing": (3, 4, 5, 6),
}
