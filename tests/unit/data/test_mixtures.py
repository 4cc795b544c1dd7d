"""Mixtures: index for index those of `datasets`, and what they refuse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.core.errors import ConfigError
from tinsmith.data import mixture_order
from tinsmith.data.mixtures import StopWhen

SOURCES = st.lists(st.tuples(st.integers(1, 30), st.floats(0.05, 5)), min_size=1, max_size=4)


@pytest.mark.parametrize("stop_when", ["first_exhausted", "all_exhausted"])
@pytest.mark.parametrize("seed", [0, 42])
def test_a_mixture_is_that_of_datasets(stop_when: StopWhen, seed: int) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra data")
    lengths, weights = [40, 1500, 300], [1.0, 5.0, 2.0]
    tables = [
        datasets.Dataset.from_dict({"source": [s] * n, "row": list(range(n))})
        for s, n in enumerate(lengths)
    ]
    expected = datasets.interleave_datasets(
        tables,
        probabilities=[w / sum(weights) for w in weights],
        seed=seed,
        stopping_strategy=stop_when,
    )
    order = mixture_order(lengths, weights, seed, stop_when)
    assert order == list(zip(expected["source"], expected["row"], strict=True))


@given(sources=SOURCES, seed=st.integers(0, 2**32))
def test_the_first_to_end_ends_a_mixture_in_which_no_row_comes_twice(
    sources: list[tuple[int, float]], seed: int
) -> None:
    lengths, weights = zip(*sources, strict=True)
    order = mixture_order(lengths, weights, seed)
    assert len(set(order)) == len(order)
    seen = [sum(draw.source == place for draw in order) for place in range(len(lengths))]
    assert any(count == length for count, length in zip(seen, lengths, strict=True))
    assert order[-1].row == lengths[order[-1].source] - 1


@given(sources=SOURCES, seed=st.integers(0, 2**32))
def test_every_row_is_in_a_mixture_that_ends_with_the_last(
    sources: list[tuple[int, float]], seed: int
) -> None:
    lengths, weights = zip(*sources, strict=True)
    order = mixture_order(lengths, weights, seed, "all_exhausted")
    assert set(order) == {(s, row) for s, n in enumerate(lengths) for row in range(n)}


def test_sources_are_drawn_as_often_as_their_weights_say() -> None:
    order = mixture_order([10_000, 10_000], [3, 1], seed=1)
    share = sum(draw.source == 0 for draw in order) / len(order)
    # 13,000 draws: three standard deviations of the share are 0.011.
    assert share == pytest.approx(0.75, abs=0.011)


@pytest.mark.parametrize(
    ("lengths", "weights", "what"),
    [
        ([], [], "0 for 0 sources"),
        ([1], [1, 2], "2 for 1 sources"),
        ([0], [1], r"sources\[0\] is empty"),
        ([1, 1], [1, 0], r"sources\[1\].weight=0: must be above 0"),
        ([1], [float("nan")], "weight=nan: must be above 0"),
    ],
)
def test_what_is_no_mixture_is_refused(lengths: list[int], weights: list[float], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        mixture_order(lengths, weights, seed=0)
