import pickle

import numpy as np
import pytest
from hypothesis import given

from tests.unit.types.strategies import RESPONSES
from tinsmith.core.errors import DataError
from tinsmith.types import EMPTY_LOGPROB, SampledSequence, SampleResponse, TopkLogprobs


@given(RESPONSES)
def test_responses_pickle(response: SampleResponse) -> None:
    assert pickle.loads(pickle.dumps(response)) == response


def test_lists_and_arrays_are_two_views_of_one_sequence() -> None:
    made = SampledSequence(stop_reason="stop", tokens=[1, 2], logprobs=[-0.5, -1])
    assert made.tokens == [1, 2]
    assert made.logprobs == [-0.5, -1.0]
    assert (made.tokens_np.dtype, made.logprobs_np.dtype) == (np.int32, np.float32)
    assert made == SampledSequence(
        stop_reason="stop", tokens_np=np.array([1, 2]), logprobs_np=np.array([-0.5, -1])
    )


def test_absent_log_probabilities_are_none() -> None:
    made = SampledSequence(stop_reason="length", tokens=[])
    assert (made.logprobs, made.topk_logprobs) == (None, None)
    response = SampleResponse(sequences=[], prompt_logprobs_np=[None, -0.5])
    assert response.prompt_logprobs == [None, -0.5]
    assert np.isnan(response.prompt_logprobs_np[0])
    assert SampleResponse(sequences=[]).prompt_logprobs is None


def test_empty_cells_of_a_table_are_left_out() -> None:
    empty = EMPTY_LOGPROB
    table = TopkLogprobs([[5, 0], [0, 0], [3, 4]], [[-0.5, empty], [empty, empty], [-1, -2]])
    assert table.tolist() == [[(5, -0.5)], None, [(3, -1.0), (4, -2.0)]]


def test_a_sequence_gets_its_name_later() -> None:
    made = SampledSequence(stop_reason="stop", tokens=[1], logprobs=[-1])
    named = made.with_sequence_id("s")
    assert (named.sequence_id, named.tokens, made.sequence_id) == ("s", [1], "")


def test_it_is_frozen() -> None:
    made = SampledSequence(stop_reason="stop", tokens=[1])
    with pytest.raises(AttributeError, match="frozen"):
        made.stop_reason = "length"
    with pytest.raises(ValueError, match="read-only"):
        made.tokens_np[0] = 2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"stop_reason": "eos"}, "stop_reason='eos'"),
        ({"tokens": [1.5]}, "tokens"),
        ({"logprobs": [0.0]}, "logprobs: 1 for 2 tokens"),
        ({"logprobs": [[0.0, 0.0]]}, "logprobs: 2 dimensions"),
        ({"logprobs": ["a", "b"]}, "logprobs: not numbers"),
    ],
)
def test_contradictions_are_refused(bad: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        SampledSequence(**{"stop_reason": "stop", "tokens": [1, 2], **bad})


def test_a_table_has_two_dimensions_alike() -> None:
    with pytest.raises(DataError, match="alike"):
        TopkLogprobs([[1]], [[1.0, 2.0]])
