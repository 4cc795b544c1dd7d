"""What the tests of pickled sampling clients run in other processes."""

from __future__ import annotations

import random

from tinsmith.client import SamplingClient
from tinsmith.types import ModelInput, SamplingParams


def sample(client: SamplingClient, tokens: list[int]) -> list[int]:
    random.seed(0)  # as workers do
    params = SamplingParams(max_tokens=4, temperature=0.0)
    response = client.sample(ModelInput.from_ints(tokens), 1, params).result(60)
    return response.sequences[0].tokens


def sample_by_handle(handle: str, api_key: str, tokens: list[int]) -> list[int]:
    return sample(SamplingClient.from_sampler_handle(handle, api_key=api_key), tokens)
