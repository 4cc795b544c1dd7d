import itertools

from hypothesis import given
from hypothesis import strategies as st

from tinsmith.client.chunking import ChunkLimits, chunk_datums
from tinsmith.types import Datum, ModelInput
from tinsmith.types.codec import datum_bytes


def datum(num_tokens: int) -> Datum:
    tokens = list(range(num_tokens))
    return Datum(
        model_input=ModelInput.from_ints(tokens),
        loss_fn_inputs={"target_tokens": tokens, "weights": [1.0] * num_tokens},
    )


@given(
    st.lists(st.integers(1, 60), max_size=30),
    st.integers(1, 8),
    st.integers(1, 2000),
)
def test_chunks_keep_order_and_limits_and_are_as_full_as_allowed(
    lengths: list[int], max_datums: int, max_bytes: int
) -> None:
    data = [datum(length) for length in lengths]
    chunks = chunk_datums(data, ChunkLimits(max_datums, max_bytes))
    assert [d for chunk in chunks for d in chunk] == data
    sizes = [[datum_bytes(d) for d in chunk] for chunk in chunks]
    for size in sizes:
        assert 1 <= len(size) <= max_datums
        assert sum(size) <= max_bytes or len(size) == 1
    for size, following in itertools.pairwise(sizes):
        assert len(size) == max_datums or sum(size) + following[0] > max_bytes


def test_small_datums_are_cut_by_number() -> None:
    data = [datum(1)] * 3000
    assert [len(chunk) for chunk in chunk_datums(data, ChunkLimits())] == [1024, 1024, 952]


def test_a_datum_above_the_limit_travels_alone() -> None:
    data = [datum(2), datum(500), datum(2)]
    chunks = chunk_datums(data, ChunkLimits(max_bytes=100))
    assert [len(chunk) for chunk in chunks] == [1, 1, 1]
