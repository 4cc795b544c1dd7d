"""Dimuon as Tinsmith reads it: momentum, a damped row and column scaling, a matrix sign.

Public of Dimuon are its parts, not how the preconditioner is formed; so this is our reading, and
another service's Dimuon may differ in numbers (docs/decisions/0006-dimuon.md). For each LoRA matrix
W [m, n] of rank r with gradient G, at step t:

    M = beta1 * M + (1 - beta1) * G                       momentum
    R = 0.95 * R + 0.05 * mean_j(G^2),  C alike over i    row and column second moments
    P = M * (R / mean R + 0.01)^(-1/4) * (C / mean C + 0.01)^(-1/4)
    O = matrix sign of P = U V^T of its singular value decomposition
    W = W - lr * (r / 32)^(1/2) * sqrt(r) * O / |O|_F

The scaling is Shampoo's (Gupta et al. 2018, arXiv:1802.09568) with its two factors kept to their
diagonals, as running means; dividing by the means makes the damping a fraction that no change of
units moves. The matrix sign is Muon's step, by the Newton-Schulz iteration with the coefficients
that are best for singular values in [1e-3, 1] (the construction of Amsel et al. 2025,
arXiv:2505.16932). Matrices of one shape are computed together, A and the transpose of B alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tinsmith.types import DimuonOptimizerConfig, DimuonParams

__all__ = ["Dimuon", "matrix_sign", "newton_schulz", "row_column_scaling"]

BETA2 = 0.95
"""Decay of the row and column moments."""

DAMPING = 0.01
"""Added to moments that have mean 1: no row is scaled up more than 100^(1/4), about 3.2 times."""

RANK_EXPONENT = 0.5
"""Of (rank / 32) in the learning rate. Products are scaled by 32 / rank, so a step's change of the
model's weights has a Frobenius norm like sqrt(rank) * 32 / rank; the factor cancels that."""

REFERENCE_RANK = 32

NEWTON_SCHULZ = (
    (8.470328803848073, -25.108074706661885, 18.62927559911802),
    (4.182834183293943, -3.108701109889242, 0.5806066813500492),
    (3.9618572789615976, -2.9540637463593775, 0.5629761179538963),
    (3.286586217027956, -2.4647201345312775, 0.5073576938614541),
    (2.273749994434036, -1.644660367908067, 0.4161909274978861),
    (1.8887161973518323, -1.265157225338607, 0.3765189255574936),
    (1.8750008858671412, -1.2500009843072224, 0.37500009844041177),
)
"""(a, b, c) of x -> a x + b x^3 + c x^5. Each is the polynomial that lies nearest to 1 where the
ones before it put [1e-3, 1]; all seven put that within 5e-10 of 1 (float32: 1e-5)."""

NORM_EPSILON = 1e-30
"""Keeps a matrix of zeros at zero; anything else that float32 holds is far above it."""


def row_column_scaling(rows: Tensor, columns: Tensor) -> Tensor:
    """Factors [k, m, n] of matrices with second moments `rows` [k, m] and `columns` [k, n].

    Moments that are all zero scale nothing: no gradient has been seen.
    """

    def factor(moments: Tensor) -> Tensor:
        mean = moments.mean(-1, keepdim=True)
        relative = torch.where(mean > 0, moments / mean, 1.0)
        return (relative + DAMPING).pow(-0.25)

    return factor(rows)[..., :, None] * factor(columns)[..., None, :]


def matrix_sign(matrices: Tensor) -> Tensor:
    """The nearest matrices [..., m, n] with singular values 1; zero stays zero.

    Singular values below 1e-3 of a matrix's Frobenius norm come out below 1: a direction that weak
    is noise, and gets less than a full step.
    """
    norms = torch.linalg.matrix_norm(matrices, keepdim=True)
    return newton_schulz(matrices / (norms + NORM_EPSILON))


def newton_schulz(matrices: Tensor) -> Tensor:
    """`matrix_sign` of matrices whose singular values lie in [0, 1]."""
    if matrices.shape[-2] > matrices.shape[-1]:
        return newton_schulz(matrices.mT).mT
    for a, b, c in NEWTON_SCHULZ:
        gram = matrices @ matrices.mT
        matrices = a * matrices + (b * gram + c * (gram @ gram)) @ matrices
    return matrices


@dataclass(frozen=True)
class _Group:
    """Matrices of one shape, A as it is and B transposed: k matrices of [rank, n]."""

    places: Sequence[tuple[int, int, bool]]
    """Start in the flat buffer, length, and whether the matrix lies there transposed."""
    n: int


class Dimuon:
    """The optimizer of one adapter; its state is flat, in the order of `groups`."""

    family = "dimuon"
    params_type = DimuonParams

    def __init__(
        self, flat: Tensor, matrices: Sequence[tuple[int, tuple[int, int]]], rank: int
    ) -> None:
        """No step taken yet.

        Args:
            flat: the adapter's weights [size], stepped in place.
            matrices: start in `flat` and shape of each A [rank, in] and B [out, rank].
            rank: of the adapter.
        """
        self.config = DimuonOptimizerConfig()
        self.step_count = 0
        self._flat = flat
        self._rank = rank
        self._groups = _grouped(matrices, rank)
        count = sum(len(group.places) for group in self._groups)
        total = sum(len(group.places) * group.n for group in self._groups)
        self._momentum = flat.new_zeros(rank * total)
        self._rows = flat.new_zeros(rank * count)
        self._columns = flat.new_zeros(total)

    def step(self, grad: Tensor, params: DimuonParams) -> None:
        """One step on a gradient [size], clipped already."""
        rate = params.learning_rate * (self._rank / REFERENCE_RANK) ** RANK_EXPONENT
        momentum_at = rows_at = columns_at = 0
        for group in self._groups:
            k, r, n = len(group.places), self._rank, group.n
            momentum = self._momentum[momentum_at : momentum_at + k * r * n].view(k, r, n)
            rows = self._rows[rows_at : rows_at + k * r].view(k, r)
            columns = self._columns[columns_at : columns_at + k * n].view(k, n)
            momentum_at, rows_at, columns_at = (
                momentum_at + k * r * n,
                rows_at + k * r,
                columns_at + k * n,
            )
            gradients = torch.stack(self._views(grad, group))
            momentum.lerp_(gradients, 1 - params.beta1)
            squares = gradients.square()
            rows.lerp_(squares.mean(-1), 1 - BETA2)
            columns.lerp_(squares.mean(-2), 1 - BETA2)
            # The moments' bias is one factor for all entries, which dividing by the mean removes.
            signs = matrix_sign(momentum * row_column_scaling(rows, columns))
            norms = torch.linalg.matrix_norm(signs, keepdim=True)
            directions = signs * (r**0.5 / (norms + NORM_EPSILON))
            for weights, direction in zip(self._views(self._flat, group), directions, strict=True):
                weights.add_(direction, alpha=-rate)
        self.step_count += 1

    def state_tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, once a step was taken."""
        if self.step_count == 0:
            return {}
        return {
            "momentum": self._momentum,
            "row_moments": self._rows,
            "column_moments": self._columns,
        }

    def load_state(self, tensors: Mapping[str, Tensor], step_count: int) -> None:
        """Continue from `state_tensors`.

        Raises:
            ValueError: they are not of this adapter's matrices.
        """
        mine = {
            "momentum": self._momentum,
            "row_moments": self._rows,
            "column_moments": self._columns,
        }
        for name, tensor in mine.items():
            if name not in tensors or tensors[name].shape != tensor.shape:
                raise ValueError(f"{name} does not have the size of its layers")
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])
        self.step_count = step_count

    def _views(self, flat: Tensor, group: _Group) -> list[Tensor]:
        """Each of a group's matrices [rank, n] as a view of a flat buffer."""
        return [
            flat[start : start + length].view(group.n, self._rank).mT
            if is_transposed
            else flat[start : start + length].view(self._rank, group.n)
            for start, length, is_transposed in group.places
        ]


def _grouped(matrices: Sequence[tuple[int, tuple[int, int]]], rank: int) -> list[_Group]:
    places: dict[int, list[tuple[int, int, bool]]] = {}
    for index, (start, shape) in enumerate(matrices):
        is_transposed = index % 2 == 1  # A [rank, in], B [out, rank], A, B, ...
        n = shape[0] if is_transposed else shape[1]
        assert shape == ((n, rank) if is_transposed else (rank, n))
        places.setdefault(n, []).append((start, rank * n, is_transposed))
    return [_Group(tuple(found), n) for n, found in places.items()]
