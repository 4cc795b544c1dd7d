"""Tinsmith: fine-tune language models through four primitives.

`forward_backward`, `optim_step`, `sample` and `save_state`, over a service that is embedded on a
laptop and shared on a box. Importing this package loads nothing else: each public name below is
resolved when it is first used.

Example:
    >>> import tinsmith
    >>> tinsmith.AdamParams(learning_rate=1e-4).learning_rate
    0.0001
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinsmith import types
    from tinsmith.client import APIFuture, SamplingClient, ServiceClient, TrainingClient
    from tinsmith.core.errors import TinsmithError
    from tinsmith.types import (
        AdamParams,
        Datum,
        LoraConfig,
        ModelInput,
        SamplingParams,
        TensorData,
    )

__version__ = "0.1.0"

__all__ = [
    "APIFuture",
    "AdamParams",
    "Datum",
    "LoraConfig",
    "ModelInput",
    "SamplingClient",
    "SamplingParams",
    "ServiceClient",
    "TensorData",
    "TinsmithError",
    "TrainingClient",
    "__version__",
    "types",
]

_HOME_OF = {
    "APIFuture": "tinsmith.client",
    "SamplingClient": "tinsmith.client",
    "ServiceClient": "tinsmith.client",
    "TrainingClient": "tinsmith.client",
    "AdamParams": "tinsmith.types",
    "Datum": "tinsmith.types",
    "LoraConfig": "tinsmith.types",
    "ModelInput": "tinsmith.types",
    "SamplingParams": "tinsmith.types",
    "TensorData": "tinsmith.types",
    "TinsmithError": "tinsmith.core.errors",
}


def __getattr__(name: str) -> object:
    """Resolve a public name on first use (PEP 562)."""
    if name == "types":
        return import_module("tinsmith.types")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'tinsmith' has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
