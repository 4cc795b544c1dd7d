import copy
import pickle
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import TypeAdapter

from tests.unit.types.strategies import arrays, tensors
from tinsmith.core.errors import DataError
from tinsmith.types import TensorData

torch = pytest.importorskip("torch")

JSON = TypeAdapter(TensorData)


@given(tensors())
def test_json_round_trips(tensor: TensorData) -> None:
    assert JSON.validate_json(JSON.dump_json(tensor)) == tensor


@given(tensors())
def test_pickle_and_deepcopy_round_trip(tensor: TensorData) -> None:
    assert pickle.loads(pickle.dumps(tensor)) == tensor
    assert copy.deepcopy(tensor) == tensor


@given(arrays())
def test_an_array_survives(array: np.ndarray) -> None:
    back = TensorData.from_numpy(array).to_numpy()
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@given(arrays())
def test_a_torch_tensor_survives(array: np.ndarray) -> None:
    tensor = torch.from_numpy(array.copy())
    back = TensorData.from_torch(tensor).to_torch()
    assert back.dtype == tensor.dtype
    torch.testing.assert_close(back, tensor, rtol=0, atol=0, equal_nan=True)


@given(
    hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=6)),
    st.integers(-2, 2),
)
def test_sparse_tensors_mean_the_same_and_are_smaller(array: np.ndarray, pad: int) -> None:
    tensor = TensorData.from_numpy_sparse(array, pad_value=pad)
    np.testing.assert_array_equal(tensor.to_numpy(pad_value=pad), array)
    size = array.shape[0] + 1 + 2 * int((array != pad).sum())
    assert tensor.is_sparse == (size < array.size)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_sparse_matches_torchs_own_csr() -> None:
    dense = torch.zeros(5, 7)
    dense[1, 2], dense[4, 0], dense[4, 6] = 1.5, -2.0, 3.0
    tensor = TensorData.from_torch_sparse(dense)
    reference = dense.to_sparse_csr()
    assert tensor.sparse_crow_indices.tolist() == reference.crow_indices().tolist()
    assert tensor.sparse_col_indices.tolist() == reference.col_indices().tolist()
    assert tensor.data == reference.values().tolist()
    assert torch.equal(tensor.to_torch(), dense)


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2)])
def test_only_two_dimensions_become_sparse(shape: tuple[int, ...]) -> None:
    tensor = TensorData.from_torch_sparse(torch.zeros(*shape))
    assert not tensor.is_sparse
    assert tensor.shape == list(shape)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (np.float16, "float32"),
        (np.float32, "float32"),
        (np.float64, "float32"),
        (np.int8, "int64"),
        (np.int32, "int64"),
        (np.int64, "int64"),
    ],
)
def test_kinds_of_numbers_map_to_the_two_dtypes(kind: type, dtype: str) -> None:
    tensor = TensorData.from_numpy(np.array([1, 2], kind))
    assert (tensor.dtype, tensor.data) == (dtype, [1, 2])


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.uint64, np.complex64, np.str_, object])
def test_other_kinds_are_refused(kind: type) -> None:
    with pytest.raises(DataError, match="must be a float or signed integer"):
        TensorData.from_numpy(np.array([1, 0]).astype(kind))


def test_bfloat16_widens_exactly() -> None:
    tensor = torch.tensor([1.5, -3.0], dtype=torch.bfloat16, requires_grad=True)
    assert TensorData.from_torch(tensor).data == [1.5, -3.0]


def test_a_shape_reshapes_and_none_keeps() -> None:
    assert TensorData([1, 2, 3, 4], "int64", [2, 2]).tolist() == [[1, 2], [3, 4]]
    assert TensorData([[1, 2], [3, 4]], "int64").shape == [2, 2]
    assert TensorData(5.0, "float32").shape == []
    assert TensorData(None, "float32").shape == [0]
    assert TensorData([], "int64", [0, 3]).tolist() == []
    assert TensorData([[1, 2], [3, 4]], "int64").data == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": [1], "dtype": None}, "dtype=None: must be 'int64' or 'float32'"),
        ({"data": [1], "dtype": "int32"}, "dtype='int32': must be 'int64' or 'float32'"),
        ({"data": [1, 2], "dtype": "int64", "shape": [3]}, "shape=[3]: needs 3 values"),
        ({"data": [1], "dtype": "int64", "shape": [-1]}, "shape=[-1]: must not be negative"),
        ({"data": [1], "dtype": "int64", "shape": "ab"}, "shape='ab': must be a list"),
        ({"data": [[1], [1, 2]], "dtype": "int64"}, "data: rows of different lengths"),
        ({"data": [1.5], "dtype": "int64"}, "data: holds fractions"),
        ({"data": [float("nan")], "dtype": "int64"}, "data: holds fractions"),
        ({"data": [2**63], "dtype": "int64"}, "data: holds numbers beyond int64"),
        ({"data": [1e30], "dtype": "int64"}, "data: holds numbers beyond int64"),
        ({"data": ["a"], "dtype": "float32"}, "data: holds other things than numbers"),
        ({"data": [None], "dtype": "float32"}, "data: holds other things than numbers"),
        ({"data": [True], "dtype": "int64"}, "data: holds bool"),
        (
            {"data": [1], "dtype": "int64", "shape": [1, 1], "sparse_crow_indices": [0, 1]},
            "sparse_col_indices: missing",
        ),
    ],
)
def test_contradictions_are_refused_by_name(fields: dict, message: str) -> None:
    with pytest.raises(DataError, match="^" + re.escape(message)):
        TensorData(**fields)


@pytest.mark.parametrize("pad", [True, 1.0, None])
def test_a_pad_value_is_a_whole_number(pad: object) -> None:
    with pytest.raises(DataError, match="pad_value"):
        TensorData([1], "int64").to_numpy(pad_value=pad)


def test_it_is_frozen_and_shares_no_memory_with_its_maker() -> None:
    array = np.arange(3)
    tensor = TensorData.from_numpy(array)
    array[0] = 99
    out = tensor.to_numpy()
    out[1] = 99
    assert tensor.data == [0, 1, 2]
    with pytest.raises(ValueError, match="read-only"):
        tensor.values[0] = 5
    with pytest.raises(AttributeError, match="frozen"):
        tensor.dtype = "float32"
    with pytest.raises(AttributeError, match="frozen"):
        del tensor.dtype


def test_it_compares_by_value_and_is_not_hashable() -> None:
    assert TensorData([1], "int64") == TensorData([[1]], "int64", [1])
    assert TensorData([1], "int64") != TensorData([1], "float32")
    assert TensorData([1], "int64") != TensorData([1], "int64", [1, 1])
    assert TensorData([1], "int64") != [1]
    with pytest.raises(TypeError):
        hash(TensorData([1], "int64"))


def test_its_repr_is_short() -> None:
    assert repr(TensorData(range(9), "int64")) == (
        "TensorData([0, 1, 2, 3, 4, 5, 6, 7, ...], 'int64', shape=[9])"
    )


def test_json_names_unknown_fields_and_wrong_kinds() -> None:
    with pytest.raises(ValueError, match="datta: unknown field"):
        JSON.validate_python({"datta": [1], "dtype": "int64"})
    with pytest.raises(ValueError, match="not list"):
        JSON.validate_python([1])
    assert JSON.json_schema()["type"] == "object"


@pytest.mark.parametrize("dtype", [None, [], {}, ["int64"], 1, "int32"])
def test_a_dtype_of_any_other_kind_is_refused_by_name(dtype: object) -> None:
    with pytest.raises(ValueError, match="dtype"):
        TypeAdapter(TensorData).validate_python({"data": [1], "dtype": dtype})


@pytest.mark.parametrize("shape", [[1.5], [float("inf")], ["2"], [None], 3])
def test_a_shape_that_is_no_list_of_integers_is_refused(shape: Any) -> None:
    with pytest.raises(DataError, match="must be a list of integers"):
        TensorData([1.0, 2.0], "float32", shape)
