"""What a worker process does with a sampling client; imports as little as a user's worker."""

from __future__ import annotations

import pickle
from multiprocessing.connection import Connection


def sample_from_copies(
    state: bytes, handle: str, api_key: str, tokens: list[int], connection: Connection
) -> None:
    """Sends the logprobs and the greedy continuation as a pickled client and a handle see them."""
    import tinker

    copies = (
        pickle.loads(state),
        tinker.SamplingClient.from_sampler_handle(handle, api_key=api_key),
    )
    for client in copies:
        prompt = tinker.ModelInput.from_ints(tokens)
        scored = client.compute_logprobs(prompt).result()
        options = tinker.SamplingParams(max_tokens=8, temperature=0.0, stop=[])
        (sequence,) = client.sample(prompt, 1, options).result().sequences
        connection.send((scored, sequence.tokens))
    connection.close()
