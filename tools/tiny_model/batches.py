"""Token batches: conversations packed into rows, masked so that none sees another.

Main names: ``Batch``, ``Stream``, ``packed_rows``, ``pack``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from copying import copy_document
from corpus import conversation, render
from tokenizer import END_OF_TEXT_ID, IM_END_ID, IM_START_ID
from tokenizers import Tokenizer

PROMPT_WEIGHT = 0.1
"""Loss weight of tokens that the assistant did not write; its own weigh 1."""
Rows = list[list[list[int]]]
"""Documents, as tokens, by row."""
LONG_EVERY = 5
"""Every so many batches, rows of twice the length with conversations of many turns."""


class Batch(NamedTuple):
    """Rows of packed conversations: tokens and targets ``[B, T]``, mask ``[B, 1, T, T]``."""

    tokens_BT: torch.Tensor
    targets_BT: torch.Tensor
    weights_BT: torch.Tensor
    positions_BT: torch.Tensor
    mask_B1TT: torch.Tensor


@dataclass(frozen=True)
class Stream:
    """What fixes a stream of batches."""

    seed: int
    copy_share: float = 0.0
    """Share of the documents in short rows that are text to copy."""
    extra_text: tuple[Path, ...] = ()


def assistant_weights(tokens: list[int], tokenizer: Tokenizer) -> list[float]:
    """Weigh each token: 1 in plain text and in an assistant's message (end included), else less."""
    if tokens[0] != IM_START_ID:
        return [1.0] * len(tokens)
    header = tokenizer.encode("<|im_start|>assistant\n").ids
    weights, inside = [], False
    for i, token in enumerate(tokens):
        weights.append(1.0 if inside else PROMPT_WEIGHT)
        if inside and token == IM_END_ID:
            inside = False
        elif not inside and tokens[max(0, i + 1 - len(header)) : i + 1] == header:
            inside = True
    return weights


def pack(rows: Rows, length: int, tokenizer: Tokenizer) -> Batch:
    """Lay rows of documents out as tensors."""
    tokens_BT = torch.full((len(rows), length), END_OF_TEXT_ID)
    targets_BT = torch.full((len(rows), length), END_OF_TEXT_ID)
    weights_BT = torch.zeros(len(rows), length)
    positions_BT = torch.zeros(len(rows), length, dtype=torch.long)
    segments_BT = torch.full((len(rows), length), -1)
    for b, row in enumerate(rows):
        start = 0
        for i, document in enumerate(row):
            stop = start + len(document)
            tokens_BT[b, start:stop] = torch.tensor(document)
            targets_BT[b, start : stop - 1] = tokens_BT[b, start + 1 : stop]
            weights_BT[b, start : stop - 1] = torch.tensor(
                assistant_weights(document, tokenizer)[1:]
            )
            positions_BT[b, start:stop] = torch.arange(stop - start)
            segments_BT[b, start:stop] = i
            start = stop
    same_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
    mask_B1TT = (same_BTT & torch.ones(length, length).tril().bool())[:, None]
    return Batch(tokens_BT, targets_BT, weights_BT, positions_BT, mask_B1TT)


def _documents(
    rng: random.Random, tokenizer: Tokenizer, turns: tuple[int, ...], extra: list[str]
) -> Iterator[list[int]]:
    while True:
        if extra and rng.random() < 0.05:
            texts = [rng.choice(extra) for _ in range(64)]
        else:
            texts = [render(conversation(rng, turns=rng.choice(turns))) for _ in range(256)]
        yield from (encoding.ids for encoding in tokenizer.encode_batch(texts))


def _fill(documents: Iterator[list[int]], num_rows: int, length: int) -> Rows:
    """Put documents into the first row with room, until four in a row find none."""
    rows: Rows = [[] for _ in range(num_rows)]
    room = [length] * num_rows
    misses = 0
    while misses < 4:
        document = next(documents)[:length]
        place = next((b for b in range(num_rows) if room[b] >= len(document)), None)
        if place is None:
            misses += 1
            continue
        rows[place].append(document)
        room[place] -= len(document)
    return rows


def _paragraphs(paths: tuple[Path, ...]) -> list[str]:
    """Cut texts into pieces of about 400 characters at line ends."""
    pieces: list[str] = []
    for path in paths:
        piece = ""
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            piece += line
            if len(piece) >= 400:
                pieces.append(piece)
                piece = ""
    return pieces


def _with_copies(
    documents: Iterator[list[int]], rng: random.Random, tokenizer: Tokenizer, share: float
) -> Iterator[list[int]]:
    while True:
        yield copy_document(rng, tokenizer) if rng.random() < share else next(documents)


def packed_rows(
    tokenizer: Tokenizer, stream: Stream, num_tokens: int, length: int
) -> Iterator[tuple[Rows, int]]:
    """Yield batches of about ``num_tokens`` tokens as rows and their length, for ever."""
    pieces = _paragraphs(stream.extra_text)
    short = _documents(random.Random(stream.seed), tokenizer, (0,), pieces)
    long = _documents(random.Random(stream.seed + 1), tokenizer, (3, 5, 8, 12), [])
    if stream.copy_share:
        short = _with_copies(short, random.Random(stream.seed + 2), tokenizer, stream.copy_share)
    step = 0
    while True:
        step += 1
        if step % LONG_EVERY == 0:
            yield _fill(long, num_tokens // (2 * length), 2 * length), 2 * length
        else:
            yield _fill(short, num_tokens // length, length), length
