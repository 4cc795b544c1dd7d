from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.algorithms.loss_inputs import LOSS_INPUTS
from tinsmith.core.errors import TinsmithError
from tinsmith.server.plain_data import count_plain_tokens
from tinsmith.server.training_bodies import body_digest
from tinsmith.server.validation import check_training_request
from tinsmith.types import Datum, ModelInput, TensorData
from tinsmith.types.codec import (
    PackedData,
    decode_forward_backward_request,
    encode_forward_backward_request,
    read_forward_backward_request,
)
from tinsmith.types.proto import tinsmith_pb2 as pb

VOCAB_SIZE, CONTEXT = 50, 8
PLAIN = Datum(ModelInput.from_ints([1, 2, 3]), {"target_tokens": [2, 3, 4], "weights": [0, 1, 1]})


def message_of(*data: Datum, loss_fn: str = "cross_entropy") -> pb.ForwardBackwardRequest:
    body = encode_forward_backward_request("m", 1, data, loss_fn)
    return pb.ForwardBackwardRequest.FromString(body)


def plain_tokens(message: pb.ForwardBackwardRequest) -> int | None:
    data = PackedData(message.SerializeToString(), message)
    spec = LOSS_INPUTS[message.loss_fn]
    return count_plain_tokens(data, spec, vocab_size=VOCAB_SIZE, max_context_length=CONTEXT)


def careful_tokens(message: pb.ForwardBackwardRequest) -> int | TinsmithError:
    """What the check of every datum says."""
    try:
        request = decode_forward_backward_request(message.SerializeToString())
        return check_training_request(
            request, None, base_model="b", vocab_size=VOCAB_SIZE, max_context_length=CONTEXT
        )
    except TinsmithError as error:
        return error


def test_a_plain_request_is_counted_at_once() -> None:
    assert plain_tokens(message_of(PLAIN, PLAIN)) == 6


@pytest.mark.parametrize("name", ["importance_sampling", "ppo", "cispo", "dro"])
def test_plain_rl_requests_are_too(name: str) -> None:
    arrays = {"target_tokens": [2, 3], "logprobs": [-1.0, -2.0], "advantages": [1.0, 0.0]}
    assert plain_tokens(message_of(Datum(ModelInput.from_ints([1, 2]), arrays), loss_fn=name)) == 2


MUTATIONS: dict[str, Callable[[pb.Datum], object]] = {
    "token_outside": lambda d: text(d, i4(1, 2, 50)),
    "negative_token": lambda d: text(d, i4(1, 2, -1)),
    "cut_token": lambda d: text(d, b"\1\0\0"),
    "no_tokens": lambda d: text(d, b""),
    "no_chunks": lambda d: d.ClearField("model_input"),
    "an_image": lambda d: setattr(d.model_input.add().image, "data", b"x"),
    "too_long": lambda d: lengthen(d),
    "target_outside": lambda d: dense(d, "target_tokens", i8(2, 3, 50)),
    "negative_target": lambda d: dense(d, "target_tokens", i8(2, 3, -(2**63))),
    "few_targets": lambda d: dense(d, "target_tokens", i8(2, 3)),
    "nan_weight": lambda d: dense(d, "weights", np.float32([0, np.nan, 1]).tobytes()),
    "infinite_weight": lambda d: dense(d, "weights", np.float32([0, 1, np.inf]).tobytes()),
    "other_dtype": lambda d: setattr(d.loss_fn_inputs["weights"], "dtype", pb.DTYPE_INT32),
    "other_shape": lambda d: d.loss_fn_inputs["weights"].shape.append(1),
    "wrong_shape": lambda d: d.loss_fn_inputs["weights"].shape.__setitem__(0, 4),
    "missing": lambda d: d.loss_fn_inputs.pop("weights"),
    "renamed": lambda d: d.loss_fn_inputs["w"].CopyFrom(d.loss_fn_inputs.pop("weights")),
    "one_more": lambda d: d.loss_fn_inputs["w"].CopyFrom(d.loss_fn_inputs["weights"]),
}


def i4(*values: int) -> bytes:
    return np.array(values, "<i4").tobytes()


def i8(*values: int) -> bytes:
    return np.array(values, "<i8").tobytes()


def text(datum: pb.Datum, content: bytes) -> None:
    datum.model_input[0].encoded_text.tokens = content


def dense(datum: pb.Datum, name: str, content: bytes) -> None:
    datum.loss_fn_inputs[name].dense = content


def lengthen(datum: pb.Datum) -> None:
    longer = message_of(
        Datum(
            ModelInput.from_ints([1] * (CONTEXT + 1)),
            {"target_tokens": [1] * (CONTEXT + 1), "weights": [1] * (CONTEXT + 1)},
        )
    )
    datum.CopyFrom(longer.data[0])


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_is_unusual_is_looked_at_more_closely(name: str) -> None:
    message = message_of(PLAIN, PLAIN)
    MUTATIONS[name](message.data[0])
    assert plain_tokens(message) is None


def test_a_sparse_array_is_looked_at_more_closely_and_is_good() -> None:
    sparse = TensorData([1.0], "float32", [3, 1], [0, 0, 0, 1], [0])
    targets = TensorData([4], "int64", [3, 1], [0, 0, 0, 1], [0])
    datum = Datum(ModelInput.from_ints([1, 2, 3]), {"target_tokens": targets, "weights": sparse})
    message = message_of(datum)
    assert plain_tokens(message) is None
    assert careful_tokens(message) == 3


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(-1, 52), min_size=0, max_size=9),
            st.lists(st.integers(-1, 52), min_size=0, max_size=9),
            st.lists(st.floats(width=32), min_size=0, max_size=9),
        ),
        max_size=3,
    )
)
def test_what_is_plainly_good_is_good_at_a_closer_look(
    rows: list[tuple[list[int], list[int], list[float]]],
) -> None:
    message = pb.ForwardBackwardRequest(model_id="m", seq_id=1, loss_fn="cross_entropy")
    for tokens, targets, weights in rows:
        datum = message.data.add()
        datum.model_input.add().encoded_text.tokens = i4(*tokens)
        for name, content, code, size in (
            ("target_tokens", i8(*targets), pb.DTYPE_INT64, len(targets)),
            ("weights", np.array(weights, "<f4").tobytes(), pb.DTYPE_FLOAT32, len(weights)),
        ):
            tensor = datum.loss_fn_inputs[name]
            tensor.dense, tensor.dtype = content, code
            tensor.shape.append(size)
    plain, careful = plain_tokens(message), careful_tokens(message)
    # These rows differ from good ones in nothing that a closer look would still accept.
    assert plain == (None if isinstance(careful, TinsmithError) else careful)


def test_packed_data_arrive_in_the_engine_as_datums() -> None:
    body = encode_forward_backward_request("m", 1, [PLAIN, PLAIN], "cross_entropy")
    data = read_forward_backward_request(body).data
    assert pickle.loads(pickle.dumps(data)) == [PLAIN, PLAIN] == list(data)


def test_the_digest_does_not_depend_on_the_order_of_a_map() -> None:
    one, other = message_of(PLAIN), message_of(PLAIN)
    inputs = other.data[0].loss_fn_inputs
    first = pb.Tensor.FromString(inputs["target_tokens"].SerializeToString())
    del inputs["target_tokens"]
    inputs["target_tokens"].CopyFrom(first)
    digests = {
        body_digest(read_forward_backward_request(message.SerializeToString()))
        for message in (one, other)
    }
    assert len(digests) == 1


def test_the_digest_depends_on_content() -> None:
    other = Datum(PLAIN.model_input, {"target_tokens": [2, 3, 5], "weights": [0, 1, 1]})
    digests = {
        body_digest(read_forward_backward_request(message_of(datum).SerializeToString()))
        for datum in (PLAIN, other)
    }
    assert len(digests) == 2
