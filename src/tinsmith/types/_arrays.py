"""Conversions to NumPy arrays that refuse what would lose information, and their comparison."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from tinsmith.core.errors import DataError

__all__ = [
    "FloatArray",
    "IntArray",
    "arrays_equal",
    "frozen_array",
    "numpy_from_torch",
    "to_token_array",
]

IntArray = npt.NDArray[np.int32] | npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

MAX_TOKEN = 2**31 - 1


def to_token_array(value: object, *, field: str = "tokens") -> npt.NDArray[np.int32]:
    """Return token identifiers as a 1-D int32 array.

    Raises:
        DataError: not one-dimensional, not whole numbers, or outside 0..2**31-1.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{field}: not a list of token ids: {error}", field=field) from error
    if array.ndim != 1:
        raise DataError(
            f"{field}: {array.ndim} dimensions; must be a flat list of token ids", field=field
        )
    if array.size == 0:
        return np.empty(0, np.int32)
    if array.dtype.kind not in "iu":
        what = f"values such as {array[0]!r}" if array.dtype.kind == "O" else array.dtype.name
        raise DataError(
            f"{field}: {what}; token ids are whole numbers in 0..{MAX_TOKEN}", field=field
        )
    if array.dtype == np.int32 and int(array.view(np.uint32).max()) <= MAX_TOKEN:
        return array  # read as unsigned, a negative number is a huge one
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > MAX_TOKEN:
        worst = low if low < 0 else high
        raise DataError(f"{field}: token id {worst} is outside 0..{MAX_TOKEN}", field=field)
    return array.astype(np.int32, copy=False)


def numpy_from_torch(tensor: Any) -> npt.NDArray[Any]:  # Any: torch is no dependency of this room
    """Return a torch tensor's values; bfloat16, which NumPy lacks, widens to float32."""
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.float()
    # `resolve_*` copies only where the tensor is a lazy conjugate or negation.
    return cast("npt.NDArray[Any]", tensor.resolve_conj().resolve_neg().numpy())


def frozen_array(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a read-only view, so that a frozen type's content cannot change."""
    if not array.flags.writeable:
        return array
    view = array.view()
    view.flags.writeable = False
    return view


def arrays_equal(left: npt.NDArray[Any] | None, right: npt.NDArray[Any] | None) -> bool:
    """Compare shape and values; NaN equals NaN."""
    if left is None or right is None:
        return left is right
    return np.array_equal(left, right, equal_nan=left.dtype.kind == "f" == right.dtype.kind)
