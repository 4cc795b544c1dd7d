"""What a sample can be asked about: likely tokens, named tokens, alternatives, the end alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinsmith.cli.conformance.registry import check, expect, expect_close
from tinsmith.cli.conformance.sampling import MAX_TOKENS, draw, tokens_of
from tinsmith.cli.conformance.server import Array, Server, random_tokens

LENGTH = 8


def ask(server: Server, tokens: list[int], *, seed: int = 0, **options: Any) -> Any:
    """One token drawn after a prompt, with options of `sample`."""
    params = server.tinker.SamplingParams(max_tokens=1, stop=[], seed=seed)
    prompt = server.tinker.ModelInput.from_ints(tokens)
    return server.wait(server.sampler().sample(prompt, 1, params, **options))


def score_of(server: Server, tokens: list[int], place: int, token: int) -> float:
    """The logprob of another token at a place of the prompt, by a prompt that holds it there."""
    prompt = server.tinker.ModelInput.from_ints([*tokens[:place], token])
    return float(server.wait(server.sampler().compute_logprobs(prompt))[-1])


@check(
    "Top-k logprobs of sampled tokens",
    proves="topk_sample_logprobs: k candidates a position, the greedy token first",
    points=2,
)
def list_likely_sampled_tokens(server: Server) -> None:
    params = server.tinker.SamplingParams(max_tokens=MAX_TOKENS, stop=[], temperature=0.0)
    sample = server.sampler().sample
    response = server.wait(sample(server.prompt(), 1, params, topk_sample_logprobs=3))
    (sequence,) = response.sequences
    listed = sequence.topk_logprobs
    expect(listed is not None, "topk_sample_logprobs=3 is ignored")
    expect(len(listed) == len(sequence.tokens), f"{len(listed)} lists of {len(sequence.tokens)}")
    for row, token, logprob in zip(listed, sequence.tokens, sequence.logprobs, strict=True):
        scores = [score for _, score in row or []]
        expect(len(scores) == 3, f"{len(scores)} candidates, expected 3")
        expect(scores == sorted(scores, reverse=True), "candidates are not sorted")
        expect(row[0][0] == token, f"the likeliest is {row[0][0]}, greedy sampling drew {token}")
        expect_close([scores[0]], [logprob], atol=server.tolerance, what="the first candidate")


@check(
    "The end of a prompt alone can be scored",
    proves="prompt_logprobs_last_n: the same numbers, nothing before them",
)
def score_the_last_prompt_tokens(server: Server) -> None:
    prompt = server.prompt(LENGTH)
    everything = server.wait(server.sampler().compute_logprobs(prompt))
    last = server.wait(server.sampler().compute_logprobs(prompt, prompt_logprobs_last_n=2))
    expect([value for value in last[:-2] if value is not None] == [], "earlier tokens are scored")
    expect_close(last[-2:], everything[-2:], atol=server.tolerance, what="the last two logprobs")


@check(
    "Named tokens are scored at each position of a prompt",
    proves="target_prompt_logprobs: the model's own numbers, 0 where -1 asks for none",
    points=2,
)
def score_named_prompt_tokens(server: Server) -> None:
    tokens = random_tokens(4, seed=8)
    asked = np.array([[7, tokens[1]], [-1, 9], [11, tokens[3]]], np.int64)
    wanted = server.tinker.TensorData.from_numpy(asked)
    response = ask(server, tokens, target_prompt_logprobs=wanted)
    expect(response.target_prompt_logprobs is not None, "target_prompt_logprobs is ignored")
    found = np.asarray(response.target_prompt_logprobs.to_numpy(), np.float64)
    expected = np.zeros(asked.shape)
    for place, column in zip(*np.nonzero(asked >= 0), strict=True):
        token = int(asked[place, column])
        expected[place, column] = score_of(server, tokens, int(place) + 1, token)
    expect_close(found, expected, atol=server.tolerance, what="logprobs of named tokens")


@check(
    "Other tokens are drawn at each position of a prompt",
    proves="prompt_alt_tokens_k: repeated by the seed, with the model's own logprobs",
    points=2,
)
def draw_alternatives_of_a_prompt(server: Server) -> None:
    tokens = random_tokens(LENGTH, seed=9)

    def drawn(seed: int) -> tuple[Array, Array]:
        table = ask(server, tokens, seed=seed, prompt_alt_tokens_k=3).prompt_alt_tokens
        expect(table is not None, "prompt_alt_tokens_k=3 is ignored")
        return np.asarray(table.tokens.to_numpy()), np.asarray(table.logprobs.to_numpy())

    found, logprobs = drawn(1)
    expect(found.shape == (LENGTH - 1, 3), f"shape {found.shape}, expected {(LENGTH - 1, 3)}")
    expect((drawn(1)[0] == found).all(), "the same seed drew other alternatives")
    expect((drawn(2)[0] != found).any(), "another seed drew the same alternatives")
    for place in (0, LENGTH - 2):
        expected = score_of(server, tokens, place + 1, int(found[place, 0]))
        what = f"the logprob of an alternative at {place + 1}"
        expect_close([logprobs[place, 0]], [expected], atol=server.tolerance, what=what)


@check(
    "Options do not change what is drawn",
    proves="asking for more numbers leaves a seeded sample as it is",
)
def leave_the_sample_alone(server: Server) -> None:
    plain = tokens_of(draw(server, 2, temperature=1.0, seed=6))
    params = server.tinker.SamplingParams(max_tokens=MAX_TOKENS, stop=[], temperature=1.0, seed=6)
    sample = server.sampler().sample
    options = {"topk_sample_logprobs": 2, "include_prompt_logprobs": True}
    options |= {"topk_prompt_logprobs": 2, "prompt_alt_tokens_k": 2}
    found = tokens_of(server.wait(sample(server.prompt(), 2, params, **options)))
    expect(found == plain, "the same seed drew other tokens with options")
