"""What a sample is: its seed, its end, its logprobs, and those of its prompt."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinsmith.cli.conformance.registry import check, expect, expect_close
from tinsmith.cli.conformance.server import Server, random_tokens

MAX_TOKENS = 8


def draw(server: Server, num_samples: int = 1, *, sampler: Any = None, **options: Any) -> Any:
    """The official response to the fixed prompt; keywords of `sample` besides SamplingParams'."""
    keywords = {
        name: options.pop(name)
        for name in ("include_prompt_logprobs", "topk_prompt_logprobs", "prompt_logprobs_last_n")
        if name in options
    }
    params = server.tinker.SamplingParams(**{"max_tokens": MAX_TOKENS, "stop": [], **options})
    client = sampler or server.sampler()
    return server.wait(client.sample(server.prompt(), num_samples, params, **keywords))


def tokens_of(response: Any) -> list[list[int]]:
    """The tokens of each sequence."""
    return [list(sequence.tokens) for sequence in response.sequences]


@check("A seed fixes the tokens", proves="an experiment can be repeated", points=2)
def repeats_with_a_seed(server: Server) -> None:
    options = {"num_samples": 3, "temperature": 1.5, "seed": 11}
    first, second = (tokens_of(draw(server, **options)) for _ in range(2))
    expect(first == second, "the same seed drew other tokens")
    other = tokens_of(draw(server, **(options | {"seed": 12})))
    expect(other != first, "another seed drew the same tokens")
    expect(len({tuple(each) for each in first}) > 1, "the samples of one request are all the same")


@check("A seed holds in company", proves="other people's samples do not change mine", points=2)
def repeats_in_company(server: Server) -> None:
    sampler = server.sampler()
    alone = tokens_of(draw(server, 2, sampler=sampler, temperature=1.5, seed=11))
    params = server.tinker.SamplingParams(max_tokens=24, temperature=2.0, stop=[])
    crowd = [sampler.sample(server.prompt(5, seed=n), 2, params) for n in range(8)]
    found = tokens_of(draw(server, 2, sampler=sampler, temperature=1.5, seed=11))
    for future in crowd:
        server.wait(future)
    expect(found == alone, "the same seed drew other tokens beside other samples")


@check("Greedy sampling takes the likeliest token", proves="temperature=0 and top_k=1", points=2)
def is_greedy_when_asked(server: Server) -> None:
    (greedy,) = tokens_of(draw(server, temperature=0.0))
    (top,) = tokens_of(draw(server, top_k=1, temperature=1.0))
    expect(greedy == top, "temperature=0 and top_k=1 differ")
    prompt = server.tinker.ModelInput.from_ints([*server.prompt().to_ints(), *greedy])
    params = server.tinker.SamplingParams(max_tokens=1, stop=[])
    scored = server.wait(
        server.sampler().sample(
            prompt, 1, params, include_prompt_logprobs=True, topk_prompt_logprobs=1
        )
    )
    likeliest = [cell[0][0] for cell in scored.topk_prompt_logprobs[-len(greedy) :]]
    expect(likeliest == greedy, f"drew {greedy}, the likeliest are {likeliest}")


@check(
    "A sampled token's logprob is the model's own",
    proves="importance ratios start at 1, whatever temperature sampled",
    points=3,
)
def returns_true_logprobs(server: Server) -> None:
    model = server.fork()
    path = server.wait(model.trainer.save_weights_for_sampler("truth")).path
    sampler = server.sampler(path)
    prompt = server.prompt()
    for temperature in (1.0, 0.5):
        response = draw(server, sampler=sampler, temperature=temperature, seed=3)
        (sequence,) = response.sequences
        text = server.tinker.ModelInput.from_ints([*prompt.to_ints(), *sequence.tokens])
        scored = server.wait(sampler.compute_logprobs(text))[-len(sequence.tokens) :]
        what = f"logprobs at temperature {temperature:g}"
        expect_close(sequence.logprobs, scored, atol=server.tolerance, what=what)
        tokens = text.to_ints()
        datum = server.datum(tokens, weights=np.ones(len(tokens) - 1, np.float32))
        trained = model.logprobs([datum])[-len(sequence.tokens) :]
        expect_close(sequence.logprobs, trained, atol=server.tolerance, what="trained " + what)


@check("As many samples and tokens as asked for", proves="num_samples and max_tokens")
def counts_as_asked(server: Server) -> None:
    response = draw(server, 3, temperature=1.0)
    lengths = [len(each) for each in tokens_of(response)]
    expect(lengths == [MAX_TOKENS] * 3, f"asked for 3 of {MAX_TOKENS} tokens, got {lengths}")
    reasons = {str(sequence.stop_reason) for sequence in response.sequences}
    expect(reasons == {"length"}, f"stop_reason {reasons}, expected length")


@check("Stop tokens end a sample", proves="stop as token ids", points=2)
def stops_at_tokens(server: Server) -> None:
    (greedy,) = tokens_of(draw(server, temperature=0.0))
    stop = greedy[MAX_TOKENS // 2]
    expected = greedy[: greedy.index(stop) + 1]
    response = draw(server, temperature=0.0, stop=[stop])
    (found,) = tokens_of(response)
    expect(found == expected, f"with stop=[{stop}] drew {found}, expected {expected}")
    expect(str(response.sequences[0].stop_reason) == "stop", "stop_reason is not stop")


@check("Stop strings end a sample", proves="stop as a string and as a list of strings", points=2)
def stops_at_strings(server: Server) -> None:
    model = server.fork()
    tokenizer = model.trainer.get_tokenizer()
    (greedy,) = tokens_of(draw(server, temperature=0.0, max_tokens=16))
    pieces = [tokenizer.decode([token]) for token in greedy]
    readable = [piece for piece in pieces if piece.strip() and "\ufffd" not in piece]
    expect(readable, "the model's greedy text has no readable token to stop at")
    stop = readable[min(2, len(readable) - 1)]
    for form in (stop, [stop]):
        response = draw(server, temperature=0.0, max_tokens=16, stop=form)
        (found,) = tokens_of(response)
        expect(str(response.sequences[0].stop_reason) == "stop", f"stop={form!r} did not stop")
        expect(
            found == greedy[: len(found)] and stop in tokenizer.decode(found),
            f"stop={form!r}: drew {tokenizer.decode(found)!r}",
        )
        expect(
            stop not in tokenizer.decode(found[:-1]), f"stop={form!r}: ended later than it could"
        )


@check("An empty stop list stops at nothing", proves="stop=[] goes on past the end of text")
def goes_on_without_stops(server: Server) -> None:
    # Hot sampling meets the end-of-text token soon; whatever is drawn, the length is full.
    response = draw(server, 8, temperature=3.0, max_tokens=40, seed=1)
    lengths = {len(each) for each in tokens_of(response)}
    expect(lengths == {40}, f"with stop=[] sequences end after {sorted(lengths)} of 40 tokens")


@check(
    "Prompt logprobs have the prompt's length",
    proves="the first is absent, the others are the model's own",
    points=2,
)
def scores_prompts(server: Server) -> None:
    model = server.fork()
    path = server.wait(model.trainer.save_weights_for_sampler("score")).path
    tokens = random_tokens(9, seed=4)
    prompt = server.tinker.ModelInput.from_ints(tokens)
    scored = server.wait(server.sampler(path).compute_logprobs(prompt))
    expect(len(scored) == 9, f"{len(scored)} prompt logprobs of 9 tokens")
    expect(scored[0] is None, f"the first token's logprob is {scored[0]}, expected none")
    datum = server.datum(tokens, weights=np.ones(8, np.float32))
    expected = model.logprobs([datum])
    expect_close(scored[1:], expected, atol=server.tolerance, what="prompt logprobs")


@check("Top-k prompt logprobs", proves="k candidates a position, the likeliest first", points=2)
def lists_likely_prompt_tokens(server: Server) -> None:
    response = draw(server, max_tokens=1, include_prompt_logprobs=True, topk_prompt_logprobs=3)
    length = server.prompt().length
    listed = response.topk_prompt_logprobs
    expect(len(listed) == length, f"{len(listed)} lists for {length} tokens")
    expect(not listed[0], "the first token has candidates")
    for place in range(1, length):
        scores = [score for _, score in listed[place]]
        expect(len(scores) == 3, f"{len(scores)} candidates at {place}, expected 3")
        expect(scores == sorted(scores, reverse=True), f"candidates at {place} are not sorted")
        found = response.prompt_logprobs[place]
        expect(found <= scores[0] + server.tolerance, f"token {place} is likelier than the first")


@check("top_k and top_p keep the likeliest tokens", proves="both cut before the draw", points=2)
def honours_its_cuts(server: Server) -> None:
    (greedy,) = tokens_of(draw(server, temperature=0.0, max_tokens=1))
    for options in ({"top_k": 1}, {"top_p": 1e-6}):
        found = tokens_of(draw(server, 8, temperature=2.0, max_tokens=1, **options))
        expect(all(each == greedy for each in found), f"{options} drew {found}, not {greedy}")
    free = tokens_of(draw(server, 8, temperature=3.0, max_tokens=1, seed=2))
    expect(len({each[0] for each in free}) > 1, "a hot sample is always the same token")


@check(
    "Every sequence has an id, known when it is submitted",
    proves="provenance: sample_sequence_ids come with the promise, one a sample",
)
def names_its_sequences(server: Server) -> None:
    sampler = server.wire.create_sampler(base_model=server.base_model)
    status, promise = server.wire.asample(
        sampler, 0, random_tokens(4, seed=1), {"max_tokens": 2}, num_samples=3
    )
    expect(status == 200, f"asample: answered {status}: {str(promise)[:200]}")
    ids = promise.get("sample_sequence_ids") or []
    expect(len(set(ids)) == 3, f"sample_sequence_ids={ids}, expected 3 different ones")
    expect(len(server.wire.samples(promise).sequences) == 3, "not 3 sequences")
