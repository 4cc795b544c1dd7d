"""The batches of a run: every conversation once an epoch, whatever the sizes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.training.batches import BatchPlan, weight_scales


def plan(length: int, batch_size: int, seed: int = 0) -> BatchPlan:
    return BatchPlan(length, batch_size, seed)


@given(length=st.integers(1, 60), batch_size=st.integers(1, 70), seed=st.integers(0, 100))
def test_an_epoch_holds_every_conversation_once_in_numpys_order(
    length: int, batch_size: int, seed: int
) -> None:
    batches = plan(length, batch_size, seed)
    for epoch in range(2):
        first = epoch * batches.batches_per_epoch
        steps = range(first, first + batches.batches_per_epoch)
        order = [index for step in steps for index in batches.indices(step)]
        assert order == np.random.default_rng(seed + epoch).permutation(length).tolist()
        assert all(len(batches.indices(step)) == batch_size for step in steps[:-1])


def test_a_step_knows_its_place() -> None:
    batches = plan(10, 4)
    assert [tuple(batches.position(step)) for step in (0, 2, 3, 7)] == [
        (0, 0),
        (0, 2),
        (1, 0),
        (2, 1),
    ]


@given(counts=st.lists(st.integers(1, 1000), min_size=1, max_size=8))
def test_normalised_weights_sum_to_one_and_tokens_or_examples_count_the_same(
    counts: list[int],
) -> None:
    by_token = weight_scales(counts, "token_mean")
    by_example = weight_scales(counts, "example_mean")
    assert sum(c * s for c, s in zip(counts, by_token, strict=True)) == pytest.approx(1)
    assert len(set(by_token)) == 1
    assert [c * s for c, s in zip(counts, by_example, strict=True)] == pytest.approx(
        [1 / len(counts)] * len(counts)
    )
    assert set(weight_scales(counts, "sum")) == {1.0}


def test_an_unknown_normalisation_never_reaches_a_batch(make_config: Any) -> None:
    with pytest.raises(ValueError, match="loss_normalisation"):
        make_config(loss_normalisation="mean")


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    max_tokens=st.integers(1, 120),
    seed=st.integers(0, 50),
)
def test_batches_of_tokens_hold_every_conversation_once_and_no_more_than_fits(
    lengths: list[int], max_tokens: int, seed: int
) -> None:
    batches = BatchPlan(len(lengths), 1, seed, max_tokens, tuple(lengths))
    step = 0
    for epoch in range(3):
        groups = [batches.indices(step + place) for place in range(batches.num_batches(epoch))]
        assert [tuple(batches.position(step + place)) for place in range(len(groups))] == [
            (epoch, place) for place in range(len(groups))
        ]
        order = np.random.default_rng(seed + epoch).permutation(len(lengths)).tolist()
        assert [index for group in groups for index in group] == order
        sizes = [sum(lengths[index] for index in group) for group in groups]
        assert all(
            size <= max_tokens or len(group) == 1 for size, group in zip(sizes, groups, strict=True)
        )
        # Greedy: the next conversation would not have fitted.
        for place, following in enumerate(groups[1:]):
            assert sizes[place] + lengths[following[0]] > max_tokens
        step += len(groups)
    assert batches.num_steps(3) == step
    assert batches.epochs_done(step) == 3
