"""The weights that a run began with, as a fixed reference for what it trains.

They are saved for sampling before the first step, and their address goes into every checkpoint, so
that a resumed run has the same reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinsmith.training.job import Opening
from tinsmith.training.sampling_evaluators import whole_text
from tinsmith.types import Datum, TensorData

if TYPE_CHECKING:
    from tinsmith.client import SamplingClient

STATE = "reference"
"""Name of the reference's address in a checkpoint's record."""
REFERENCE_LOGPROBS = "reference_logprobs"
"""Loss input with the reference's logprob of every target."""


class Reference:
    """A model that does not change.

    Attributes:
        sampler: Its weights.
        path: Their address.
    """

    def __init__(self, sampler: SamplingClient, path: str) -> None:
        self.sampler = sampler
        self.path = path

    @classmethod
    async def open(cls, opening: Opening) -> Reference:
        """The initial weights of a run: the model's of now, or those that a checkpoint names."""
        service, client, record = opening
        if record is None:
            path = (await client.save_weights_for_sampler(STATE)).path
            assert path is not None  # a checkpoint with a name has an address
        else:
            path = str(record.state[STATE]["sampler_path"])
        return cls(await service.create_sampling_client(model_path=path), path)

    def state_dict(self) -> Mapping[str, Any]:
        return {"sampler_path": self.path}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing is left to do: the reference was opened by this address."""
        assert state["sampler_path"] == self.path

    async def add_logprobs(self, datums: Sequence[Datum]) -> list[Datum]:
        """The datums with `reference_logprobs`, all asked for at once."""
        asked = [self.sampler.compute_logprobs(whole_text(datum)) for datum in datums]
        found = [np.array((await future)[1:], dtype=np.float32) for future in asked]
        return [
            Datum(
                model_input=datum.model_input,
                loss_fn_inputs={
                    **datum.loss_fn_inputs,
                    REFERENCE_LOGPROBS: TensorData.from_numpy(logprobs),
                },
            )
            for datum, logprobs in zip(datums, found, strict=True)
        ]
