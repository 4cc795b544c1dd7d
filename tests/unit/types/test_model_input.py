import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.types.strategies import MODEL_INPUTS
from tinsmith.core.errors import DataError, UserError
from tinsmith.types import (
    DmelChunk,
    EncodedTextChunk,
    ImageAssetPointerChunk,
    ImageChunk,
    ModelInput,
    parse_request,
)


@given(MODEL_INPUTS)
def test_json_round_trips(model_input: ModelInput) -> None:
    assert ModelInput.model_validate_json(model_input.model_dump_json()) == model_input
    assert ModelInput.model_validate(model_input.model_dump()) == model_input


@given(st.lists(st.integers(0, 2**31 - 1)))
def test_tokens_survive_however_they_are_given(tokens: list[int]) -> None:
    for given_tokens in (tokens, tuple(tokens), np.array(tokens, np.int64)):
        model_input = ModelInput.from_ints(given_tokens)
        assert model_input.to_ints() == tokens
        assert model_input.length == len(tokens)
        assert all(type(token) is int for token in model_input.to_ints())


def test_lists_of_numpy_integers_are_tokens() -> None:
    assert EncodedTextChunk(tokens=list(np.arange(3))).tokens == [0, 1, 2]


@pytest.mark.parametrize(
    "tokens",
    [
        [1.5],
        [1.0],
        ["a"],
        [None],
        [True],
        [-1],
        [2**31],
        [2**70],
        [[1]],
        [[1], [2, 3]],
        5,
        "ab",
        None,
    ],
)
def test_what_is_no_token_id_is_refused(tokens: object) -> None:
    with pytest.raises(UserError, match="tokens"):
        EncodedTextChunk(tokens=tokens)


def test_appending_returns_a_new_input() -> None:
    empty = ModelInput.empty()
    longer = empty.append(EncodedTextChunk(tokens=[1, 2])).append_int(3)
    assert (empty.length, longer.to_ints(), len(longer.chunks)) == (0, [1, 2, 3], 2)


def test_it_is_frozen_and_refuses_unknown_fields() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ModelInput.empty().chunks = []
    with pytest.raises(UserError, match="chunk: unknown field; did you mean 'chunks'"):
        ModelInput(chunks=[], chunk=[])
    with pytest.raises(UserError, match=r"chunks\.0\.tokenz: unknown field"):
        ModelInput(chunks=[{"type": "encoded_text", "tokens": [1], "tokenz": []}])
    with pytest.raises(UserError, match=r"chunks\.0=.*audio"):
        ModelInput(chunks=[{"type": "audio"}])


def test_tokens_of_an_image_are_what_is_expected() -> None:
    image = ImageChunk(data=b"x", format="png", expected_tokens=7)
    assert ModelInput(chunks=[image]).length == 7
    with pytest.raises(DataError, match="expected_tokens=None"):
        _ = ImageAssetPointerChunk(format="jpeg", location="here").length
    with pytest.raises(DataError, match=r"chunks\.0: image"):
        ModelInput(chunks=[image]).to_ints()


def test_bytes_are_plain_base64_in_json() -> None:
    chunk = ImageChunk(data=b"PNGDATA\xfb\xff", format="png")
    assert chunk.model_dump(mode="json")["data"] == "UE5HREFUQfv/"
    assert chunk.model_dump()["data"] == b"PNGDATA\xfb\xff"
    with pytest.raises(UserError, match="data: not base64"):
        ImageChunk(data="???", format="png")


@pytest.mark.parametrize(
    ("container", "length"),
    [(b"\x00\x02\x05\x03", 5), (b"\xfe\x07\x01\x80\x01", 128)],
)
def test_the_length_of_audio_is_the_containers_first_dimension(
    container: bytes, length: int
) -> None:
    assert DmelChunk(dmel=container).length == length


@pytest.mark.parametrize(
    "container", [b"", b"\xfe", b"\x08\x01\x01", b"\x00", b"\x00\x00", b"\x00\x01\x80"]
)
def test_a_cut_off_container_is_refused(container: bytes) -> None:
    with pytest.raises(DataError, match="dmel"):
        _ = DmelChunk(dmel=container).length


def test_reprs_are_short() -> None:
    assert repr(ModelInput.from_ints(range(9))) == "ModelInput([9 tokens: 0, 1, 2, 3, 4, 5, ...])"


def test_text_survives_a_pickle_and_stays_equal() -> None:
    plain = ModelInput.from_ints([1, 2, 3])
    back = pickle.loads(pickle.dumps(plain))
    assert back == plain
    assert plain == back
    assert back.to_ints() == [1, 2, 3]
    assert back.model_dump() == plain.model_dump()


def test_a_copy_with_other_tokens_is_packed_anew() -> None:
    chunk = EncodedTextChunk.from_packed(b"\x07\0\0\0")
    assert chunk.tokens == [7]
    copied = chunk.model_copy(update={"tokens": [8]})
    assert copied.tokens_np.tolist() == [8]
    assert chunk.tokens_np.tolist() == [7]


@pytest.mark.parametrize("packed", [b"\1\2\3", b"\xff\xff\xff\xff"])
def test_packed_tokens_are_checked(packed: bytes) -> None:
    with pytest.raises(DataError):
        EncodedTextChunk.from_packed(packed)


def test_a_chunk_without_a_type_is_text_if_it_has_tokens() -> None:
    given = {"chunks": [{"tokens": [1, 2]}]}  # as clients before 0.24 write it
    assert ModelInput.model_validate(given) == ModelInput.from_ints([1, 2])
    with pytest.raises(UserError):
        parse_request(ModelInput, {"chunks": [{"data": "x"}]})
