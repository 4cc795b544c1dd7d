"""Several targets a position, dense or as CSR: what is not listed is padding and weighs nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.engine.random_models import VOCAB_SIZE
from tests.unit.engine.training_reference import (
    add_trained_adapter,
    engine_gradients,
    gradient_error,
    peft_gradients,
    relative_error,
    run,
)
from tinsmith.core.errors import DataError
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import EngineLimits, ForwardBackwardJob
from tinsmith.types import Datum, ModelInput, TensorData
from tinsmith.types.codec import decode_forward_backward_request, encode_forward_backward_request

TOLERANCE = 1e-10  # float64 on both sides


@pytest.fixture
def engine(model_dir: Path) -> Engine:
    # Head chunks of five rows, so that chunks cut datums apart.
    limits = EngineLimits(max_microbatch_tokens=40, max_head_elements=96 * 5)
    engine = Engine(str(model_dir), dtype=torch.float64, limits=limits)
    add_trained_adapter(engine, "a", rank=4, seed=1)
    return engine


def ragged_arrays(
    rng: np.random.Generator, length: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Targets and weights as of a teacher: a prompt without any, then 0 to 3 tokens a row."""
    targets = np.zeros((length, width), np.int64)
    weights = np.zeros((length, width), np.float32)
    for row in range(length // 3, length):
        count = int(rng.integers(0, 4))
        targets[row, :count] = rng.choice(VOCAB_SIZE, count, replace=False)
        weights[row, :count] = rng.dirichlet(np.ones(count)) if count else []
    targets[-1, 0], weights[-1, 0] = 0, 0.5  # token 0 is a target like any other
    return targets, weights


def as_datum(length: int, **inputs: object) -> Datum:
    tokens = [(7 * i) % VOCAB_SIZE for i in range(length)]
    return Datum(ModelInput.from_ints(tokens), inputs)  # type: ignore[arg-type]  # any array kind


def test_csr_lists_equal_dense_arrays_and_peft(
    engine: Engine, model_dir: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    dense, sparse = [], []
    for length, width in ((17, 8), (9, 20), (9, 20), (24, 8)):
        targets, weights = ragged_arrays(rng, length, width)
        dense.append(as_datum(length, target_tokens=targets, weights=weights))
        tensors = {"target_tokens": torch.from_numpy(targets), "weights": torch.from_numpy(weights)}
        sparse.append(as_datum(length, **tensors))
    assert all(datum.loss_fn_inputs["weights"].is_sparse for datum in sparse)
    assert all(datum.loss_fn_inputs["target_tokens"].is_sparse for datum in sparse)
    body = encode_forward_backward_request("m", 1, sparse, "cross_entropy")
    sparse = decode_forward_backward_request(body).data

    (ours,) = run(engine, ForwardBackwardJob("a", sparse, "cross_entropy"))
    engine.save_sampler_weights("a", tmp_path / "a")
    job = ForwardBackwardJob("a", dense, "cross_entropy")
    reference = peft_gradients(model_dir, tmp_path / "a", [job])
    assert gradient_error(engine_gradients(engine, "a"), reference.gradients) < TOLERANCE
    assert ours.loss == pytest.approx(reference.losses[0], rel=TOLERANCE)
    for record, lp, datum in zip(ours.loss_fn_outputs, reference.logprobs[0], dense, strict=True):
        assert record["logprobs"].shape == datum.loss_fn_inputs["target_tokens"].shape
        assert relative_error(record["logprobs"].to_torch(), lp) < 1e-6  # answered in float32
    assert ours.metrics["loss_tokens:sum"] == sum(
        int((datum.loss_fn_inputs["weights"].to_numpy() != 0).any(-1).sum()) for datum in dense
    )


def test_only_one_of_the_two_may_be_sparse(engine: Engine) -> None:
    targets, weights = ragged_arrays(np.random.default_rng(1), 12, 16)
    losses = []
    for sparse_targets, sparse_weights in ((False, False), (True, False), (False, True)):
        inputs = {
            "target_tokens": torch.from_numpy(targets) if sparse_targets else targets,
            "weights": torch.from_numpy(weights) if sparse_weights else weights,
        }
        (output,) = run(engine, ForwardBackwardJob("a", [as_datum(12, **inputs)], "cross_entropy"))
        losses.append(output.loss)
    assert losses[0] == losses[1] == losses[2]


def test_padding_has_no_gradient(engine: Engine) -> None:
    # The same listed targets in wider arrays: nothing may change but the order of sums.
    targets, weights = ragged_arrays(np.random.default_rng(2), 12, 4)
    gradients = []
    for extra in (0, 30):
        wide = {
            "target_tokens": np.pad(targets, ((0, 0), (0, extra))),
            "weights": np.pad(weights, ((0, 0), (0, extra))),
        }
        engine.adapter("a").grad = None
        run(engine, ForwardBackwardJob("a", [as_datum(12, **wide)], "cross_entropy"))
        found = engine_gradients(engine, "a")
        gradients.append({name: (a.clone(), b.clone()) for name, (a, b) in found.items()})
    assert gradient_error(gradients[1], gradients[0]) < TOLERANCE


def test_a_token_listed_twice_counts_twice(engine: Engine) -> None:
    once = as_datum(6, target_tokens=np.full(6, 5), weights=np.full(6, 0.75, np.float32))
    columns = {"target_tokens": np.full((6, 2), 5), "weights": np.tile([0.5, 0.25], (6, 1))}
    (single,) = run(engine, ForwardBackwardJob("a", [once], "cross_entropy"))
    expected = {k: (a.clone(), b.clone()) for k, (a, b) in engine_gradients(engine, "a").items()}
    engine.adapter("a").grad = None
    (double,) = run(engine, ForwardBackwardJob("a", [as_datum(6, **columns)], "cross_entropy"))
    assert double.loss == pytest.approx(single.loss, rel=TOLERANCE)
    assert gradient_error(engine_gradients(engine, "a"), expected) < TOLERANCE


def test_sparse_arrays_of_other_shapes_or_tokens_are_refused_by_name(engine: Engine) -> None:
    def sparse(values: list[int], shape: list[int], dtype: str) -> TensorData:
        rows = [0, *[len(values)] * shape[0]]
        columns = list(range(len(values)))
        return TensorData(values, dtype, shape, rows, columns)  # type: ignore[arg-type]  # a literal

    targets = sparse([3, 4], [6, 9], "int64")
    cases = [
        ({"weights": sparse([1, 1], [6, 8], "float32")}, r"weights: shape \(6, 8\) must equal"),
        ({"target_tokens": sparse([3, 96], [6, 9], "int64")}, "token 96 at position 0 is outside"),
        ({"target_tokens": sparse([3, 4], [5, 9], "int64")}, "length 5 must equal"),
    ]
    for changes, message in cases:
        inputs = {"target_tokens": targets, "weights": sparse([1, 1], [6, 9], "float32"), **changes}
        job = ForwardBackwardJob("a", [as_datum(6, **inputs)], "cross_entropy")
        (error,) = engine.forward_backward([job])
        assert isinstance(error, DataError)
        with pytest.raises(DataError, match=message):
            raise error


def test_a_small_body_cannot_ask_for_a_huge_array(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    crow = np.array([0, 1, 1, 1, 1, 1, 1])
    inputs = {
        "target_tokens": TensorData([3], "int64", [6, 2**25], crow, [0]),
        "weights": TensorData([1.0], "float32", [6, 2**25], crow, [0]),
    }
    job = ForwardBackwardJob("a", [as_datum(6, **inputs)], "cross_entropy")
    (error,) = engine.forward_backward([job])
    assert isinstance(error, DataError)
    assert error.datum_index == 0
    assert error.field == "loss_fn_inputs.target_tokens"
    assert "201326592 cells, at most 16777216 are computed" in str(error)

    monkeypatch.setattr("tinsmith.engine.datums.MAX_JOB_TARGETS", 100)
    targets, weights = ragged_arrays(np.random.default_rng(3), 12, 4)
    datum = as_datum(12, target_tokens=targets, weights=weights)
    (error,) = engine.forward_backward([ForwardBackwardJob("a", [datum] * 3, "cross_entropy")])
    assert isinstance(error, DataError)
    assert error.datum_index == 2
    assert "144 targets, a request may have 100" in str(error)
