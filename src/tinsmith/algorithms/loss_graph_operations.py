"""What a custom loss may compute: the names of functions and methods, each with its `Cost`.

A name that is not here cannot be called. Left out are operations that are random, write into their
arguments, leave torch, read or write files, or whose result's size depends on values. `Cost` says
how large a result can be, which is known before anything is computed.
"""

from __future__ import annotations

from enum import Enum, auto

__all__ = ["ATTRIBUTES", "DTYPES", "FUNCTIONS", "KEYWORDS", "METHODS", "OPTIONS", "Cost"]


class Cost(Enum):
    """How the size of an operation's result is bounded."""

    SUM = auto()
    """At most the elements of all tensor arguments together."""
    SORT = auto()
    """The same, with more work an element."""
    BROADCAST = auto()
    """The elements of the shape that the tensor arguments broadcast to."""
    SHAPE = auto()
    """The product of the sizes among the arguments."""
    RANGE = auto()
    """(end - start) / step."""
    PRODUCT = auto()
    """Matrix products: rows times inner times columns."""
    OUTER = auto()
    """Every element of one tensor times every one of the other."""
    SELECT = auto()
    """index_select: the other dimensions times the indices."""
    ITEM = auto()
    """Indexing."""
    NUMBER = auto()
    """Plain numbers."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _named(cost: Cost, names: str) -> dict[str, Cost]:
    return dict.fromkeys(names.split(), cost)


_BOTH: dict[str, Cost] = {
    **_named(
        Cost.SUM,
        "abs absolute neg negative positive exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square "
        "sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh sigmoid logit relu erf erfc "
        "lgamma digamma floor ceil round trunc frac sign sgn reciprocal isfinite isnan isinf "
        "logical_not bitwise_not nan_to_num clone detach softmax log_softmax cumsum cumprod "
        "logcumsumexp cummax cummin flip roll triu tril sum mean prod std var logsumexp "
        "nansum nanmean all any argmax argmin amax amin count_nonzero unsqueeze squeeze "
        "flatten reshape transpose permute movedim t narrow select diagonal gather take numel "
        "scatter_add index_add",
    ),
    **_named(Cost.SORT, "sort argsort topk median"),
    **_named(
        Cost.BROADCAST,
        "add sub subtract mul multiply div divide true_divide floor_divide remainder fmod pow "
        "maximum minimum max min fmax fmin where eq ne lt le gt ge logical_and logical_or "
        "logical_xor bitwise_and bitwise_or bitwise_xor atan2 lerp addcmul addcdiv xlogy "
        "logaddexp hypot clamp clip masked_fill masked_select isclose",
    ),
    **_named(Cost.SHAPE, "broadcast_to"),
    **_named(Cost.PRODUCT, "matmul mm mv dot bmm inner"),
    **_named(Cost.OUTER, "outer"),
    **_named(Cost.SELECT, "index_select"),
}

METHODS: dict[str, Cost] = {
    **_BOTH,
    **_named(
        Cost.SUM,
        "norm float double half bfloat16 long int bool to type_as contiguous view size dim "
        "ndimension",
    ),
    **_named(Cost.BROADCAST, "expand_as"),
    **_named(Cost.SHAPE, "expand new_zeros new_ones new_full"),
}

_TORCH: dict[str, Cost] = {
    **_BOTH,
    **_named(Cost.SUM, "tensor scalar_tensor zeros_like ones_like full_like"),
    **_named(Cost.SUM, "stack cat concat hstack vstack"),
    **_named(Cost.SHAPE, "zeros ones full"),
    **_named(Cost.RANGE, "arange"),
}

_FUNCTIONAL = _named(Cost.SUM, "relu silu softmax log_softmax leaky_relu elu") | _named(
    Cost.BROADCAST, "mse_loss l1_loss smooth_l1_loss huber_loss"
)

_OPERATOR: dict[str, Cost] = {
    **_named(
        Cost.BROADCAST,
        "add sub mul truediv floordiv mod pow neg pos abs eq ne lt le gt ge and_ or_ xor invert "
        "iadd isub imul itruediv ifloordiv imod ipow",
    ),
    **_named(Cost.PRODUCT, "matmul"),
    **_named(Cost.ITEM, "getitem"),
}

_MATH = _named(
    Cost.NUMBER,
    "exp expm1 log log2 log10 log1p sqrt pow fabs floor ceil trunc sin cos tan asin acos atan "
    "atan2 sinh cosh tanh asinh acosh atanh isfinite isnan isinf erf erfc lgamma copysign "
    "fmod hypot",
)

FUNCTIONS: dict[str, Cost] = {
    **{f"torch.{name}": cost for name, cost in _TORCH.items()},
    **{f"torch.nn.functional.{name}": cost for name, cost in _FUNCTIONAL.items()},
    # What torch.fx calls functional.softplus, logsigmoid and gelu.
    **_named(Cost.SUM, "torch._C._nn.softplus torch._C._nn.log_sigmoid torch._C._nn.gelu"),
    **{f"operator.{name}": cost for name, cost in _OPERATOR.items()},
    **{f"math.{name}": cost for name, cost in _MATH.items()},
    **_named(Cost.SUM, "getattr builtins.getattr"),
}

ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device", "T", "mT", "values", "indices"})
"""What `getattr` may read: of a tensor, and of what max, sort and the like return."""

DTYPES = frozenset({"float64", "float32", "float16", "bfloat16", "int64", "int32", "bool"}) | {
    "double",
    "float",
    "half",
    "long",
    "int",
}

OPTIONS: dict[str, tuple[object, ...]] = {
    "rounding_mode": (None, "floor", "trunc"),
    "reduction": ("none", "mean", "sum"),
    "approximate": ("none", "tanh"),
    "inplace": (False,),
    "out": (None,),
    "requires_grad": (False,),
    "layout": (None,),
    "size_average": (None,),
    "reduce": (None,),
    "_stacklevel": (1, 2, 3, 4, 5),
}
"""Keyword arguments with a few allowed values."""

KEYWORDS = frozenset(OPTIONS) | _words(
    "input self other dim dims dim0 dim1 axis keepdim keepdims dtype device min max alpha beta "
    "value correction unbiased descending stable exponent index indices size shape fill_value "
    "start end step tensor1 tensor2 tensors tensor weight p k largest sorted diagonal offset "
    "length shifts nan posinf neginf eps delta threshold negative_slope data mat2 vec2 condition "
    "mask source src decimals rtol atol equal_nan"
)
"""Names of keyword arguments that any of the operations may be given."""
