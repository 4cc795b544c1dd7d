"""What a job asks about its prompt and its tokens, against plain float64 forward passes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.engine import sampling_reference as ref
from tests.unit.engine.random_models import VOCAB_SIZE
from tests.unit.engine.sampling_reference import sample
from tests.unit.engine.test_token_choice import chi_square
from tests.unit.engine.training_reference import add_trained_adapter
from tinsmith.core.errors import UserError
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import EngineLimits, SampleJob
from tinsmith.engine.sample_options import check_sample_options
from tinsmith.engine.sampler import Sampler
from tinsmith.types import SampleResponse, SamplingParams, TensorData

TOLERANCE = 1e-4  # float32 against float64


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Engine:
    engine = Engine(str(model_dir))
    add_trained_adapter(engine, "a", rank=4, seed=1)
    return engine


@pytest.fixture(scope="module")
def snapshot(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    directory = tmp_path_factory.mktemp("adapter") / "a"
    return engine.save_sampler_weights("a", directory), directory


@pytest.fixture(scope="module")
def model(model_dir: Path, snapshot: tuple[str, Path]) -> Any:
    return ref.peft_model(model_dir, snapshot[1], torch.float64)


@pytest.fixture(scope="module")
def tiny_engine(tiny_dir: Path) -> Engine:
    """The bundled model, large enough that rounding shows, with an adapter."""
    engine = Engine(str(tiny_dir))
    add_trained_adapter(engine, "a", rank=4, seed=1)
    return engine


def make_job(snapshot_id: str | None, prompt: list[int], **options: Any) -> SampleJob:
    params = {"max_tokens": 1, "stop": [], "seed": 3, **options.pop("params", {})}
    num_samples = options.pop("num_samples", 1)
    return SampleJob("x", snapshot_id, prompt, num_samples, SamplingParams(**params), **options)


def make_sampler(engine: Engine, **limits: int) -> Sampler:
    return Sampler(engine.base, engine.snapshots, EngineLimits(**limits))


def targets_of(prompt: list[int], *, is_sparse: bool) -> tuple[np.ndarray, TensorData]:
    """Three columns of random tokens, most of them left out, the first rows wholly."""
    rng = np.random.default_rng(5)
    asked = rng.integers(0, VOCAB_SIZE, (len(prompt) - 1, 3))
    asked[rng.random(asked.shape) < 0.6] = -1
    asked[: len(prompt) // 2] = -1
    asked[-1] = [0, -1, VOCAB_SIZE - 1]
    if is_sparse:
        return asked, TensorData.from_numpy_sparse(asked, pad_value=-1)
    return asked, TensorData.from_numpy(asked)


@pytest.mark.parametrize("limits", [{}, {"max_prefill_tokens": 7, "max_head_elements": 300}])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_named_tokens_are_scored_by_the_model_and_the_others_are_zero(
    engine: Engine,
    snapshot: tuple[str, Path],
    model: Any,
    limits: dict[str, int],
    is_sparse: bool,
) -> None:
    (prompt,) = ref.prompts([40])
    asked, tensor = targets_of(prompt, is_sparse=is_sparse)
    assert tensor.is_sparse == is_sparse
    one = make_job(snapshot[0], prompt, target_prompt_logprobs=tensor)
    (response,) = sample(make_sampler(engine, **limits), one)
    found = response.target_prompt_logprobs
    assert found is not None
    assert (found.dtype, found.shape, found.is_sparse) == ("float32", tensor.shape, is_sparse)
    table = ref.logprobs(model, prompt)[:-1].numpy()
    expected = np.where(asked < 0, 0, np.take_along_axis(table, asked.clip(0), 1))
    np.testing.assert_allclose(found.to_numpy(), expected, atol=TOLERANCE)


@pytest.mark.parametrize("limits", [{}, {"max_prefill_tokens": 7, "max_head_elements": 300}])
@pytest.mark.parametrize("last_n", [1, 5, 39])
def test_the_end_of_a_prompt_is_scored_alone(
    engine: Engine, snapshot: tuple[str, Path], model: Any, limits: dict[str, int], last_n: int
) -> None:
    (prompt,) = ref.prompts([40])
    options = {"prompt_logprobs": True, "topk_prompt_logprobs": 3}
    one = make_job(snapshot[0], prompt, prompt_logprobs_last_n=last_n, **options)
    (response,) = sample(make_sampler(engine, **limits), one)
    found, topk = response.prompt_logprobs_np, response.topk_prompt_logprobs
    assert found is not None
    assert topk is not None
    table = ref.logprobs(model, prompt)[:-1][-last_n:]
    expected = table.gather(1, torch.tensor(prompt[-last_n:])[:, None])[:, 0]
    assert np.isnan(found[:-last_n]).all()
    np.testing.assert_allclose(found[-last_n:], expected.numpy(), atol=TOLERANCE)
    assert topk[:-last_n] == [None] * (len(prompt) - last_n)
    best = table.topk(3)
    assert [[token for token, _ in row or []] for row in topk[-last_n:]] == best.indices.tolist()


def test_the_output_layer_sees_only_positions_that_are_asked_about(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = make_sampler(engine, max_head_elements=8 * VOCAB_SIZE)
    seen: list[int] = []
    logits = sampler._decoder.logits

    def counting(hidden: torch.Tensor, routing: Any) -> torch.Tensor:
        seen.append(len(hidden))
        return logits(hidden, routing)

    monkeypatch.setattr(sampler._decoder, "logits", counting)
    (prompt,) = ref.prompts([100])
    sample(sampler, make_job(None, prompt, prompt_logprobs=True, prompt_logprobs_last_n=4))
    assert sum(seen) == 4 + 1, "four positions, and the one after the prompt"
    seen.clear()
    sample(sampler, make_job(None, prompt, prompt_alt_tokens_k=2))
    assert sum(seen) == 99 + 1
    assert max(seen) <= 8, "never the logits of a whole prompt"


@pytest.mark.parametrize("k", [1, 3])
def test_likeliest_tokens_of_every_sampled_place(
    engine: Engine, snapshot: tuple[str, Path], model: Any, k: int
) -> None:
    """They are untempered, and belong to their own row while others come and go."""
    sampler = make_sampler(engine)
    prompts = ref.prompts([5, 9, 14])
    params = {"max_tokens": 90, "temperature": 1.7, "top_k": 40}
    jobs = [
        SampleJob(
            str(index),
            snapshot[0],
            prompt,
            2,
            SamplingParams(**{**params, "stop": [], "seed": index, "max_tokens": 3 + 40 * index}),
            topk_sample_logprobs=k * (index != 1),
        )
        for index, prompt in enumerate(prompts)
    ]
    for index, response in enumerate(sample(sampler, *jobs)):
        for sequence in response.sequences:
            table = sequence.topk_logprobs_np
            if index == 1:
                assert table is None
                continue
            assert table is not None
            drawn = sequence.tokens
            expected = ref.logprobs(model, [*prompts[index], *drawn])
            best = expected[len(prompts[index]) - 1 : -1].topk(k)
            assert table.token_ids.shape == (3 + 40 * index, k)
            np.testing.assert_allclose(table.logprobs, best.values.numpy(), atol=TOLERANCE)
            np.testing.assert_array_equal(table.token_ids, best.indices.numpy())


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_alternatives_are_drawn_at_the_temperature_and_scored_without_it(
    engine: Engine, snapshot: tuple[str, Path], model: Any, temperature: float
) -> None:
    (prompt,) = ref.prompts([6])
    k = VOCAB_SIZE  # the most that the engine allows; many seeds make the counts
    tokens = np.zeros((5, 0), np.int64)
    table = ref.logprobs(model, prompt)[:-1]
    for seed in range(60):
        params = {"temperature": temperature, "seed": seed, "top_k": 1}  # top_k is not for them
        one = make_job(snapshot[0], prompt, prompt_alt_tokens_k=k, params=params)
        (response,) = sample(make_sampler(engine), one)
        found = response.prompt_alt_tokens
        assert found is not None
        assert (found.tokens.dtype, found.tokens.shape) == ("int64", [5, k])
        assert (found.logprobs.dtype, found.logprobs.shape) == ("float32", [5, k])
        drawn = found.tokens.to_numpy()
        expected = np.take_along_axis(table.numpy(), drawn, 1)
        np.testing.assert_allclose(found.logprobs.to_numpy(), expected, atol=TOLERANCE)
        tokens = np.concatenate([tokens, drawn], 1)
    for place in range(5):
        right = torch.softmax(table[place] / temperature, -1).numpy()
        counts = np.bincount(tokens[place], minlength=VOCAB_SIZE)
        assert abs(chi_square(counts, right)) < 4


def test_a_seed_fixes_alternatives_whatever_their_number_and_the_chunks(engine: Engine) -> None:
    (prompt,) = ref.prompts([40])

    def drawn(k: int, seed: int, **limits: int) -> np.ndarray:
        one = make_job(None, prompt, prompt_alt_tokens_k=k, params={"seed": seed})
        (response,) = sample(make_sampler(engine, **limits), one)
        assert response.prompt_alt_tokens is not None
        return response.prompt_alt_tokens.tokens.to_numpy()

    first = drawn(4, 1)
    np.testing.assert_array_equal(drawn(2, 1), first[:, :2])
    np.testing.assert_array_equal(drawn(4, 1, max_prefill_tokens=7, max_head_elements=300), first)
    assert (drawn(4, 2) != first).any()


def test_temperature_zero_draws_the_likeliest_alternative(engine: Engine, model_dir: Path) -> None:
    (prompt,) = ref.prompts([7])
    one = make_job(None, prompt, prompt_alt_tokens_k=2, params={"temperature": 0.0})
    (response,) = sample(make_sampler(engine), one)
    assert response.prompt_alt_tokens is not None
    base = ref.peft_model(model_dir, None, torch.float64)
    best = ref.logprobs(base, prompt)[:-1].argmax(-1)
    found = response.prompt_alt_tokens.tokens.to_numpy()
    np.testing.assert_array_equal(found, np.stack([best, best], 1))


@pytest.mark.parametrize("limits", [{}, {"max_prefill_tokens": 240}])
@pytest.mark.parametrize("adapter", ["none", "one", "both"])
def test_scores_are_the_same_to_the_bit_alone_in_a_crowd_and_after_any_history(
    tiny_engine: Engine, limits: dict[str, int], adapter: str
) -> None:
    """Chunks of a long prompt, batch mates, and faster copies of weights all change rounding."""
    tuned = tiny_engine.snapshot("a")
    names = {"none": [None], "one": [tuned], "both": [None, tuned]}[adapter]
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, 2048, n).tolist() for n in (95, 21, 24, 90, 100, 22, 130, 25)]
    scored = [
        replace(
            make_job(names[index % len(names)], prompt, prompt_logprobs=True),
            topk_prompt_logprobs=2,
            job_id=str(index),
        )
        for index, prompt in enumerate(prompts)
    ]

    def scores_of(responses: list[SampleResponse]) -> list[SampleResponse]:
        return [replace(response, sequences=[]) for response in responses]

    alone = [sample(make_sampler(tiny_engine, **limits), one)[0] for one in scored]
    sampler = make_sampler(tiny_engine, **limits)
    drawing = [ref.job(f"draws {name}", name, [1, 2, 3], max_tokens=40, seed=1) for name in names]
    crowd = sample(sampler, *drawing, *scored)[len(drawing) :]
    for one in drawing:  # long enough that the sampler makes itself copies of the weights
        sample(sampler, one)
    warm = sample(sampler, *reversed(scored))[::-1]
    assert scores_of(alone) == scores_of(crowd)
    assert scores_of(alone) == scores_of(warm)


def test_a_prompt_of_one_token_has_no_alternatives(engine: Engine) -> None:
    (response,) = sample(make_sampler(engine), make_job(None, [5], prompt_alt_tokens_k=2))
    assert response.prompt_alt_tokens is not None
    assert response.prompt_alt_tokens.tokens.shape == [0, 2]


def tensor(rows: list[list[int]]) -> TensorData:
    return TensorData.from_numpy(np.array(rows, np.int64).reshape(len(rows), -1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topk_prompt_logprobs": 51}, r"^topk_prompt_logprobs=51: must be 0\.\.50$"),
        ({"topk_sample_logprobs": -1}, r"^topk_sample_logprobs=-1: must be 0\.\.50$"),
        ({"prompt_alt_tokens_k": 51}, r"^prompt_alt_tokens_k=51: must be 0\.\.50$"),
        ({"prompt_logprobs_last_n": 1}, "no prompt logprobs to leave out"),
        ({"prompt_logprobs": True, "prompt_logprobs_last_n": 0}, r"last_n=0: must be 1\.\.3"),
        ({"prompt_logprobs": True, "prompt_logprobs_last_n": 4}, r"last_n=4: must be 1\.\.3"),
        ({"target_prompt_logprobs": tensor([[1], [2]])}, r"of shape \[2, 1\]; must be .*\[3, k\]"),
        ({"target_prompt_logprobs": TensorData([1, 2, 3], "int64")}, r"shape \[3\]"),
        ({"target_prompt_logprobs": TensorData([[1.0]] * 3, "float32")}, "float32 of shape"),
        ({"target_prompt_logprobs": tensor([[1], [2], [96]])}, r"token 96 in row 2 .* 0\.\.95"),
        ({"target_prompt_logprobs": tensor([[1], [-2], [3]])}, "token -2 in row 1"),
        ({"target_prompt_logprobs": tensor([[-1], [-1], [-1]])}, "names no token"),
        (
            {"target_prompt_logprobs": TensorData([97], "int64", [3, 9], [0, 0, 1, 1], [4])},
            "token 97 in row 1",
        ),
        (
            {"target_prompt_logprobs": TensorData([], "int64", [3, 9], [0, 0, 0, 0], [])},
            "names no token",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused_with_its_reason(
    options: dict[str, Any], message: str
) -> None:
    one = make_job(None, [1, 2, 3, 4], **options)
    with pytest.raises(UserError, match=message) as caught:
        check_sample_options(one, prompt_length=4, vocab_size=96, max_width=50)
    assert caught.value.field in options


def test_a_small_vocabulary_bounds_likeliest_tokens_but_not_draws() -> None:
    limits: dict[str, int] = {"prompt_length": 4, "vocab_size": 96, "max_width": 128}
    check_sample_options(make_job(None, [1] * 4, prompt_alt_tokens_k=128), **limits)
    with pytest.raises(UserError, match=r"must be 0\.\.96, the size of the vocabulary 96"):
        check_sample_options(make_job(None, [1] * 4, topk_sample_logprobs=97), **limits)
