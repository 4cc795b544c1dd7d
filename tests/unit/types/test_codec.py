"""Round trips, byte for byte dumps of the protocol, and what happens to bad bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.types.strategies import OUTPUTS, RESPONSES, datums
from tinsmith.core.errors import DataError, ServerError, UserError
from tinsmith.types import (
    Datum,
    ForwardBackwardOutput,
    ImageAssetPointerChunk,
    ModelInput,
    SampledSequence,
    SampleResponse,
    TensorData,
)
from tinsmith.types.codec import (
    datum_bytes,
    decode_forward_backward_output,
    decode_forward_backward_request,
    decode_sample_response,
    encode_forward_backward_output,
    encode_forward_backward_request,
    encode_sample_response,
    with_seq_id,
)
from tinsmith.types.proto import tinsmith_pb2 as pb

# What the official client sent for one datum, tokens 1 2 3, targets 2 3 4, weights 0 1 1.
MODEL_ID = "11111111-2222-3333-4444-555555555555:train:0"
HEAD = "0a2c" + MODEL_ID.encode().hex() + "1001" + "1a64" + "0a100a0e0a0c010000000200000003000000"
TARGETS = (
    "12300a0d7461726765745f746f6b656e73121f0a18"
    "020000000000000003000000000000000400000000000000" + "1802220103"
)
WEIGHTS = "121e0a077765696768747312130a0c000000000000803f0000803f1801220103"
LOSS = "220d63726f73735f656e74726f7079"
DATUM = Datum(
    ModelInput.from_ints([1, 2, 3]), {"target_tokens": [2, 3, 4], "weights": [0.0, 1.0, 1.0]}
)

RECORD = (
    "1232122e0a086c6f6770726f627312220a0c000000bf000000bf000000bf"
    "121000000000000000000c0000000000000018011801"
)
OUTPUT = "0a0b41727261795265636f7264" + RECORD + "1a130a086c6f73733a73756d11000000000000f83f"
SEQUENCE = "0a1c120c0b0000000c0000000d0000001a0ccdccccbdcdcc4cbe9a9999be"


@pytest.mark.parametrize("inputs", [TARGETS + WEIGHTS, WEIGHTS + TARGETS])
def test_the_official_request_bytes_are_read(inputs: str) -> None:
    request = decode_forward_backward_request(bytes.fromhex(HEAD + inputs + LOSS))
    assert (request.model_id, request.seq_id) == (MODEL_ID, 1)
    assert (request.loss_fn, request.loss_fn_config) == ("cross_entropy", {})
    assert request.forward_only is False
    assert request.data == [DATUM]


def test_the_official_request_bytes_are_written() -> None:
    written = encode_forward_backward_request(MODEL_ID, 1, [DATUM], "cross_entropy").hex()
    # The order of a map's entries is not fixed.
    assert written in (HEAD + TARGETS + WEIGHTS + LOSS, HEAD + WEIGHTS + TARGETS + LOSS)


def test_the_official_output_bytes_are_read_and_written() -> None:
    output = decode_forward_backward_output(bytes.fromhex(OUTPUT))
    assert output.loss_fn_output_type == "ArrayRecord"
    assert output.loss_fn_outputs == [{"logprobs": TensorData([-0.5] * 3, "float32")}]
    assert output.metrics == {"loss:sum": 1.5}
    assert output.loss == 1.5
    assert encode_forward_backward_output(output).hex() == OUTPUT


def test_the_official_sample_bytes_are_read_and_written() -> None:
    content = bytes.fromhex(SEQUENCE + "0a1e0801" + SEQUENCE[4:])
    response = decode_sample_response(content, ["a", "b"])
    logprobs = np.array([-0.1, -0.2, -0.3], np.float32)
    assert response.sequences == [
        SampledSequence(
            stop_reason="stop", tokens=[11, 12, 13], logprobs=logprobs, sequence_id="a"
        ),
        SampledSequence(
            stop_reason="length", tokens=[11, 12, 13], logprobs=logprobs, sequence_id="b"
        ),
    ]
    assert encode_sample_response(response) == content


@given(
    st.lists(datums(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False) | st.text(max_size=5)),
    st.booleans(),
    st.integers(0, 2**31 - 1),
)
def test_requests_round_trip(
    data: list[Datum], config: dict[str, float | str], forward_only: bool, seq_id: int
) -> None:
    body = encode_forward_backward_request(
        "m", seq_id, data, "ppo", config, forward_only=forward_only
    )
    request = decode_forward_backward_request(body)
    assert request.data == data
    assert request.loss_fn_config == config
    assert (request.seq_id, request.forward_only) == (seq_id, forward_only)


@given(st.lists(datums(), max_size=2), st.integers(1, 2**31 - 1))
def test_a_number_can_be_added_to_an_encoded_request(data: list[Datum], seq_id: int) -> None:
    body = encode_forward_backward_request("m", 0, data, "ppo", {"beta": 0.5}, forward_only=True)
    at_once = encode_forward_backward_request(
        "m", seq_id, data, "ppo", {"beta": 0.5}, forward_only=True
    )
    numbered = with_seq_id(body, seq_id)
    assert decode_forward_backward_request(numbered) == decode_forward_backward_request(at_once)
    assert len(numbered) == len(at_once)
    with pytest.raises(UserError, match="seq_id=-1"):
        with_seq_id(body, -1)


@given(OUTPUTS)
def test_outputs_round_trip(output: ForwardBackwardOutput) -> None:
    assert decode_forward_backward_output(encode_forward_backward_output(output)) == output


@given(RESPONSES)
def test_sample_responses_round_trip(response: SampleResponse) -> None:
    assert decode_sample_response(encode_sample_response(response)) == response


def test_numbers_in_the_old_config_map_are_read_where_there_is_no_new_one() -> None:
    message = pb.ForwardBackwardRequest(loss_fn_config={"beta": 0.5})
    assert decode_forward_backward_request(message.SerializeToString()).loss_fn_config == {
        "beta": 0.5
    }


def test_numbers_are_written_to_both_config_maps_and_texts_to_the_new_one() -> None:
    body = encode_forward_backward_request("m", 1, [], "x", {"n": 2, "t": "id"})
    message = pb.ForwardBackwardRequest.FromString(body)
    assert dict(message.loss_fn_config) == {"n": 2.0}
    assert sorted(message.loss_fn_config_v2) == ["n", "t"]


@pytest.mark.parametrize(
    ("code", "data", "expected"),
    [
        (3, np.array([1, -2], "<i4").tobytes(), TensorData([1, -2], "int64")),
        (4, np.array([0x3F80, 0xC000], "<u2").tobytes(), TensorData([1.0, -2.0], "float32")),
    ],
)
def test_narrow_dtypes_of_results_widen(code: int, data: bytes, expected: TensorData) -> None:
    record = pb.ArrayRecord(num_datums=1)
    record.fields["x"].data = data
    record.fields["x"].offsets = np.array([0, len(data)], "<i8").tobytes()
    record.fields["x"].dtype = code
    message = pb.ForwardBackwardOutput(loss_fn_outputs=[record])
    decoded = decode_forward_backward_output(message.SerializeToString())
    assert decoded.loss_fn_outputs == [{"x": expected}]


def test_datums_of_different_layout_travel_in_several_records() -> None:
    rows = TensorData.from_numpy(np.zeros((2, 3), np.float32))
    flat = TensorData([1.0], "float32")
    output = ForwardBackwardOutput(
        loss_fn_output_type="ArrayRecord",
        loss_fn_outputs=[{"x": flat}, {"x": flat}, {"x": rows}, {}],
        metrics={},
    )
    content = encode_forward_backward_output(output)
    assert len(pb.ForwardBackwardOutput.FromString(content).loss_fn_outputs) == 3
    assert decode_forward_backward_output(content) == output


def test_a_missing_loss_is_the_services_fault() -> None:
    output = ForwardBackwardOutput(loss_fn_output_type="x", loss_fn_outputs=[], metrics={})
    with pytest.raises(ServerError, match="loss:sum"):
        _ = output.loss


# ---------------------------------------------------------------------------------- bad bytes


def tensor(**fields: object) -> pb.Tensor:
    return pb.Tensor(**fields)


FLOAT3 = np.zeros(3, "<f4").tobytes()
CSR = {
    "values": FLOAT3,
    "crow_indices": np.array([0, 2, 3], "<i8").tobytes(),
    "col_indices": np.array([0, 1, 1], "<i8").tobytes(),
}


def csr(**changed: object) -> pb.Tensor:
    shape = changed.pop("shape", [2, 2])
    return pb.Tensor(sparse_csr=pb.SparseCsr(**{**CSR, **changed}), dtype=1, shape=shape)


BAD_TENSORS = {
    "half a float": (tensor(dense=b"123", dtype=1, shape=[1]), "3 bytes"),
    "unknown dtype": (tensor(dense=FLOAT3, dtype=9, shape=[3]), "dtype code 9"),
    "no dtype": (tensor(dense=FLOAT3, shape=[3]), "dtype code 0"),
    "shape mismatch": (tensor(dense=FLOAT3, dtype=1, shape=[4]), "needs 4 values"),
    "negative shape": (tensor(dense=FLOAT3, dtype=1, shape=[-3]), "must not be negative"),
    "negative pair": (tensor(dense=FLOAT3, dtype=1, shape=[-3, -1]), "must not be negative"),
    "huge shape": (tensor(dense=b"", dtype=1, shape=[2**62, 2**62]), "too large"),
    "hidden huge": (tensor(dense=b"", dtype=1, shape=[0, 2**62]), "too large"),
    "nothing": (tensor(dtype=1, shape=[3]), "needs 3 values"),
    "csr of one dimension": (csr(shape=[4]), "two dimensions"),
    "csr without shape": (csr(shape=[]), "two dimensions"),
    "csr rows": (csr(shape=[3, 2]), "sparse_crow_indices: 3 entries"),
    "csr column": (csr(col_indices=np.array([0, 1, 2], "<i8").tobytes()), "must be 0..1"),
    "csr negative column": (csr(col_indices=np.array([0, 1, -1], "<i8").tobytes()), "0..1"),
    "csr few columns": (csr(col_indices=b""), "0 entries for 3 values"),
    "csr falling": (csr(crow_indices=np.array([0, 4, 3], "<i8").tobytes()), "must not fall"),
    "csr end": (csr(crow_indices=np.array([0, 2, 4], "<i8").tobytes()), "0 to 3"),
    "csr odd bytes": (csr(crow_indices=b"12345"), "sparse_crow_indices: 5 bytes"),
    "csr huge": (csr(shape=[2, 2**40]), "too large|at most"),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_a_bad_tensor_is_refused_by_field_and_datum_index(name: str) -> None:
    bad, message = BAD_TENSORS[name]
    request = pb.ForwardBackwardRequest(data=[pb.Datum(), pb.Datum()])
    request.data[1].loss_fn_inputs["weights"].CopyFrom(bad)
    with pytest.raises(DataError, match=message) as caught:
        decode_forward_backward_request(request.SerializeToString())
    assert caught.value.datum_index == 1
    assert caught.value.field == "weights"
    assert caught.value.message.startswith("data[1].loss_fn_inputs['weights']: ")


BAD_CHUNKS = {
    "empty": (pb.Chunk(), "without content"),
    "odd bytes": (pb.Chunk(encoded_text=pb.EncodedTextChunk(tokens=b"123")), "3 bytes"),
    "negative token": (
        pb.Chunk(encoded_text=pb.EncodedTextChunk(tokens=b"\xff\xff\xff\xff")),
        "token id -1",
    ),
    "image format": (pb.Chunk(image=pb.ImageChunk(format="gif")), "gif"),
    "image size": (pb.Chunk(image=pb.ImageChunk(format="png", expected_tokens=-1)), "0 or more"),
}


@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_a_bad_chunk_is_refused_by_datum_index(name: str) -> None:
    bad, message = BAD_CHUNKS[name]
    request = pb.ForwardBackwardRequest(data=[pb.Datum(model_input=[pb.Chunk(), bad])])
    request.data[0].model_input[0].encoded_text.SetInParent()
    with pytest.raises(DataError, match=message) as caught:
        decode_forward_backward_request(request.SerializeToString())
    assert caught.value.datum_index == 0


def test_bad_spans_are_refused_by_datum_index() -> None:
    datum = pb.Datum(model_input_spans=[pb.ProvenanceSpan()])
    request = pb.ForwardBackwardRequest(data=[datum])
    with pytest.raises(DataError, match="model_input_spans") as caught:
        decode_forward_backward_request(request.SerializeToString())
    assert caught.value.datum_index == 0


@pytest.mark.parametrize(
    ("field", "changed", "message"),
    [
        ("offsets", np.array([0, 8], "<i8").tobytes(), "do not divide"),
        ("offsets", np.array([0, -4, 12], "<i8").tobytes(), "do not divide"),
        ("offsets", b"", "without offsets"),
        ("offsets", np.array([0, 3, 12], "<i8").tobytes(), "3 bytes"),
        ("trailing_shape", [2], "do not fill"),
        ("trailing_shape", [0], "do not fill"),
        ("trailing_shape", [-1], "must not be negative"),
        ("dtype", 0, "dtype code 0"),
    ],
)
def test_a_bad_output_is_the_services_fault(field: str, changed: object, message: str) -> None:
    fields = {"data": FLOAT3, "offsets": np.array([0, 12], "<i8").tobytes(), "dtype": 1}
    record = pb.ArrayRecord(num_datums=1)
    record.fields["x"].CopyFrom(pb.BatchedTensor(**{**fields, field: changed}))
    content = pb.ForwardBackwardOutput(loss_fn_outputs=[record]).SerializeToString()
    with pytest.raises(ServerError, match=message) as caught:
        decode_forward_backward_output(content)
    assert caught.value.field == "x"


@pytest.mark.parametrize("num_datums", [2, -1, 2**62])
def test_a_count_that_the_arrays_do_not_bear_out_is_refused(num_datums: int) -> None:
    for record in (pb.ArrayRecord(), pb.ArrayRecord()):
        record.num_datums = num_datums
        record.fields["x"].dtype = 1
        content = pb.ForwardBackwardOutput(loss_fn_outputs=[record]).SerializeToString()
        with pytest.raises(ServerError, match="0 arrays for"):
            decode_forward_backward_output(content)


def test_a_bad_sample_is_the_services_fault() -> None:
    message = pb.SampleResponse(sequences=[pb.SampledSequence(stop_reason=7)])
    with pytest.raises(ServerError, match="stop_reason code 7"):
        decode_sample_response(message.SerializeToString())
    message = pb.SampleResponse(sequences=[pb.SampledSequence(tokens=b"\0\0\0\0", logprobs=b"12")])
    with pytest.raises(ServerError, match="2 bytes"):
        decode_sample_response(message.SerializeToString())
    message = pb.SampleResponse(topk_prompt_logprobs=pb.TopkLogprobs(k=2, length=2**31))
    with pytest.raises(ServerError, match="cells"):
        decode_sample_response(message.SerializeToString())
    with pytest.raises(ServerError, match="0 for 1 sequence ids"):
        decode_sample_response(b"", ["a"])


@pytest.mark.parametrize("content", [b"\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"])
def test_what_is_not_the_message_is_refused(content: bytes) -> None:
    with pytest.raises(UserError, match="not a ForwardBackwardRequest") as caught:
        decode_forward_backward_request(content)
    assert caught.value.field == "body"
    with pytest.raises(ServerError, match="ForwardBackwardOutput"):
        decode_forward_backward_output(content)
    with pytest.raises(ServerError, match="SampleResponse"):
        decode_sample_response(content)


GOOD_REQUEST = encode_forward_backward_request(
    "m", 1, [DATUM, DATUM], "ppo", {"clip_low_threshold": 0.8, "id": "x"}
)
GOOD_OUTPUT = bytes.fromhex(OUTPUT)
GOOD_SAMPLE = bytes.fromhex(SEQUENCE)


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """Draw a message with a few bytes changed, inserted or cut."""
    content = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + 3)))
        content[start:end] = draw(st.binary(max_size=3))
    return bytes(content)


@settings(max_examples=400)
@given(damaged(GOOD_REQUEST) | st.binary(max_size=60))
def test_damaged_requests_raise_user_errors_only(content: bytes) -> None:
    try:
        decode_forward_backward_request(content)
    except UserError:
        pass


@settings(max_examples=200)
@given(damaged(GOOD_OUTPUT) | st.binary(max_size=60), damaged(GOOD_SAMPLE) | st.binary(max_size=60))
def test_damaged_results_raise_server_errors_only(output: bytes, sample: bytes) -> None:
    for decode, content in (
        (decode_forward_backward_output, output),
        (decode_sample_response, sample),
    ):
        try:
            decode(content)
        except ServerError:
            pass


# -------------------------------------------------------------------------- what cannot be sent


def test_an_asset_pointer_is_refused_with_the_datum_index() -> None:
    pointer = ImageAssetPointerChunk(format="png", location="here")
    bad = Datum(ModelInput(chunks=[pointer]))
    with pytest.raises(DataError, match="cannot be trained on") as caught:
        encode_forward_backward_request("m", 1, [DATUM, bad], "cross_entropy")
    assert caught.value.datum_index == 1


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"seq_id": -1}, "seq_id"),
        ({"seq_id": 2**31}, "seq_id"),
        ({"model_id": "\ud800"}, "model_id"),
        ({"loss_fn_config": {"beta": None}}, "loss_fn_config.beta"),
    ],
)
def test_what_the_protocol_cannot_carry_is_refused(changed: dict, field: str) -> None:
    fields = {"model_id": "m", "seq_id": 1, "data": [], "loss_fn": "x", **changed}
    with pytest.raises(UserError) as caught:
        encode_forward_backward_request(**fields)
    assert caught.value.field == field


def test_the_estimate_counts_values_and_indices() -> None:
    assert datum_bytes(DATUM) == 3 * 4 + 3 * 8 + 3 * 4
    sparse = TensorData([1.0], "float32", [2, 4], [0, 1, 1], [3])
    assert datum_bytes(Datum(ModelInput.empty(), {"weights": sparse})) == 4 + 3 * 8 + 8
    pointer = ImageAssetPointerChunk(format="png", location="12345")
    assert datum_bytes(Datum(ModelInput(chunks=[pointer]))) == 5
