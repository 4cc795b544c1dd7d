"""Logits are never held for a whole batch, and prompts cost no backward product."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.unit.engine.random_models import VOCAB_SIZE
from tests.unit.engine.training_reference import add_trained_adapter, random_job, run
from tinsmith.engine import head
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import EngineLimits, ForwardBackwardJob
from tinsmith.types import Datum

CHUNK_ROWS = 16


class LargestLogits(TorchDispatchMode):
    """Records the most rows of any tensor whose last dimension is the vocabulary."""

    rows = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.ndim >= 2 and out.shape[-1] == VOCAB_SIZE:
            self.rows = max(self.rows, out.numel() // VOCAB_SIZE)
        return out


@pytest.mark.parametrize("loss_fn", ["cross_entropy", "gspo"])
@pytest.mark.parametrize("forward_only", [False, True])
def test_no_tensor_holds_more_logits_than_a_chunk(
    model_dir: Path, forward_only: bool, loss_fn: str
) -> None:
    limits = EngineLimits(max_head_elements=CHUNK_ROWS * VOCAB_SIZE)
    engine = Engine(str(model_dir), limits=limits)
    add_trained_adapter(engine, "a", rank=4)
    job = random_job("a", loss_fn, [64] * 8, forward_only=forward_only)
    with LargestLogits() as seen:
        run(engine, job)
    # 32: the transposed output embedding and its adapter (hidden size and rank rows) count too.
    assert CHUNK_ROWS <= seen.rows <= max(CHUNK_ROWS, 32)
    assert 10 * seen.rows < 8 * 64


@contextmanager
def rows_of_backward_products(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    rows: list[int] = []
    original = head.low_rank_backward

    def spy(grad: torch.Tensor, *args: Any) -> Any:
        rows.append(grad.shape[0])
        return original(grad, *args)

    monkeypatch.setattr(head, "low_rank_backward", spy)
    yield rows


def test_positions_without_weight_skip_the_backward_half(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(str(model_dir))
    add_trained_adapter(engine, "a", rank=4)
    job = random_job("a", "cross_entropy", [30, 30])
    inputs = {key: value.to_numpy().copy() for key, value in job.data[0].loss_fn_inputs.items()}
    inputs["weights"] = np.zeros(30, np.float32)
    inputs["weights"][-4:] = 1.0
    datum = Datum(model_input=job.data[0].model_input, loss_fn_inputs=inputs)
    with rows_of_backward_products(monkeypatch) as rows:
        run(engine, ForwardBackwardJob("a", [datum], "cross_entropy"))
    assert rows == [4]
