"""Open tasks: sentences, tiny stories, lists, comparisons and yes/no questions.

Main name: ``PROSE``, functions from a ``random.Random`` to an ``Exchange``.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from facts_words import CATEGORIES, DEFINITIONS, NUMBERS, OPPOSITES
from facts_world import CAPITALS, COLOURS, a
from tasks import NAMES, Exchange

PLACES = (
    "in the garden",
    "in the forest",
    "at the lake",
    "near the river",
    "on the beach",
    "in the kitchen",
    "on the hill",
    "at the market",
    "in the park",
    "at school",
)
ANIMALS = CATEGORIES["animal"] + CATEGORIES["bird"]
ADJECTIVES = (
    "small",
    "big",
    "old",
    "young",
    "happy",
    "hungry",
    "brown",
    "white",
    "black",
    "friendly",
    "clever",
    "brave",
    "quiet",
)
VERBS = ("sleeps", "sits", "plays", "runs", "waits", "rests", "walks", "stands", "looks around")
FOUND = (
    "an old key",
    "a red ball",
    "a gold coin",
    "a small book",
    "a blue stone",
    "a lost hat",
    "a silver ring",
    "a map",
)
SIZES = (
    "ant",
    "bee",
    "mouse",
    "frog",
    "rabbit",
    "cat",
    "fox",
    "dog",
    "sheep",
    "pig",
    "lion",
    "horse",
    "elephant",
    "whale",
)


def sentence(rng: random.Random) -> Exchange:
    """Write one sentence about an animal."""
    animal = rng.choice(ANIMALS)
    ask = rng.choice(
        (
            "Write a sentence about {}.",
            "Make a sentence with the word {}.",
            "Give me a sentence about {}.",
            "Can you write a sentence about {}?",
        )
    )
    adjective = rng.choice(ADJECTIVES)
    text = rng.choice(
        (
            f"The {adjective} {animal} {rng.choice(VERBS)} {rng.choice(PLACES)}.",
            f"{a(adjective).capitalize()} {animal} {rng.choice(VERBS)} {rng.choice(PLACES)}.",
            f"{rng.choice(NAMES)} sees {a(adjective)} {animal} {rng.choice(PLACES)}.",
        )
    )
    about = animal if "the word" in ask else a(animal)
    return Exchange(f"sentence {animal} {text}", ask.format(about), text)


def story(rng: random.Random) -> Exchange:
    """Tell a story of three to five sentences."""
    name, friend = rng.sample(NAMES, 2)
    animal, place, thing = rng.choice(ANIMALS), rng.choice(PLACES), rng.choice(FOUND)
    about = rng.choice((name, a(animal)))
    ask = rng.choice(
        (
            "Tell me a story about {}.",
            "Write a short story about {}.",
            "Can you tell me a story about {}?",
        )
    )
    open_ = rng.choice(("One day", "One morning", "Last summer", "Once"))
    if about == name:
        text = (
            f"{open_} {name} was {place} and found {thing}. "
            + rng.choice((f"{name} showed it to {friend}. ", f"{name} asked {friend} what to do. "))
            + rng.choice(
                (
                    (
                        "They looked for the owner together. The owner was "
                        f"{a(rng.choice(ADJECTIVES))} man who thanked them."
                    ),
                    "They kept it and told nobody. It was their secret.",
                    "In the end they gave it to the teacher, and all were happy.",
                )
            )
        )
    else:
        adjective = rng.choice(ADJECTIVES)
        text = (
            f"{open_} {a(adjective)} {animal} lived {place}. The {animal} found {thing}. "
            + rng.choice(
                (
                    (
                        f"A girl called {name} came by, and the {animal} gave it to her. "
                        "They became friends."
                    ),
                    (
                        f"It showed the thing to {a(rng.choice(ANIMALS))}. "
                        "They played with it all day."
                    ),
                    f"{name} saw it and laughed. Then they walked home together.",
                )
            )
        )
    return Exchange(f"story {text}", ask.format(about), text)


def listing(rng: random.Random) -> Exchange:
    """Name some members of a category."""
    kind = rng.choice(tuple(CATEGORIES))
    count = rng.randrange(2, 5)
    many = {"fish": "kinds of fish"}.get(kind, f"{kind}s")
    ask = rng.choice(("Name {} {}.", "List {} {}.", "Give me {} {}.", "Tell me {} {}."))
    words = rng.sample(CATEGORIES[kind], count)
    text = f"{', '.join(words[:-1])} and {words[-1]}."
    return Exchange(
        f"name {count} {kind} {text}",
        ask.format(NUMBERS[count], many),
        text[0].upper() + text[1:],
        " ".join(words),
    )


def example(rng: random.Random) -> Exchange:
    """Name one member of a category."""
    kind = rng.choice(tuple(CATEGORIES))
    word = rng.choice(CATEGORIES[kind])
    ask = rng.choice(("Name {}.", "Give me an example of {}.", "Tell me {}."))
    return Exchange(
        f"example {kind} {word}",
        ask.format(a(kind)),
        f"{word[0].upper()}{word[1:]} is {a(kind)}.",
        word,
    )


def membership(rng: random.Random) -> Exchange:
    """Say whether a thing belongs to a category."""
    kind, other = rng.sample(
        (
            "fruit",
            "vegetable",
            "animal",
            "bird",
            "fish",
            "insect",
            "tool",
            "flower",
            "vehicle",
            "instrument",
        ),
        2,
    )
    if {kind, other} <= {"animal", "bird", "fish", "insect"}:
        other = "tool"
    word, true = rng.choice(CATEGORIES[kind]), rng.random() < 0.5
    ask = rng.choice(("Is {} {}?", "Is it true that {} is {}?", "Would you say that {} is {}?"))
    text = (
        f"Yes, {a(word)} is {a(kind)}." if true else f"No, {a(word)} is {a(kind)}, not {a(other)}."
    )
    question = ask.format(a(word), a(kind if true else other))
    return Exchange(f"is {word} {kind if true else other}", question, text, "yes" if true else "no")


def capital_check(rng: random.Random) -> Exchange:
    """Confirm or correct a capital."""
    country, city = rng.choice(tuple(CAPITALS.items()))
    if rng.random() < 0.5:
        return Exchange(
            f"check {city} {country}",
            f"Is {city} the capital of {country}?",
            f"Yes, {city} is the capital of {country}.",
            "yes",
        )
    wrong = rng.choice([other for other in CAPITALS.values() if other != city])
    return Exchange(
        f"check {wrong} {country}",
        f"Is {wrong} the capital of {country}?",
        f"No, the capital of {country} is {city}.",
        "no",
    )


def colour_check(rng: random.Random) -> Exchange:
    """Confirm or correct a colour."""
    thing, colour = rng.choice(tuple(COLOURS.items()))
    asked = colour if rng.random() < 0.5 else rng.choice(CATEGORIES["colour"])
    text = f"Yes, {thing} is {colour}." if asked == colour else f"No, {thing} is {colour}."
    return Exchange(
        f"check {thing} {asked}", f"Is {thing} {asked}?", text, "yes" if asked == colour else "no"
    )


def bigger(rng: random.Random) -> Exchange:
    """Compare the sizes of two animals."""
    first, second = rng.sample(SIZES, 2)
    large = rng.random() < 0.5
    best = max(first, second, key=SIZES.index) if large else min(first, second, key=SIZES.index)
    rest = second if best == first else first
    word = "bigger" if large else "smaller"
    ask = rng.choice(("Which is {w}, {x} or {y}?", "What is {w}, {x} or {y}?"))
    question = ask.format(w=word, x=a(first), y=a(second))
    return Exchange(
        f"size {word} {first} {second}",
        question,
        f"{a(best).capitalize()} is {word} than {a(rest)}.",
        best,
    )


def where_thing(rng: random.Random) -> Exchange:
    """Name the word that a definition describes."""
    word, text = rng.choice(tuple(DEFINITIONS.items()))
    ask = rng.choice(("What do we call {}?", "What is the word for {}?", "Which word means {}?"))
    return Exchange(f"word {word}", ask.format(text), f"That is called {word}.", word)


def opposite_check(rng: random.Random) -> Exchange:
    """Say whether two words are opposites."""
    word, other = rng.choice(tuple(OPPOSITES.items()))
    if rng.random() < 0.5:
        return Exchange(
            f"opp {word} {other}",
            f"Is {word} the opposite of {other}?",
            f"Yes, {word} is the opposite of {other}.",
            "yes",
        )
    wrong = rng.choice(tuple(OPPOSITES))
    if wrong == other:
        wrong = word
    return Exchange(
        f"opp {wrong} {word}",
        f"Is {wrong} the opposite of {word}?",
        f"No, the opposite of {word} is {other}.",
        "no",
    )


PROSE: dict[str, Callable[[random.Random], Exchange]] = {
    f.__name__: f
    for f in (
        sentence,
        story,
        listing,
        example,
        membership,
        capital_check,
        colour_check,
        bigger,
        where_thing,
        opposite_check,
    )
}
