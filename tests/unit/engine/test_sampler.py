"""What a sampling client sees: tokens, logprobs, stops, errors; alone and in a crowd."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.engine import sampling_reference as ref
from tests.unit.engine.random_models import VOCAB_SIZE, save_random_model
from tests.unit.engine.sampling_reference import finish, job, sample, sample_one
from tests.unit.engine.training_reference import add_trained_adapter, run, succeed
from tinsmith.core.errors import TinsmithError, UserError
from tinsmith.engine import sampler as sampler_module
from tinsmith.engine import weight_copies
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import EngineLimits, ForwardBackwardJob, OptimStepJob, SampleJob
from tinsmith.engine.sampler import Sampler
from tinsmith.types import EMPTY_LOGPROB, AdamParams, Datum, ModelInput, SamplingParams

LENGTHS = [1, 3, 30, 17, 8]


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Engine:
    engine = Engine(str(model_dir))
    for name, rank in (("a", 4), ("b", 2), ("c", 3)):
        add_trained_adapter(engine, name, rank=rank, seed=rank)
    return engine


def make_sampler(engine: Engine, **limits: int) -> Sampler:
    return Sampler(engine.base, engine.snapshots, EngineLimits(**limits))


@pytest.fixture
def sampler(engine: Engine) -> Sampler:
    return make_sampler(engine)


@pytest.mark.parametrize("arch", ["qwen3", "llama", "qwen2", "gpt_neox"])
def test_greedy_equals_generate_with_and_without_an_adapter(tmp_path: Path, arch: str) -> None:
    directory = save_random_model(tmp_path / "model", arch)
    engine = Engine(str(directory))
    add_trained_adapter(engine, "a", rank=4)
    snapshot = engine.save_sampler_weights("a", tmp_path / "a")
    prompts = ref.prompts(LENGTHS)
    jobs = [job(f"base{i}", None, p, temperature=0.0) for i, p in enumerate(prompts)]
    jobs += [job(f"a{i}", snapshot, p, temperature=0.0) for i, p in enumerate(prompts)]
    responses = sample(engine.sampler, *jobs)
    plain, adapted = (ref.peft_model(directory, path) for path in (None, tmp_path / "a"))
    for model, found in ((plain, responses[:5]), (adapted, responses[5:])):
        for prompt, response in zip(prompts, found, strict=True):
            assert response.sequences[0].tokens == ref.greedy(model, prompt, 8)
    found = [[r.sequences[0].tokens for r in half] for half in (responses[:5], responses[5:])]
    assert found[0] != found[1], "the adapter matters"


def test_logprobs_equal_a_plain_forward_pass(
    engine: Engine, sampler: Sampler, model_dir: Path, tmp_path: Path
) -> None:
    snapshot = engine.save_sampler_weights("a", tmp_path / "a")
    prompts = ref.prompts(LENGTHS)
    jobs = [job(str(i), snapshot, p, num_samples=2, seed=i) for i, p in enumerate(prompts)]
    responses = sample(sampler, *jobs)
    model = ref.peft_model(model_dir, tmp_path / "a", torch.float64)
    for prompt, response in zip(prompts, responses, strict=True):
        for sequence in response.sequences:
            expected = ref.logprobs_of_sample(model, prompt, sequence.tokens)
            np.testing.assert_allclose(sequence.logprobs_np, expected, atol=1e-4)


def test_logprobs_equal_the_trainers(engine: Engine, sampler: Sampler) -> None:
    snapshot = engine.snapshot("a")
    prompts = ref.prompts(LENGTHS)
    jobs = [job(str(i), snapshot, p, seed=i, temperature=0.7) for i, p in enumerate(prompts)]
    sequences = [response.sequences[0] for response in sample(sampler, *jobs)]
    data = []
    for prompt, sequence in zip(prompts, sequences, strict=True):
        tokens = [*prompt, *sequence.tokens]
        inputs = {"target_tokens": np.array(tokens[1:]), "weights": np.ones(len(tokens) - 1)}
        data.append(
            Datum(
                model_input=ModelInput.from_ints(tokens[:-1]),
                loss_fn_inputs={
                    k: v.astype("i8" if k[0] == "t" else "f4") for k, v in inputs.items()
                },
            )
        )
    (output,) = run(engine, ForwardBackwardJob("a", data, "cross_entropy", forward_only=True))
    for sequence, record in zip(sequences, output.loss_fn_outputs, strict=True):
        theirs = record["logprobs"].to_numpy()[-len(sequence.tokens) :]
        np.testing.assert_allclose(sequence.logprobs_np, theirs, atol=1e-4)


def crowd_jobs(engine: Engine) -> list[SampleJob]:
    snapshots = [None, *(engine.snapshot(name) for name in "abc")]
    rng = np.random.default_rng(0)
    return [
        job(
            f"crowd{index}",
            snapshots[index % 4],
            ref.prompts([int(rng.integers(1, 40))], seed=index)[0],
            num_samples=int(rng.integers(1, 5)),
            max_tokens=int(rng.integers(1, 20)),
            temperature=float(rng.choice([0.0, 0.8, 1.5])),
            top_k=int(rng.choice([-1, 5])),
            top_p=float(rng.choice([1.0, 0.8])),
            seed=index,
        )
        for index in range(24)
    ]


@pytest.mark.parametrize("min_copied", [1, 10**9])
def test_a_seed_gives_the_same_tokens_alone_and_in_a_crowd(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, min_copied: int
) -> None:
    """Where samples share their prompt's keys and values, and where each has a copy."""
    monkeypatch.setattr(sampler_module, "_MIN_COPIED", min_copied)
    jobs = crowd_jobs(engine)
    alone = [sample(make_sampler(engine), each)[0] for each in jobs]
    crowd = make_sampler(engine, max_decode_rows=7, max_prefill_tokens=64)
    results = {}
    waiting = list(jobs)
    while waiting or crowd.has_work:
        if waiting:  # staggered: one more job each step
            crowd.submit(waiting.pop())
        results.update({result.job_id: result for result in crowd.step()})
    for each, expected in zip(jobs, alone, strict=True):
        response = results[each.job_id].response
        assert response is not None
        for mine, theirs in zip(response.sequences, expected.sequences, strict=True):
            assert mine.tokens == theirs.tokens
            assert mine.stop_reason == theirs.stop_reason
            np.testing.assert_allclose(mine.logprobs_np, theirs.logprobs_np, atol=1e-4)


def test_samples_of_a_prompt_differ_and_do_not_depend_on_their_number(
    engine: Engine, sampler: Sampler
) -> None:
    prompt = ref.prompts([40])[0]
    (many,) = sample(sampler, job("many", None, prompt, num_samples=6, seed=3, temperature=1.5))
    tokens = [tuple(sequence.tokens) for sequence in many.sequences]
    assert len(set(tokens)) == 6
    (few,) = sample(sampler, job("few", None, prompt, num_samples=2, seed=3, temperature=1.5))
    assert [tuple(sequence.tokens) for sequence in few.sequences] == tokens[:2]
    assert sample_one(sampler, job("o", None, prompt, seed=4, temperature=1.5)).tokens != tokens[0]


def test_sharing_a_prompt_changes_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of one snapshot and of several, with rows of their own between those that share."""
    prompts = ref.prompts([90, 5, 70, 1])
    snapshots = [None, None, engine.snapshot("a"), engine.snapshot("a")]
    jobs = [
        job(str(i), snapshot, prompt, num_samples=n, seed=i, max_tokens=20 - 3 * i)
        for i, (snapshot, prompt, n) in enumerate(
            zip(snapshots, prompts, [5, 1, 7, 2], strict=True)
        )
    ]
    shared = make_sampler(engine, max_decode_rows=9)
    monkeypatch.setattr(sampler_module, "_MIN_COPIED", 60)
    found = sample(shared, *jobs)
    assert shared._cache.num_positions < 70, "the slots hold no prompt that is shared"
    monkeypatch.setattr(sampler_module, "_MIN_COPIED", 10**9)
    expected = sample(make_sampler(engine, max_decode_rows=9), *jobs)
    for mine, theirs in zip(found, expected, strict=True):
        for one, other in zip(mine.sequences, theirs.sequences, strict=True):
            assert one.tokens == other.tokens
            np.testing.assert_allclose(one.logprobs_np, other.logprobs_np, atol=1e-4)


def test_without_a_seed_every_job_draws_its_own(sampler: Sampler) -> None:
    prompt = ref.prompts([5])[0]
    jobs = [job(str(i), None, prompt, temperature=2.0, max_tokens=20) for i in range(2)]
    first, second = sample(sampler, *jobs)
    assert first.sequences[0].tokens != second.sequences[0].tokens


def test_a_crowd_larger_than_the_rows_finishes_and_leaves_nothing(engine: Engine) -> None:
    sampler = make_sampler(engine, max_decode_rows=4)
    jobs = [job(str(i), None, p, num_samples=9) for i, p in enumerate(ref.prompts(LENGTHS))]
    assert len(sample(sampler, *jobs)) == 5
    assert len(sampler._rows) == 0
    assert not sampler.has_work
    assert sampler.step() == []


def test_a_small_cache_slows_a_crowd_and_changes_nothing(engine: Engine) -> None:
    jobs = crowd_jobs(engine)
    row_bytes = make_sampler(engine)._decoder.shape.bytes_per_position * 64
    narrow = make_sampler(engine, max_cache_bytes=2 * row_bytes)
    for expected, found in zip(
        sample(make_sampler(engine), *jobs), sample(narrow, *jobs), strict=True
    ):
        assert [s.tokens for s in found.sequences] == [s.tokens for s in expected.sequences]
    assert narrow._cache.num_slots <= 2


@pytest.mark.parametrize("chunk", [1, 7, 16, 1000])
def test_prompts_in_chunks_give_the_same(engine: Engine, chunk: int) -> None:
    prompt = ref.prompts([45])[0]
    snapshot = engine.snapshot("a")
    one = job("x", snapshot, prompt, seed=1, prompt_logprobs=True, topk=3)
    (expected,) = sample(make_sampler(engine), one)
    (found,) = sample(make_sampler(engine, max_prefill_tokens=chunk), one)
    assert found.sequences[0].tokens == expected.sequences[0].tokens
    np.testing.assert_allclose(found.prompt_logprobs_np, expected.prompt_logprobs_np, atol=1e-4)
    assert found.topk_prompt_logprobs_np is not None
    assert expected.topk_prompt_logprobs_np is not None
    np.testing.assert_array_equal(
        found.topk_prompt_logprobs_np.token_ids, expected.topk_prompt_logprobs_np.token_ids
    )


def test_rows_keep_drawing_while_a_long_prompt_is_prefilled(engine: Engine) -> None:
    sampler = make_sampler(engine, max_prefill_tokens=32)  # 8 a step while rows are live
    sampler.submit(job("short", None, [3, 4], max_tokens=5))
    sampler.step()
    sampler.submit(job("long", None, ref.prompts([80])[0]))
    finished = [sampler.step() for _ in range(3)]
    assert [result.job_id for results in finished for result in results] == ["short"]
    assert set(finish(sampler)) == {"long"}


def test_prompt_logprobs_equal_a_plain_forward_pass(
    engine: Engine, model_dir: Path, tmp_path: Path
) -> None:
    snapshot = engine.save_sampler_weights("b", tmp_path / "b")
    prompts = ref.prompts(LENGTHS)
    # A head of few logits at a time has several chunks.
    sampler = make_sampler(engine, max_head_elements=5 * VOCAB_SIZE)
    jobs = [
        job(str(i), snapshot, p, max_tokens=1, prompt_logprobs=True, topk=4)
        for i, p in enumerate(prompts)
    ]
    model = ref.peft_model(model_dir, tmp_path / "b", torch.float64)
    for prompt, response in zip(prompts, sample(sampler, *jobs), strict=True):
        found, topk = response.prompt_logprobs_np, response.topk_prompt_logprobs_np
        assert found is not None
        assert topk is not None
        assert found.dtype == np.float32
        assert found.shape == (len(prompt),)
        assert topk.token_ids.shape == (len(prompt), 4)
        assert np.isnan(found[0])
        assert topk.tolist()[0] is None
        assert topk.logprobs[0, 0] == np.float32(EMPTY_LOGPROB)
        if len(prompt) == 1:
            continue
        table = ref.logprobs(model, prompt)[:-1]
        expected = table.gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]
        np.testing.assert_allclose(found[1:], expected.numpy(), atol=1e-4)
        best = torch.topk(table, 4)
        np.testing.assert_array_equal(topk.token_ids[1:], best.indices.numpy())
        np.testing.assert_allclose(topk.logprobs[1:], best.values.numpy(), atol=1e-4)


def test_prompt_scores_come_only_when_asked_for(sampler: Sampler) -> None:
    (response,) = sample(sampler, job("x", None, [3, 4, 5]))
    assert response.prompt_logprobs is None
    assert response.topk_prompt_logprobs is None


DRAWN = {"max_tokens": 12, "temperature": 1.5, "seed": 1}


def test_a_stop_token_ends_the_sequence_and_is_part_of_it(sampler: Sampler) -> None:
    prompt = ref.prompts([6])[0]
    free = sample_one(sampler, job("free", None, prompt, **DRAWN))
    assert free.stop_reason == "length"
    assert len(free.tokens) == 12
    place = next(n for n in range(3, 12) if free.tokens[n] not in free.tokens[:n])
    for stop in ([free.tokens[place]], [95, free.tokens[place], 94]):
        found = sample_one(sampler, job("stop", None, prompt, **DRAWN, stop=stop))
        assert found.tokens == free.tokens[: place + 1]
        assert found.stop_reason == "stop"
    first = sample_one(sampler, job("first", None, prompt, **DRAWN, stop=[free.tokens[0]]))
    assert (first.tokens, first.stop_reason) == (free.tokens[:1], "stop")
    at_limit = sample_one(
        sampler,
        job("limit", None, prompt, **{**DRAWN, "max_tokens": 1}, stop=[free.tokens[0]]),
    )
    assert at_limit.stop_reason == "stop"


def test_stop_none_ends_at_the_models_end_token_and_an_empty_list_does_not(
    sampler: Sampler,
) -> None:
    prompt = ref.prompts([6])[0]
    free = sample_one(sampler, job("free", None, prompt, **DRAWN))
    place = next(n for n in range(3, 12) if free.tokens[n] not in free.tokens[:n])
    sampler._texts.end_tokens = frozenset({free.tokens[place]})
    implicit = sample_one(sampler, job("eos", None, prompt, **DRAWN, stop=None))
    assert implicit.tokens == free.tokens[: place + 1]
    endless = sample_one(sampler, job("no", None, prompt, **DRAWN, stop=[]))
    assert endless.tokens == free.tokens


def test_stop_texts_end_sequences_of_the_tiny_model(tiny_dir: Path) -> None:
    from tinsmith.renderers.tokenizers import get_tokenizer

    engine = Engine(str(tiny_dir))
    tokenizer = get_tokenizer(str(tiny_dir))
    prompt = tokenizer.encode("The three colours are", add_special_tokens=False)
    free = sample_one(engine.sampler, job("free", None, prompt, temperature=0.0, max_tokens=24))
    text = tokenizer.decode(free.tokens)
    word = text[len(text) // 2 : len(text) // 2 + 3]
    jobs = [
        job("text", None, prompt, temperature=0.0, max_tokens=24, stop=word),
        job("list", None, prompt, temperature=0.0, max_tokens=24, stop=["\x00\x00", word]),
        job("none", None, prompt, temperature=0.0, max_tokens=24, stop=["\x00\x00"]),
    ]
    texts = [tokenizer.decode(r.sequences[0].tokens) for r in sample(engine.sampler, *jobs)]
    assert texts[0] == texts[1]
    assert texts[0].find(word) == text.find(word)
    kept = [tokenizer.decode(free.tokens[:n]) for n in range(len(free.tokens) + 1)]
    assert texts[0] == next(part for part in kept if word in part)
    assert texts[2] == text


def test_without_max_tokens_a_sequence_fills_the_context(sampler: Sampler) -> None:
    found = sample_one(sampler, job("x", None, ref.prompts([100])[0], max_tokens=None))
    assert len(found.tokens) == 28  # the model's context is 128
    assert found.stop_reason == "length"


@pytest.mark.parametrize(
    ("bad", "field", "message"),
    [
        (job("x", None, []), "prompt", "at least one token"),
        (job("x", None, [3, VOCAB_SIZE]), "prompt", "token 96 at position 1"),
        (job("x", None, [-1]), "prompt", "token -1 at position 0"),
        (
            job("x", None, [3] * 100, max_tokens=29),
            "sampling_params.max_tokens",
            r"^Prompt length plus max_tokens exceeds the model's context window: 100 \+ 29 > 128$",
        ),
        (job("x", None, [3] * 128, max_tokens=None), "prompt", r"128 \+ 1 > 128"),
        (job("x", "nothing", [3]), "snapshot_id", "'nothing'"),
        (job("x", None, [3], num_samples=0), "num_samples", "1 or more"),
        (job("x", None, [3], topk=97), "topk_prompt_logprobs", r"0\.\.96"),
        (job("x", None, [3], stop="end"), "sampling_params.stop", "tokenizer"),
    ],
)
def test_a_bad_job_fails_alone_and_names_its_field(
    sampler: Sampler, bad: SampleJob, field: str, message: str
) -> None:
    sampler.submit(job("good", None, [3, 4]))
    sampler.submit(bad)
    results = finish(sampler)
    assert results["good"].response is not None
    error = results["x"].error
    assert isinstance(error, UserError)
    assert error.field == field
    with pytest.raises(TinsmithError, match=message):
        raise type(error)(error.message)


def test_a_snapshot_stays_as_it_was_while_training_goes_on(model_dir: Path) -> None:
    engine = Engine(str(model_dir))
    add_trained_adapter(engine, "a", rank=4)
    frozen = engine.snapshot("a")
    before = sample_one(engine.sampler, job("1", frozen, [3, 4, 5], max_tokens=20, seed=1))
    engine.sampler.submit(job("running", frozen, [3, 4, 5], max_tokens=20, seed=1))
    for _ in range(5):
        engine.sampler.step()
    data = [
        Datum(
            model_input=ModelInput.from_ints([3, 4, 5]),
            loss_fn_inputs={
                "target_tokens": np.array([4, 5, 6]),
                "weights": np.ones(3, np.float32),
            },
        )
    ]
    run(engine, ForwardBackwardJob("a", data, "cross_entropy"))
    succeed(engine.optim_step([OptimStepJob("a", AdamParams(learning_rate=0.3))]))
    newer = engine.snapshot("a")
    assert newer != frozen
    engine.release_snapshot(frozen)  # jobs under way keep what they sample from
    running = finish(engine.sampler)["running"].response
    assert running is not None
    assert running.sequences[0].tokens == before.tokens
    after = sample_one(engine.sampler, job("2", newer, [3, 4, 5], max_tokens=20, seed=1))
    assert after.tokens != before.tokens


def test_cancelled_jobs_leave_rows_and_queues(engine: Engine) -> None:
    sampler = make_sampler(engine, max_decode_rows=4, max_prefill_tokens=16)
    prompts = ref.prompts([5, 5, 60, 5])
    expected = sample_one(sampler, job("kept", None, prompts[1], seed=5))
    sampler.submit(job("rows", None, prompts[0], num_samples=6, max_tokens=50))
    sampler.submit(job("kept", None, prompts[1], seed=5))
    sampler.submit(job("chunks", None, prompts[2]))
    sampler.submit(job("waits", None, prompts[3]))
    sampler.step()
    assert len(sampler._rows) == 4
    for name in ("rows", "chunks", "waits", "unknown"):
        sampler.cancel(name)
    assert len(sampler._rows) == 0
    results = finish(sampler)
    assert set(results) == {"kept"}
    response = results["kept"].response
    assert response is not None
    assert response.sequences[0].tokens == expected.tokens


def test_an_adapter_that_diverged_fails_alone_and_leaves_no_trace(engine: Engine) -> None:
    add_trained_adapter(engine, "broken", rank=2)
    with torch.no_grad():
        engine.adapter("broken").flat.fill_(torch.nan)
    broken = engine.snapshot("broken")
    engine.unload_adapter("broken")
    sampler = make_sampler(engine, max_decode_rows=3)
    prompt = ref.prompts([9])[0]
    expected = sample_one(make_sampler(engine), job("good", None, prompt, seed=1, max_tokens=30))
    sampler.submit(job("bad", broken, prompt, num_samples=2))
    sampler.submit(job("good", None, prompt, seed=1, max_tokens=30))
    sampler.submit(job("later", None, prompt, seed=1, num_samples=3, max_tokens=30))
    results = finish(sampler)
    error = results["bad"].error
    assert isinstance(error, UserError)
    assert "not finite" in error.message
    for name in ("good", "later"):
        response = results[name].response
        assert response is not None
        assert response.sequences[0].tokens == expected.tokens


@pytest.mark.parametrize("owners", ["base", "merged"])
def test_copies_of_weights_change_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, owners: str
) -> None:
    """With one row and with several, of one snapshot and of a mixture."""
    jobs = crowd_jobs(engine)
    mine = [job("solo", engine.snapshot("b"), [3, 4, 5], seed=1, temperature=1.5)]
    plain = make_sampler(engine, max_weight_copy_bytes=0)
    expected = [*sample(plain, *jobs), *sample(plain, *mine)]
    monkeypatch.setattr(weight_copies, "_MIN_STEPS", 0)
    monkeypatch.setattr(weight_copies, "_MIN_STEPS_ALONE", 10**9 if owners == "base" else 0)
    sampler = make_sampler(engine)
    found = [*sample(sampler, *jobs), *sample(sampler, *mine)]
    copies = sampler._decoder._copies._copies  # type: ignore[attr-defined]
    assert {kind for _, kind in copies} == {"one", "many"}
    assert any(owner for owner, _ in copies) == (owners == "merged")
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours.sequences, theirs.sequences, strict=True):
            assert one.tokens == other.tokens
            np.testing.assert_allclose(one.logprobs_np, other.logprobs_np, atol=1e-4)


def test_copies_of_weights_stay_within_their_budget(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_copies, "_MIN_STEPS", 0)
    monkeypatch.setattr(weight_copies, "_MIN_STEPS_ALONE", 0)
    size = sum(layer.weight.numel() * 4 for layer in engine.base.layers.values())
    sampler = make_sampler(engine, max_weight_copy_bytes=2 * size + 1)
    for each in crowd_jobs(engine)[:8]:
        sample(sampler, each)
    copies = sampler._decoder._copies._copies  # type: ignore[attr-defined]
    assert len(copies) == 2


def test_a_bfloat16_base_samples_with_a_float32_adapter(model_dir: Path) -> None:
    engine = Engine(str(model_dir), dtype=torch.bfloat16)
    add_trained_adapter(engine, "a", rank=4)
    found = sample_one(engine.sampler, job("x", engine.snapshot("a"), [3, 4, 5], seed=1))
    assert found.logprobs_np is not None
    assert np.isfinite(found.logprobs_np).all()
    params = SamplingParams(max_tokens=4)
    assert params.temperature == 1.0
