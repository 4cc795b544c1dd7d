"""SamplingClient of the official package against our service, value by value."""

from __future__ import annotations

import multiprocessing
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tests.integration.service_process import BASE_MODEL
from tests.interop.conftest import API_KEY, Warm
from tests.interop.peft_twin import PeftTwin
from tests.interop.sampling_worker import sample_from_copies

tinker = pytest.importorskip("tinker", reason="the official client is not installed here")
if TYPE_CHECKING:
    import tinker

pytestmark = pytest.mark.integration

TOKENS = [50, 117, 9, 204, 333, 61]
NUM_TOKENS = 8


@pytest.fixture(scope="module")
def sampler(warm: Warm) -> tinker.SamplingClient:
    return warm.client.create_sampling_client(model_path=warm.sampler_path).result()


@pytest.fixture(scope="module")
def twin(warm: Warm) -> PeftTwin:
    return warm.twin()


def prompt() -> tinker.ModelInput:
    return tinker.ModelInput.from_ints(TOKENS)


def params(**options: object) -> tinker.SamplingParams:
    return tinker.SamplingParams(**{"max_tokens": NUM_TOKENS, "stop": [], **options})  # type: ignore[arg-type]


def scores(twin: PeftTwin, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return twin.all_logprobs(tokens)


def greedy(twin: PeftTwin, count: int = NUM_TOKENS) -> list[int]:
    tokens = list(TOKENS)
    for _ in range(count):
        tokens.append(int(scores(twin, tokens)[-1].argmax()))
    return tokens[len(TOKENS) :]


def check_logprobs(twin: PeftTwin, sequence: tinker.SampledSequence) -> None:
    """Each sampled token's logprob is the model's own."""
    expected = scores(twin, [*TOKENS, *sequence.tokens])
    for place, (token, logprob) in enumerate(
        zip(sequence.tokens, sequence.logprobs or [], strict=True)
    ):
        assert logprob == pytest.approx(expected[len(TOKENS) - 1 + place, token].item(), abs=1e-4)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-6}])
def test_greedy_sampling_in_three_ways(
    sampler: tinker.SamplingClient, twin: PeftTwin, options: dict
) -> None:
    (sequence,) = sampler.sample(prompt(), 1, params(**options)).result().sequences
    assert sequence.tokens == greedy(twin)
    assert sequence.stop_reason == "length"
    if "top_k" not in options and "top_p" not in options:
        check_logprobs(twin, sequence)


def test_several_samples_have_their_own_ids_and_true_logprobs(
    sampler: tinker.SamplingClient, twin: PeftTwin
) -> None:
    response = sampler.sample(prompt(), 5, params(seed=3)).result()
    assert len({sequence.sequence_id for sequence in response.sequences}) == 5
    assert len({tuple(sequence.tokens) for sequence in response.sequences}) > 1
    for sequence in response.sequences:
        assert len(sequence.tokens) == NUM_TOKENS
        check_logprobs(twin, sequence)


def test_a_seed_repeats_a_sample_and_another_does_not(sampler: tinker.SamplingClient) -> None:
    def drawn(seed: int | None) -> list[list[int]]:
        sequences = sampler.sample(prompt(), 3, params(seed=seed)).result().sequences
        return [sequence.tokens for sequence in sequences]

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)
    assert drawn(None) != drawn(None)


def test_frequencies_are_the_models_probabilities(
    sampler: tinker.SamplingClient, twin: PeftTwin
) -> None:
    count = 2000
    options = params(max_tokens=1, seed=1, top_k=4, temperature=1.5)
    sequences = sampler.sample(prompt(), count, options).result().sequences
    top = scores(twin, TOKENS)[-1].topk(4)
    expected = torch.softmax(top.values / 1.5, -1).numpy()
    drawn = [sequence.tokens[0] for sequence in sequences]
    found = np.array([drawn.count(int(token)) / count for token in top.indices])
    assert found.sum() == 1.0
    # Five standard deviations of a frequency.
    assert (np.abs(found - expected) < 5 * np.sqrt(expected / count)).all()


def test_stops(sampler: tinker.SamplingClient, twin: PeftTwin, warm: Warm) -> None:
    expected = greedy(twin)
    stop = expected[3]
    where = expected.index(stop)
    (sequence,) = sampler.sample(prompt(), 1, params(temperature=0, stop=[stop])).result().sequences
    assert (sequence.tokens, sequence.stop_reason) == (expected[: where + 1], "stop")
    text = warm.trainer.get_tokenizer().decode(expected[:4])
    word = text[-1]
    for form in (word, [word, "never said"]):
        options = params(temperature=0, stop=form)
        (sequence,) = sampler.sample(prompt(), 1, options).result().sequences
        assert sequence.stop_reason == "stop"
        assert sequence.tokens == expected[: len(sequence.tokens)]
        assert word in warm.trainer.get_tokenizer().decode(sequence.tokens)
        assert word not in warm.trainer.get_tokenizer().decode(sequence.tokens[:-1])


def test_an_empty_stop_list_goes_on_past_the_end_of_text(warm: Warm) -> None:
    tokenizer = warm.trainer.get_tokenizer()
    ends = tokenizer.eos_token_id
    client = warm.fork()
    # Taught to say the end of text after anything.
    data = [
        tinker.Datum(
            prompt(), {"target_tokens": [ends] * len(TOKENS), "weights": [1.0] * len(TOKENS)}
        )
    ]
    for _ in range(12):
        client.forward_backward(data, "cross_entropy")
        client.optim_step(tinker.AdamParams(learning_rate=2e-2)).result()
    taught = client.save_weights_and_get_sampling_client().result()
    (sequence,) = taught.sample(prompt(), 1, params(temperature=0, stop=None)).result().sequences
    assert (sequence.tokens, sequence.stop_reason) == ([ends], "stop")
    (sequence,) = taught.sample(prompt(), 1, params(temperature=0, stop=[])).result().sequences
    assert len(sequence.tokens) == NUM_TOKENS
    assert (sequence.tokens[0], sequence.stop_reason) == (ends, "length")


def test_prompt_logprobs(sampler: tinker.SamplingClient, twin: PeftTwin) -> None:
    expected = scores(twin, TOKENS)
    right = [expected[i, token].item() for i, token in enumerate(TOKENS[1:])]
    found = sampler.compute_logprobs(prompt()).result()
    assert found[0] is None
    assert found[1:] == pytest.approx(right, abs=1e-4)
    response = sampler.sample(
        prompt(), 2, params(), include_prompt_logprobs=True, topk_prompt_logprobs=3
    ).result()
    assert response.prompt_logprobs is not None
    assert response.prompt_logprobs[1:] == pytest.approx(right, abs=1e-4)
    topk = response.topk_prompt_logprobs
    assert topk is not None
    assert topk[0] is None
    for row, theirs in zip(topk[1:], expected[:-1], strict=True):
        best = theirs.topk(3)
        assert [token for token, _ in row or []] == best.indices.tolist()
        assert [value for _, value in row or []] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_logprobs_of_the_last_prompt_tokens_alone(
    sampler: tinker.SamplingClient, twin: PeftTwin
) -> None:
    right = scores(twin, TOKENS)
    expected = [right[i - 1, TOKENS[i]].item() for i in (-2, -1)]
    last = sampler.compute_logprobs(prompt(), prompt_logprobs_last_n=2).result()
    assert last[:-2] == [None] * (len(TOKENS) - 2)
    assert last[-2:] == pytest.approx(expected, abs=1e-4)


def test_best_tokens_at_every_sampled_place(sampler: tinker.SamplingClient, twin: PeftTwin) -> None:
    response = sampler.sample(prompt(), 1, params(temperature=0), topk_sample_logprobs=3).result()
    (sequence,) = response.sequences
    expected = scores(twin, [*TOKENS, *sequence.tokens])[len(TOKENS) - 1 : -1]
    assert sequence.topk_logprobs is not None
    for row, theirs in zip(sequence.topk_logprobs, expected, strict=True):
        best = theirs.topk(3)
        assert [token for token, _ in row or []] == best.indices.tolist()
        assert [value for _, value in row or []] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_logprobs_of_other_prompt_tokens(sampler: tinker.SamplingClient, twin: PeftTwin) -> None:
    asked = np.array([[7, 8], [-1, 9], [10, -1], [11, 12], [13, 14]], np.int64)
    response = sampler.sample(
        prompt(),
        1,
        params(max_tokens=1),
        include_prompt_logprobs=True,
        target_prompt_logprobs=tinker.TensorData.from_numpy(asked),
        prompt_alt_tokens_k=2,
    ).result()
    assert response.target_prompt_logprobs is not None
    assert response.prompt_alt_tokens is not None
    found = response.target_prompt_logprobs.to_numpy()
    expected = scores(twin, TOKENS)[:-1]
    for place, row in enumerate(asked):
        for column, token in enumerate(row):
            if token >= 0:
                right = expected[place, int(token)].item()
                assert found[place, column] == pytest.approx(right, abs=1e-4)
            else:
                assert found[place, column] == 0.0
    alternatives = response.prompt_alt_tokens
    assert alternatives.tokens.to_numpy().shape == (len(TOKENS) - 1, 2)
    for place in range(len(TOKENS) - 1):
        tokens = alternatives.tokens.to_numpy()[place]
        right = expected[place, torch.from_numpy(tokens)].tolist()
        assert alternatives.logprobs.to_numpy()[place] == pytest.approx(right, abs=1e-4)


def test_sparse_targets_are_answered_sparse(sampler: tinker.SamplingClient, twin: PeftTwin) -> None:
    asked = torch.full((len(TOKENS) - 1, 40), -1, dtype=torch.int64)
    asked[2, 3], asked[4, 0], asked[4, 39] = 11, 2047, 0
    target = tinker.TensorData.from_torch_sparse(asked, pad_value=-1)
    assert target.sparse_crow_indices is not None
    response = sampler.sample(prompt(), 1, params(), target_prompt_logprobs=target).result()
    found = response.target_prompt_logprobs
    assert found is not None
    assert found.sparse_crow_indices == target.sparse_crow_indices
    expected = torch.zeros(asked.shape)
    for place, column in ((2, 3), (4, 0), (4, 39)):
        expected[place, column] = scores(twin, TOKENS)[place, asked[place, column]]
    torch.testing.assert_close(found.to_torch(), expected, rtol=0, atol=1e-4)


def test_alternatives_follow_the_seed_and_a_prompt_of_one_token_has_none(
    sampler: tinker.SamplingClient,
) -> None:
    def drawn(tokens: list[int], seed: int) -> np.ndarray:
        options = params(max_tokens=1, seed=seed)
        asked = tinker.ModelInput.from_ints(tokens)
        response = sampler.sample(asked, 1, options, prompt_alt_tokens_k=3).result()
        assert response.prompt_alt_tokens is not None
        return response.prompt_alt_tokens.tokens.to_numpy()

    np.testing.assert_array_equal(drawn(TOKENS, 1), drawn(TOKENS, 1))
    assert (drawn(TOKENS, 1) != drawn(TOKENS, 2)).any()
    assert drawn(TOKENS[:1], 1).shape == (0, 3)


def test_without_max_tokens_a_sample_goes_on_to_the_end_of_the_context(
    sampler: tinker.SamplingClient, warm: Warm
) -> None:
    (model,) = warm.client.get_server_capabilities().supported_models
    assert model.max_context_length is not None
    long = tinker.ModelInput.from_ints([5 + i % 90 for i in range(model.max_context_length - 7)])
    options = tinker.SamplingParams(stop=[], temperature=1.0, seed=2)
    (sequence,) = sampler.sample(long, 1, options).result().sequences
    assert (len(sequence.tokens), sequence.stop_reason) == (7, "length")


def test_the_base_model_itself(warm: Warm, sampler: tinker.SamplingClient) -> None:
    base = warm.client.create_sampling_client(base_model=BASE_MODEL).result()
    twin = warm.twin()
    with twin.model.disable_adapter():
        expected = scores(twin, TOKENS)
    right = [expected[i, token].item() for i, token in enumerate(TOKENS[1:])]
    assert base.compute_logprobs(prompt()).result()[1:] == pytest.approx(right, abs=1e-4)
    assert sampler.compute_logprobs(prompt()).result()[1:] != pytest.approx(right, abs=1e-2)
    assert base.get_base_model() == sampler.get_base_model() == BASE_MODEL


def test_a_pickled_client_and_a_handle_work_in_another_process(
    sampler: tinker.SamplingClient, twin: PeftTwin
) -> None:
    expected = sampler.compute_logprobs(prompt()).result()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    handle = sampler.get_sampler_handle()
    state = pickle.dumps(sampler)
    arguments = (state, handle, API_KEY, TOKENS, theirs)
    worker = context.Process(target=sample_from_copies, args=arguments)
    worker.start()
    theirs.close()
    for _ in range(2):
        assert ours.poll(60)
        scored, tokens = ours.recv()
        assert scored[1:] == pytest.approx(expected[1:], abs=1e-5)
        assert tokens == greedy(twin)
    worker.join(30)
    assert worker.exitcode == 0


def test_two_hundred_samples_at_once(sampler: tinker.SamplingClient, twin: PeftTwin) -> None:
    pending = [sampler.sample(prompt(), 1, params(temperature=0, seed=i)) for i in range(200)]
    results = [each.result() for each in pending]
    assert {tuple(r.sequences[0].tokens) for r in results} == {tuple(greedy(twin))}
    assert len({r.sequences[0].sequence_id for r in results}) == 200
