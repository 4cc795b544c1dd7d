import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from pydantic import TypeAdapter

from tests.unit.types.strategies import datums
from tinsmith.core.errors import DataError
from tinsmith.types import (
    Datum,
    ModelInput,
    PromptProvenanceSpan,
    SampledProvenanceSpan,
    TensorData,
)

torch = pytest.importorskip("torch")

THREE = ModelInput.from_ints([1, 2, 3])
JSON = TypeAdapter(Datum)


@given(datums())
def test_datums_round_trip_through_json_and_pickle(datum: Datum) -> None:
    assert JSON.validate_json(JSON.dump_json(datum)) == datum
    assert pickle.loads(pickle.dumps(datum)) == datum


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("target_tokens", "int64"),
        ("weights", "float32"),
        ("advantages", "float32"),
        ("logprobs", "float32"),
        ("clip_low_threshold", "float32"),
        ("clip_high_threshold", "float32"),
        ("sequence_ratio_mask", "float32"),
    ],
)
@pytest.mark.parametrize("given_as", [list, tuple, np.asarray, torch.tensor])
def test_known_names_fix_the_dtype_however_they_are_given(
    name: str, dtype: str, given_as: type
) -> None:
    tensor = Datum(THREE, {name: given_as([0, 1, 1])}).loss_fn_inputs[name]
    assert tensor == TensorData([0, 1, 1], dtype)


def test_arrays_of_any_name_keep_their_kind() -> None:
    made = Datum(THREE, {"teacher": np.array([1, 2], np.int32), "x": torch.ones(2)})
    assert made.loss_fn_inputs == {
        "teacher": TensorData([1, 2], "int64"),
        "x": TensorData([1, 1], "float32"),
    }


def test_tensor_data_is_left_alone() -> None:
    tensor = TensorData([1], "int64")
    assert Datum(THREE, {"weights": tensor}).loss_fn_inputs["weights"] is tensor


def test_two_dimensional_torch_targets_travel_sparse_and_others_dense() -> None:
    dense = torch.zeros(8, 8)
    dense[0, 1] = 1
    made = Datum(THREE, {"weights": dense, "advantages": dense, "target_tokens": dense.long()})
    assert [name for name, t in made.loss_fn_inputs.items() if t.is_sparse] == [
        "weights",
        "target_tokens",
    ]
    assert not Datum(THREE, {"weights": dense.numpy()}).loss_fn_inputs["weights"].is_sparse


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("reward", [1.0], "loss_fn_inputs['reward']: a list under a name without a known dtype"),
        ("weights", [[1], [1, 2]], "loss_fn_inputs['weights']: rows of different lengths"),
        ("target_tokens", [1.5], "loss_fn_inputs['target_tokens']: data: holds fractions"),
        ("target_tokens", [None], "loss_fn_inputs['target_tokens']: data: holds other things"),
        ("weights", "abc", "loss_fn_inputs['weights']: a str; must be a list"),
        ("weights", 1.0, "loss_fn_inputs['weights']: a float; must be a list"),
        ("weights", np.array([True]), "loss_fn_inputs['weights']: dtype=bool"),
    ],
)
def test_what_is_no_tensor_is_refused_by_name(name: str, value: object, message: str) -> None:
    with pytest.raises(DataError) as caught:
        Datum(THREE, {name: value})
    assert re.sub(r": data: ", ": ", str(caught.value)).startswith(
        re.sub(r": data: ", ": ", message)
    )
    assert caught.value.field == name


def test_a_list_of_tokens_is_not_a_model_input() -> None:
    with pytest.raises(DataError, match=r"a list, must be a ModelInput; .*from_ints"):
        Datum([1, 2, 3])


def test_the_callers_dict_is_not_kept() -> None:
    inputs = {"weights": [1.0]}
    made = Datum(THREE, inputs)
    inputs["weights"] = [2.0]
    assert made.loss_fn_inputs["weights"].data == [1.0]


def spans(*lengths: int) -> list[SampledProvenanceSpan]:
    return [SampledProvenanceSpan(sequence_id="s", length=length) for length in lengths]


def test_provenance_returns_a_copy_and_must_tile() -> None:
    datum = Datum(THREE, {"target_tokens": [2, 3, 4]})
    marked = datum.with_provenance(model_input=spans(1, 2), loss_fn_inputs=spans(3))
    assert datum.model_input_spans is None
    assert marked.model_input_spans == spans(1, 2)
    with pytest.raises(DataError, match="model_input_spans: cover 2 tokens of 3"):
        datum.with_provenance(model_input=spans(2), loss_fn_inputs=spans(3))
    with pytest.raises(DataError, match="loss_fn_input_spans: cover 4 tokens of 3"):
        datum.with_provenance(model_input=spans(3), loss_fn_inputs=spans(4))
    with pytest.raises(DataError, match="loss_fn_input_spans: missing"):
        Datum(THREE, {}, spans(3))


@pytest.mark.parametrize(
    "bad", [{"sequence_id": ""}, {"length": -1}, {"offset": -1}, {"length": 2**63}]
)
def test_spans_are_checked(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        PromptProvenanceSpan(**{"sequence_id": "s", "length": 1, **bad})
