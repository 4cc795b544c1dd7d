"""Terms that another process can import."""

import os
from typing import Any


def pid() -> int:
    return os.getpid()


def squares(data: Any, logprobs: Any) -> Any:
    total = sum(x.square().sum() for x in logprobs)
    return total, {"pid": os.getpid(), "num_datums": len(data)}


async def coroutine(data: Any, logprobs: Any) -> Any:
    return squares(data, logprobs)


def constant(data: Any, logprobs: Any) -> Any:
    return 3.0, {}


def fails(data: Any, logprobs: Any) -> Any:
    raise KeyError("label")


def no_pair(data: Any, logprobs: Any) -> Any:
    return logprobs[0].sum()


def dies(data: Any, logprobs: Any) -> Any:
    os._exit(3)


def spins(data: Any, logprobs: Any) -> Any:
    while True:  # pure Python, which no thread could end
        pass
