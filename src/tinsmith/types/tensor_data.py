"""`TensorData`: an int64 or float32 array as it travels, dense or in compressed sparse rows.

Sparse (CSR): `data` holds the listed values row by row, `sparse_col_indices` the column of each,
`sparse_crow_indices` (rows + 1 entries) where each row begins; unlisted cells are filled when the
tensor is made dense. It pays for 2-D targets that are mostly padding.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from tinsmith.core.errors import DataError, UserError
from tinsmith.types._arrays import arrays_equal, frozen_array, numpy_from_torch

if TYPE_CHECKING:
    import torch

__all__ = ["TensorData", "TensorDtype"]

TensorDtype = Literal["int64", "float32"]

_NUMPY_DTYPES: dict[str, type[np.int64 | np.float32]] = {
    "int64": np.int64,
    "float32": np.float32,
}
_NATIVE_DTYPES = {name: np.dtype(kind) for name, kind in _NUMPY_DTYPES.items()}
_WIRE_DTYPES: dict[str, str] = {"int64": "<i8", "float32": "<f4"}
_MAX_INT64 = 2**63 - 1
_MAX_ELEMENTS = 2**40
"""More than any machine holds: refused before a shape from outside is multiplied out."""
_MAX_SPARSE_CELLS = 2**28
"""A few bytes can claim any number of empty cells; made dense, these take 1 or 2 GiB."""


class TensorData:
    """An array of int64 or float32 values; frozen, compared by value.

    Args:
        data: values in row-major order, nested or flat; with CSR the listed values only.
        dtype: "int64" or "float32".
        shape: dimensions; None keeps those of `data`. Required with CSR, which is 2-D.
        sparse_crow_indices: start of each row among the values, and the end.
        sparse_col_indices: column of each value.

    Raises:
        DataError: values that do not fit the dtype, or parts that contradict each other.

    Example:
        >>> TensorData([1, 2, 3], "int64").to_numpy().tolist()
        [1, 2, 3]
    """

    __slots__ = ("dtype", "shape", "sparse_col_indices", "sparse_crow_indices", "values")

    dtype: TensorDtype
    shape: list[int]
    sparse_crow_indices: npt.NDArray[np.int64] | None
    sparse_col_indices: npt.NDArray[np.int64] | None
    values: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    """Read-only: the dense array in its shape, or the listed values of CSR."""

    def __init__(
        self,
        data: npt.ArrayLike | None = None,
        dtype: TensorDtype | None = None,
        shape: Sequence[int] | None = None,
        sparse_crow_indices: npt.ArrayLike | None = None,
        sparse_col_indices: npt.ArrayLike | None = None,
    ) -> None:
        if not isinstance(dtype, str) or dtype not in _NUMPY_DTYPES:
            raise DataError(f"dtype={dtype!r}: must be 'int64' or 'float32'", field="dtype")
        values = _as_dtype([] if data is None else data, dtype)
        dims = None if shape is None else _checked_shape(shape)
        crow = col = None
        if sparse_crow_indices is None and sparse_col_indices is None:
            if dims is not None and dims != list(values.shape):
                _require_count(values.size, dims)
                values = values.reshape(dims)
            dims = list(values.shape)
        else:
            values = values.reshape(-1)
            crow = _as_indices(sparse_crow_indices, "sparse_crow_indices")
            col = _as_indices(sparse_col_indices, "sparse_col_indices")
            dims = _checked_csr(values.size, dims, crow, col)
        for name, value in (
            ("dtype", dtype),
            ("shape", dims),
            ("sparse_crow_indices", None if crow is None else frozen_array(crow)),
            ("sparse_col_indices", None if col is None else frozen_array(col)),
            ("values", frozen_array(values)),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def from_numpy(cls, array: npt.NDArray[Any]) -> TensorData:
        """Take an array: floats become float32, signed whole numbers int64.

        Raises:
            DataError: a boolean, unsigned or other kind of array; convert it on purpose.
        """
        return cls(array, _dtype_for(np.asarray(array)))

    @classmethod
    def from_torch(cls, tensor: torch.Tensor) -> TensorData:
        """Take a torch tensor's values, from any device and out of the graph."""
        return cls.from_numpy(numpy_from_torch(tensor))

    @classmethod
    def from_torch_sparse(cls, tensor: torch.Tensor, pad_value: int = 0) -> TensorData:
        """Take a 2-D tensor as CSR of the values that are not padding, where that is smaller."""
        return cls.from_numpy_sparse(numpy_from_torch(tensor), pad_value)

    @classmethod
    def from_numpy_sparse(cls, array: npt.NDArray[Any], pad_value: int = 0) -> TensorData:
        """Take a 2-D array as CSR of the values that are not padding, where that is smaller."""
        pad = _checked_pad(pad_value)
        if array.ndim != 2:
            return cls.from_numpy(array)
        dtype = _dtype_for(array)
        rows, columns = np.nonzero(array != pad)
        num_rows, num_columns = array.shape
        if num_rows + 1 + 2 * rows.size >= num_rows * num_columns:
            return cls(array, dtype)
        crow = np.zeros(num_rows + 1, np.int64)
        np.cumsum(np.bincount(rows, minlength=num_rows), out=crow[1:])
        return cls(array[rows, columns], dtype, array.shape, crow, columns)

    @property
    def data(self) -> list[int] | list[float]:
        """The stored values as a flat list; with CSR the listed ones only."""
        return self.values.reshape(-1).tolist()

    @property
    def is_sparse(self) -> bool:
        return self.sparse_crow_indices is not None

    @property
    def num_bytes(self) -> int:
        """Bytes of the stored values and indices."""
        total = self.values.nbytes
        if self.sparse_crow_indices is not None and self.sparse_col_indices is not None:
            total += self.sparse_crow_indices.nbytes + self.sparse_col_indices.nbytes
        return total

    def to_numpy(self, pad_value: int = 0) -> npt.NDArray[np.int64] | npt.NDArray[np.float32]:
        """Return the dense array, new and writable; `values` is the stored one, without a copy."""
        pad = _checked_pad(pad_value)
        crow, col = self.sparse_crow_indices, self.sparse_col_indices
        if crow is None or col is None:
            return self.values.copy()
        dense: npt.NDArray[Any] = np.full(self.shape, pad, self.values.dtype)  # Any: of two dtypes
        dense[np.repeat(np.arange(self.shape[0]), np.diff(crow)), col] = self.values
        return dense

    def to_torch(self, pad_value: int = 0) -> torch.Tensor:
        """Return a new dense torch tensor."""
        import torch  # only people who use torch call this

        return torch.as_tensor(self.to_numpy(pad_value))

    def tolist(self, pad_value: int = 0) -> Any:  # Any: nested as deep as there are dimensions
        """Return the dense values as a list, nested in the tensor's shape."""
        return self.to_numpy(pad_value).tolist()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"TensorData is frozen: cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"TensorData is frozen: cannot delete {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:  # Any: the protocol of pickle
        if self.sparse_crow_indices is None:
            # Bytes come back as an array that nobody can write, and so without another copy.
            content = self.values.astype(_WIRE_DTYPES[self.dtype], copy=False).tobytes()
            return _from_bytes, (content, self.dtype, self.shape)
        indices = (self.sparse_crow_indices, self.sparse_col_indices)
        return TensorData, (self.values, self.dtype, self.shape, *indices)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorData):
            return NotImplemented
        return (
            self.dtype == other.dtype
            and self.shape == other.shape
            and arrays_equal(self.values, other.values)
            and arrays_equal(self.sparse_crow_indices, other.sparse_crow_indices)
            and arrays_equal(self.sparse_col_indices, other.sparse_col_indices)
        )

    __hash__ = None  # type: ignore[assignment]  # arrays are not hashable

    def __repr__(self) -> str:
        flat = self.values.reshape(-1)
        shown = ", ".join(f"{value:g}" for value in flat[:8].tolist())
        more = ", ..." if flat.size > 8 else ""
        kind = ", sparse" if self.is_sparse else ""
        return f"TensorData([{shown}{more}], {self.dtype!r}, shape={self.shape}{kind})"

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Describe the JSON form to pydantic: `{"data", "dtype", "shape", "sparse_..."}`."""
        return core_schema.no_info_plain_validator_function(
            _from_json,
            serialization=core_schema.plain_serializer_function_ser_schema(
                _to_json, when_used="json"
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, object]:
        integers = {"type": "array", "items": {"type": "integer"}}
        return {
            "type": "object",
            "properties": {
                "data": {"type": "array"},
                "dtype": {"enum": list(_NUMPY_DTYPES)},
                "shape": integers,
                "sparse_crow_indices": integers,
                "sparse_col_indices": integers,
            },
            "required": ["data", "dtype"],
        }


def _from_bytes(content: bytes, dtype: TensorDtype, shape: list[int]) -> TensorData:
    """Undo `TensorData.__reduce__`."""
    return TensorData(np.frombuffer(content, _WIRE_DTYPES[dtype]), dtype, shape)


def _to_json(tensor: TensorData) -> dict[str, object]:
    data: list[Any] = list(tensor.data)  # Any: numbers, and the names of those that JSON lacks
    if tensor.dtype == "float32" and not np.isfinite(tensor.values).all():
        data = [value if math.isfinite(value) else _name_of(value) for value in data]
    json: dict[str, object] = {"data": data, "dtype": tensor.dtype, "shape": tensor.shape}
    if tensor.sparse_crow_indices is not None and tensor.sparse_col_indices is not None:
        json["sparse_crow_indices"] = tensor.sparse_crow_indices.tolist()
        json["sparse_col_indices"] = tensor.sparse_col_indices.tolist()
    return json


def _name_of(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


_JSON_FIELDS = ("data", "dtype", "shape", "sparse_crow_indices", "sparse_col_indices")


def _from_json(value: object) -> TensorData:
    if isinstance(value, TensorData):
        return value
    if not isinstance(value, Mapping):
        raise DataError(f"must be a TensorData or its JSON object, not {type(value).__name__}")
    fields = dict(cast("Mapping[str, Any]", value))  # Any: checked by the constructor
    unknown = sorted(set(fields) - set(_JSON_FIELDS))
    if unknown:
        raise DataError(f"{unknown[0]}: unknown field of a tensor", field=unknown[0])
    data = fields.get("data")
    if fields.get("dtype") == "float32" and isinstance(data, list):
        items = cast("list[object]", data)
        named = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
        fields["data"] = [
            named.get(item, item) if isinstance(item, str) else item for item in items
        ]
    return TensorData(**fields)


def _dtype_for(array: npt.NDArray[Any]) -> TensorDtype:
    if array.dtype.kind == "f":
        return "float32"
    if array.dtype.kind == "i":
        return "int64"
    raise DataError(
        f"dtype={array.dtype.name}: must be a float or signed integer kind",
        field="dtype",
        hint="convert it first, with .astype(...)",
    )


def _as_dtype(data: npt.ArrayLike, dtype: TensorDtype) -> npt.NDArray[Any]:
    if isinstance(data, np.ndarray):
        given = cast("npt.NDArray[Any]", data)
        flags = given.flags
        if given.dtype == _NATIVE_DTYPES[dtype] and flags.c_contiguous and not flags.writeable:
            return given  # as decoded from the wire: nothing to convert, nobody to change it
    try:
        array = np.asarray(data)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(
            "data: rows of different lengths; a tensor is rectangular"
            if "inhomogeneous" in str(error)
            else f"data: not an array of numbers: {error}",
            field="data",
        ) from error
    if array.size == 0 and array.dtype.kind in "fiu":
        return array.astype(_NUMPY_DTYPES[dtype])
    if array.dtype.kind not in "fiu":
        name = "other things than numbers" if array.dtype.kind in "OUSV" else array.dtype.name
        raise DataError(f"data: holds {name}; must be numbers for {dtype}", field="data")
    if dtype == "int64" and array.dtype.kind == "f":
        # Whole numbers that came through JSON or arithmetic as floats are meant as integers.
        if not bool(np.all(np.isfinite(array) & (array == np.trunc(array)))):
            raise DataError("data: holds fractions; int64 needs whole numbers", field="data")
        if bool(np.any(np.abs(array) >= 2.0**63)):
            raise DataError("data: holds numbers beyond int64", field="data")
    if dtype == "int64" and array.dtype.kind == "u" and bool(np.any(array > _MAX_INT64)):
        raise DataError("data: holds numbers beyond int64", field="data")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, as everywhere
        # A copy, unless nobody can write: the caller may go on to change its array while a request
        # with this tensor is under way.
        return array.astype(_NUMPY_DTYPES[dtype], order="C", copy=array.flags.writeable)


def _checked_shape(shape: Sequence[int]) -> list[int]:
    try:
        dims = [operator.index(dim) for dim in shape]
    except TypeError as error:
        raise DataError(f"shape={shape!r}: must be a list of integers", field="shape") from error
    if dims and min(dims) < 0:
        raise DataError(f"shape={dims}: must not be negative", field="shape")
    if len(dims) > 32 or max(dims, default=0) > _MAX_ELEMENTS or math.prod(dims) > _MAX_ELEMENTS:
        raise DataError(f"shape={dims[:8]}: too large", field="shape")
    return dims


def _require_count(num_values: int, shape: list[int]) -> None:
    if math.prod(shape) != num_values:
        raise DataError(
            f"shape={shape}: needs {math.prod(shape)} values, and data has {num_values}",
            field="shape",
        )


def _as_indices(value: npt.ArrayLike | None, field: str) -> npt.NDArray[np.int64]:
    if value is None:
        raise DataError(f"{field}: missing; sparse tensors need both index lists", field=field)
    try:
        indices = _as_dtype(value, "int64")
    except UserError as error:
        raise DataError(f"{field}: {error.message}", field=field) from error
    if indices.ndim != 1:
        raise DataError(f"{field}: {indices.ndim} dimensions; must be a flat list", field=field)
    return indices


def _checked_csr(
    num_values: int,
    shape: list[int] | None,
    crow: npt.NDArray[np.int64],
    col: npt.NDArray[np.int64],
) -> list[int]:
    if shape is None or len(shape) != 2:
        raise DataError(f"shape={shape}: sparse tensors need two dimensions", field="shape")
    num_rows, num_columns = shape
    if num_rows * num_columns > _MAX_SPARSE_CELLS:
        raise DataError(
            f"shape={shape}: a sparse tensor has {_MAX_SPARSE_CELLS} cells at most", field="shape"
        )
    crow_rule = None
    if crow.size != num_rows + 1:
        crow_rule = f"{crow.size} entries; {num_rows} rows need {num_rows + 1}"
    elif crow[0] != 0 or crow[-1] != num_values:
        crow_rule = f"runs from {crow[0]} to {crow[-1]}; must run from 0 to {num_values}"
    elif bool(np.any(crow[1:] < crow[:-1])):
        crow_rule = "falls; must not fall"
    if crow_rule:
        raise DataError(f"sparse_crow_indices: {crow_rule}", field="sparse_crow_indices")
    if col.size != num_values:
        raise DataError(
            f"sparse_col_indices: {col.size} entries for {num_values} values",
            field="sparse_col_indices",
        )
    if col.size and (int(col.min()) < 0 or int(col.max()) >= num_columns):
        raise DataError(
            f"sparse_col_indices: must be 0..{num_columns - 1}", field="sparse_col_indices"
        )
    return shape


def _checked_pad(pad_value: int) -> int:
    if isinstance(pad_value, bool) or not isinstance(pad_value, (int, np.integer)):  # type: ignore[redundant-expr]
        raise DataError(f"pad_value={pad_value!r}: must be a whole number", field="pad_value")
    return int(pad_value)
