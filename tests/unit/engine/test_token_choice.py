"""Draws follow the softmax, truncation keeps what its rules say, random numbers stay in place."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinsmith.engine.token_choice import ChoiceSettings, choose_tokens, uniforms


def make_settings(
    count: int, *, temperature: float = 1.0, top_k: int = -1, top_p: float = 1.0
) -> ChoiceSettings:
    return ChoiceSettings(np.full(count, temperature), np.full(count, top_k), np.full(count, top_p))


def stream(count: int, *, seed: int = 1) -> np.ndarray:
    positions = np.arange(count, dtype=np.uint64)
    return uniforms(np.full(count, seed, np.uint64), np.zeros(count, np.uint64), positions)


def draw_many(logits: torch.Tensor, count: int, **params: float) -> np.ndarray:
    rows = logits.expand(count, -1).clone()
    return choose_tokens(rows, make_settings(count, **params), stream(count)).tokens  # type: ignore[arg-type]


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """How many standard deviations too large: within -4..4 if the counts fit."""
    expected = probabilities * counts.sum()
    kept = expected > 5
    freedom = kept.sum() - 1
    assert freedom > 5
    statistic = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    return float((statistic - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("vocab", [40, 128, 300])
def test_draws_follow_the_tempered_softmax(temperature: float, vocab: int) -> None:
    logits = 2 * torch.randn(vocab, generator=torch.Generator().manual_seed(0))
    tokens = draw_many(logits, 20_000, temperature=temperature)
    counts = np.bincount(tokens, minlength=vocab)
    right = torch.softmax(logits.double() / temperature, -1).numpy()
    wrong = torch.softmax(logits.double() / (temperature * 1.3), -1).numpy()
    assert abs(chi_square(counts, right)) < 4
    assert chi_square(counts, wrong) > 20


def test_uniform_numbers_are_uniform_and_unrelated() -> None:
    numbers = stream(50_000)
    assert abs(numbers.mean() - 0.5) < 0.005
    assert np.histogram(numbers, 20, (0, 1))[0].std() < 3 * np.sqrt(50_000 / 20)
    seeds = np.arange(50_000, dtype=np.uint64)
    zeros = np.zeros_like(seeds)
    for other in (uniforms(seeds, zeros, zeros), uniforms(zeros, seeds, zeros)):
        assert abs(np.corrcoef(numbers, other)[0, 1]) < 0.02
        assert abs(np.corrcoef(other[:-1], other[1:])[0, 1]) < 0.02


def test_uniform_numbers_are_pinned() -> None:
    """They are part of what a seed means: a change would change everybody's samples."""
    seeds = np.array([0, 0, 0, 1, 2**64 - 1], np.uint64)
    samples = np.array([0, 0, 1, 0, 7], np.uint64)
    positions = np.array([0, 1, 0, 0, 1000], np.uint64)
    expected = [
        0.826027878428408,
        0.6917740324130444,
        0.3885280440448119,
        0.19535955835276142,
        0.6439893761028963,
    ]
    np.testing.assert_allclose(uniforms(seeds, samples, positions), expected, rtol=0, atol=1e-15)


def test_a_row_draws_the_same_alone_and_in_a_crowd() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(50, 300, generator=generator) * 3
    rng = np.random.default_rng(0)
    params = ChoiceSettings(
        rng.choice([0.0, 0.3, 1.0, 1.7], 50),
        rng.choice([-1, 1, 5, 400], 50),
        rng.choice([1.0, 0.9, 0.2], 50),
    )
    numbers = stream(50)
    crowd = choose_tokens(logits, params, numbers)
    for row in range(50):
        rows = slice(row, row + 1)
        alone = choose_tokens(logits[rows], params.rows(rows), numbers[rows])
        assert alone.tokens[0] == crowd.tokens[row]
        assert alone.logprobs[0] == pytest.approx(crowd.logprobs[row], abs=1e-6)


def test_logprobs_are_the_models_own() -> None:
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(4)) * 4
    chosen = choose_tokens(logits, make_settings(8, temperature=0.3, top_k=3, top_p=0.8), stream(8))
    expected = torch.log_softmax(logits.double(), -1)
    expected = expected[torch.arange(8), torch.from_numpy(chosen.tokens)]
    np.testing.assert_allclose(chosen.logprobs, expected.numpy(), atol=1e-5)
    assert chosen.logprobs.dtype == np.float32


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(5))
    chosen = choose_tokens(logits, make_settings(8, temperature=0.0), stream(8))
    assert chosen.tokens.tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_tiny_and_huge_temperatures_do_not_overflow(scale: float) -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(6)) * 1e4
    chosen = choose_tokens(logits, make_settings(4, temperature=1e-9 * scale), stream(4))
    assert chosen.tokens.tolist() == logits.argmax(-1).tolist()
    hot = choose_tokens(
        logits[:1].expand(500, -1), make_settings(500, temperature=1e9), stream(500)
    )
    assert len(set(hot.tokens.tolist())) > 30


def kept_tokens(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> set[int]:
    """Slowly: temperature, then the k likeliest, then the fewest that reach p; ties stay."""
    scaled = logits.astype(np.float64) / temperature
    order = sorted(range(len(scaled)), key=lambda token: -scaled[token])
    kept = order
    if top_k > 0:
        border = scaled[order[min(top_k, len(order)) - 1]]
        kept = [token for token in order if scaled[token] >= border]
    weights = np.exp(scaled[kept] - scaled[kept].max())
    weights /= weights.sum()
    total = 0.0
    for place, weight in enumerate(weights):
        total += weight
        if total >= top_p:
            kept = [token for token in kept if scaled[token] >= scaled[kept[place]]]
            break
    return set(kept)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    vocab=st.sampled_from([3, 17, 130, 700]),
    levels=st.sampled_from([4, 1000]),
    temperature=st.sampled_from([0.5, 1.0, 1.5]),
    top_k=st.sampled_from([-1, 1, 2, 7, 300, 5000]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.05]),
)
def test_truncation_equals_a_slow_reference(
    seed: int, vocab: int, levels: int, temperature: float, top_k: int, top_p: float
) -> None:
    rng = np.random.default_rng(seed)
    # Few levels make ties; exact halves keep them ties after the division.
    logits = (rng.integers(0, levels, vocab) / (levels / 8)).astype(np.float32)
    expected = kept_tokens(logits, temperature, top_k, top_p)
    count = 400
    rows = torch.from_numpy(logits).expand(count, -1)
    numbers = (np.arange(count) + 0.5) / count  # every part of the distribution
    params = make_settings(count, temperature=temperature, top_k=top_k, top_p=top_p)
    tokens = set(choose_tokens(rows, params, numbers).tokens.tolist())
    if _is_on_the_edge(logits, temperature, top_k, top_p):
        return
    assert tokens <= expected
    weights = np.exp((logits[list(expected)] - logits.max()).astype(np.float64) / temperature)
    weights /= weights.sum()
    likely = {token for token, w in zip(expected, weights, strict=True) if w > 2 / count}
    assert likely <= tokens


def _is_on_the_edge(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> bool:
    """Whether a rounding of p moves the border."""
    return (
        len(
            {
                frozenset(kept_tokens(logits, temperature, top_k, min(1.0, top_p * factor)))
                for factor in (1 - 1e-6, 1.0, 1 + 1e-6)
            }
        )
        > 1
    )


def test_top_p_beyond_the_first_candidates_is_exact() -> None:
    """Near-uniform logits: more tokens belong than the first look covers."""
    logits = torch.linspace(0, 0.5, 1000)[None].expand(2000, -1)
    numbers = (np.arange(2000) + 0.5) / 2000
    tokens = choose_tokens(logits, make_settings(2000, top_p=0.6), numbers).tokens
    expected = kept_tokens(logits[0].numpy(), 1.0, -1, 0.6)
    assert len(expected) > 500
    assert set(tokens.tolist()) == expected


def test_the_ends_of_the_unit_interval_pick_tokens_with_weight() -> None:
    logits = torch.full((2, 300), -torch.inf)
    logits[:, 140] = 0.0
    logits[:, 150] = 0.0
    numbers = np.array([0.0, 1 - 2.0**-53])
    assert choose_tokens(logits, make_settings(2), numbers).tokens.tolist() == [140, 150]


def test_not_finite_logits_show_in_the_logprobs() -> None:
    logits = torch.zeros(2, 10)
    logits[1, 3] = torch.nan
    chosen = choose_tokens(logits, make_settings(2), stream(2))
    assert np.isfinite(chosen.logprobs).tolist() == [True, False]
