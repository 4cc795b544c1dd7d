"""From an example to a datum: the shift, the cut, and the counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.core.errors import DataError
from tinsmith.data import datum_from_example
from tinsmith.types import ModelInput


@given(
    rows=st.lists(st.tuples(st.integers(0, 2**31 - 1), st.sampled_from([0.0, 1.0])), min_size=2),
    max_length=st.none() | st.integers(2, 60),
)
def test_position_i_predicts_token_i_plus_one_with_that_tokens_weight(
    rows: list[tuple[int, float]], max_length: int | None
) -> None:
    tokens, weights = [t for t, _ in rows], np.array([w for _, w in rows], dtype=np.float32)
    built = datum_from_example(ModelInput.from_ints(tokens), weights, max_length)
    kept = tokens[:max_length]
    assert built.datum.model_input.to_ints() == kept[:-1]
    assert built.datum.loss_fn_inputs["target_tokens"].tolist() == kept[1:]
    assert built.datum.loss_fn_inputs["weights"].tolist() == weights[1 : len(kept)].tolist()
    assert built.num_truncated_tokens == len(tokens) - len(kept)
    assert built.num_loss_tokens == np.count_nonzero(weights[1 : len(kept)])


def test_weights_travel_as_float32_and_targets_as_int64() -> None:
    built = datum_from_example(ModelInput.from_ints([1, 2, 3]), np.ones(3, dtype=np.float32))
    inputs = built.datum.loss_fn_inputs
    assert (inputs["weights"].dtype, inputs["target_tokens"].dtype) == ("float32", "int64")


def test_one_token_cannot_be_learned_from() -> None:
    with pytest.raises(DataError, match="has 1 tokens: at least 2"):
        datum_from_example(ModelInput.from_ints([1]), np.ones(1, dtype=np.float32))


def test_weights_must_be_one_a_token() -> None:
    with pytest.raises(DataError, match="weights: 2 for 3 tokens"):
        datum_from_example(ModelInput.from_ints([1, 2, 3]), np.ones(2, dtype=np.float32))
