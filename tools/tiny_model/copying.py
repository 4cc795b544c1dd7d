"""Text to copy, so that every token of the vocabulary has been read and written in training.

The facts use few punctuation marks and no other scripts; without this, the embeddings of the
tokens for those stay near their random start and fine-tuning on other text cannot tell them apart.
Half of the texts are random tokens, half are lively sentences with contractions and quotes. Used
in the second phase of training only. Main name: ``copy_document``.
"""

from __future__ import annotations

import random

from tasks import NAMES, THINGS
from tokenizer import SPECIALS
from tokenizers import Tokenizer

ASKS = ("Repeat after me: ", "Say this: ", "Repeat: ", "Copy this text: ")
LIVELY = (
    "It's {n}'s {t}, isn't it?",
    "Don't worry, {n}; we'll find the {t}!",
    "I can't see {n}... where's the {t}?",
    '"You\'re late," said {n}, "but that\'s all right."',
    "They've got {t} - lots of {t} - and they won't share.",
    "{n} & {m}: {t} (old and new), {i}/{j}.",
    "I'm {n}, he's {m}, and she'd like some {t}.",
    "What?! {n} didn't bring the {t}?",
    "{t}: {i}% of {j}, or ${i}.{j}",
    "'Twas {n} who took {m}'s {t}, wasn't it?",
    "Let's go, {n}! There's no time, the {t} aren't ready.",
    "{n} wrote: [{t}] = {i}; <{m}> #{j} @home_{i}*",
    "Rock 'n' roll, o'clock, ma'am: {n} doesn't know 'em.",
    "Señor {n}, voilà: {t}! Ça va? Grüße, {m} -> {i}€",
)


def _lively(rng: random.Random) -> str:
    name, other = rng.sample(NAMES, 2)
    text = rng.choice(LIVELY)
    return text.format(
        n=name, m=other, t=rng.choice(THINGS), i=rng.randrange(100), j=rng.randrange(10)
    )


def copy_document(rng: random.Random, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of a conversation in which the assistant repeats a text."""
    if rng.random() < 0.5:
        text = tokenizer.encode(_lively(rng)).ids
    else:
        words = range(len(SPECIALS), tokenizer.get_vocab_size())
        text = [rng.choice(words) for _ in range(rng.randrange(3, 11))]
    before = tokenizer.encode(f"<|im_start|>user\n{rng.choice(ASKS)}").ids
    between = tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n").ids
    return [*before, *text, *between, *text, *tokenizer.encode("<|im_end|>\n").ids]
