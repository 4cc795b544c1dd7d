"""Every datum that cannot be trained on is refused before anything runs, by field and datum."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.engine.random_models import VOCAB_SIZE
from tests.unit.engine.training_reference import random_datum, random_job
from tinsmith.core.errors import DataError, TinsmithError, UnknownNameError
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import ForwardBackwardJob
from tinsmith.types import Datum, EncodedTextChunk, LoraConfig, ModelInput, TensorData


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Engine:
    engine = Engine(str(model_dir))
    engine.create_adapter("a", LoraConfig(rank=2, seed=0))
    return engine


def refusal(engine: Engine, datum: Datum, loss_fn: str = "cross_entropy") -> TinsmithError:
    good = random_datum(np.random.default_rng(0), 5, loss_fn)
    (result,) = engine.forward_backward([ForwardBackwardJob("a", [good, datum], loss_fn)])
    assert isinstance(result, TinsmithError)
    assert engine.adapter("a").grad is None
    return result


def datum_with(loss_fn: str = "cross_entropy", **changes: Any) -> Datum:
    """A good datum of five tokens with inputs replaced (None: left out)."""
    good = random_datum(np.random.default_rng(0), 5, loss_fn)
    inputs = {key: value.to_numpy() for key, value in good.loss_fn_inputs.items()} | changes
    return Datum(
        model_input=good.model_input,
        loss_fn_inputs={key: value for key, value in inputs.items() if value is not None},
    )


ONES = np.ones(5, np.float32)


@pytest.mark.parametrize(
    ("loss_fn", "changes", "field", "message"),
    [
        ("cross_entropy", {"weights": None}, "weights", "missing; cross_entropy needs"),
        ("cross_entropy", {"target_tokens": None}, "target_tokens", "missing"),
        ("ppo", {"advantages": None}, "advantages", "missing; ppo needs"),
        ("ppo", {"logprobs": None}, "logprobs", "missing"),
        ("ppo", {"weights": ONES}, "weights", "unexpected; ppo takes target_tokens, logprobs"),
        ("cross_entropy", {"mask": ONES}, "mask", "unexpected"),
        ("cross_entropy", {"weights": ONES[:4]}, "weights", r"shape \(4,\) must equal"),
        ("dro", {"logprobs": ONES[:, None]}, "logprobs", r"shape \(5, 1\) must equal"),
        ("cross_entropy", {"target_tokens": np.zeros(4, np.int64)}, "target_tokens", "length 4"),
        (
            "ppo",
            {"target_tokens": np.zeros((5, 2), np.int64)},
            "target_tokens",
            r"shape \(5, 2\) must be \(N,\) for ppo",
        ),
        (
            "cross_entropy",
            {"target_tokens": TensorData.from_numpy(ONES)},
            "target_tokens",
            "must be an integer type",
        ),
        (
            "cross_entropy",
            {"target_tokens": np.array([1, 2, 3, VOCAB_SIZE, 0])},
            "target_tokens",
            "token 96 at position 3 is outside the vocabulary of 96",
        ),
        ("cross_entropy", {"target_tokens": np.array([1, 2, -100, 3, 0])}, "target_tokens", "-100"),
        (
            "cross_entropy",
            {"weights": np.array([1, np.nan, 1, 1, 1], np.float32)},
            "weights",
            "value nan at position 1 is not finite",
        ),
        (
            "cispo",
            {"advantages": np.array([1, 1, 1, 1, np.inf], np.float32)},
            "advantages",
            "value inf at position 4",
        ),
    ],
)
def test_bad_loss_inputs_are_named(
    engine: Engine, loss_fn: str, changes: dict[str, Any], field: str, message: str
) -> None:
    error = refusal(engine, datum_with(loss_fn, **changes), loss_fn)
    assert isinstance(error, DataError)
    assert error.datum_index == 1
    assert error.field == f"loss_fn_inputs.{field}"
    with pytest.raises(DataError, match=rf"^datum 1: loss_fn_inputs\.{field}: .*{message}"):
        raise error


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([1, 2, VOCAB_SIZE], "token 96 at position 2 is outside the vocabulary of 96"),
        ([1] * 129, "length 129 exceeds the context of 128 tokens"),
        ([], "holds no tokens"),
    ],
)
def test_bad_tokens_are_named(engine: Engine, tokens: list[int], message: str) -> None:
    datum = Datum(
        model_input=ModelInput(chunks=[EncodedTextChunk(tokens=tokens)] if tokens else []),
        loss_fn_inputs={
            "target_tokens": np.zeros(len(tokens), np.int64),
            "weights": np.ones(len(tokens), np.float32),
        },
    )
    error = refusal(engine, datum)
    assert error.field == "model_input"
    assert message in str(error)
    assert "datum 1" in str(error)


def test_images_are_refused_by_a_text_model(engine: Engine) -> None:
    from tinsmith.types import ImageChunk

    datum = Datum(
        model_input=ModelInput(chunks=[ImageChunk(data=b"x", format="png", expected_tokens=5)]),
        loss_fn_inputs={"target_tokens": np.zeros(5, np.int64), "weights": ONES},
    )
    error = refusal(engine, datum)
    assert "a text model" in str(error)


def test_unknown_losses_offer_the_nearest(engine: Engine) -> None:
    job = random_job("a", "ppo", [4])
    (error,) = engine.forward_backward([ForwardBackwardJob("a", job.data, "cross_entrpy")])
    assert isinstance(error, UnknownNameError)
    assert "did you mean 'cross_entropy'?" in str(error)


def test_an_empty_job_is_refused(engine: Engine) -> None:
    (error,) = engine.forward_backward([ForwardBackwardJob("a", [], "cross_entropy")])
    assert isinstance(error, DataError)
    assert "at least one datum" in str(error)
    assert engine.forward_backward([]) == []
