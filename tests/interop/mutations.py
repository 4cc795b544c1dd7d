"""Seeded damage to valid requests: bytes, protobuf fields, JSON values."""

from __future__ import annotations

import copy
import json
import random
import struct
from typing import Any

from tinsmith.types.proto import tinsmith_pb2

INTEGERS = [0, 1, -1, 2, 7, 2**15, 2**31 - 1, 2**31, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63)]
NUMBERS = [0.0, -1.0, 1e-45, 1e308, -1e308, float("nan"), float("inf"), float("-inf")]
TEXTS = ["", "x", "\0", "../..", "a/b", "é" * 90, "x" * 5000, "tinker://", "tinker://a/b/c"]
LOSSES = ["cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo", "custom", "none"]
KEYS = ["target_tokens", "weights", "advantages", "logprobs", "sequence_ratio_mask", "", "mask"]
JSON_VALUES: list[Any] = [
    None,
    True,
    False,
    *INTEGERS,
    2**64,
    10**40,
    *NUMBERS,
    *TEXTS,
    "\ud800",
    [],
    [[]],
    [None],
    [2**70],
    ["x", 1],
    {},
    {"type": "x"},
    {"": None},
    [[[[[[[[]]]]]]]],
]


def mutated_bytes(rng: random.Random, body: bytes) -> bytes:
    """One to four changes of bytes: flipped, dropped, doubled, filled, cut."""
    changed = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        if not changed:
            break
        where = rng.randrange(len(changed))
        size = rng.choice([1, 1, 2, 4, 8, 30])
        kind = rng.randrange(6)
        if kind == 0:
            changed[where] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[where] = rng.randrange(256)
        elif kind == 2:
            del changed[where : where + size]
        elif kind == 3:
            changed[where:where] = changed[where : where + size]
        elif kind == 4:
            changed[where : where + size] = rng.choice([b"\xff", b"\0", b"\x80"]) * size
        else:
            del changed[where:]
    return bytes(changed)


def mutated_message(rng: random.Random, body: bytes) -> bytes:
    """One to three changes of a training request's fields, each of which decodes."""
    message = tinsmith_pb2.ForwardBackwardRequest.FromString(body)
    for _ in range(rng.randint(1, 3)):
        if not message.data:
            break
        datum = rng.choice(message.data)
        kind = rng.randrange(9)
        if kind == 0:
            message.loss_fn = rng.choice(LOSSES)
        elif kind == 1:
            key = rng.choice(["beta", "clip_low_threshold", "clip_high_threshold", "", "x"])
            message.loss_fn_config[key] = rng.choice(NUMBERS)
        elif kind == 2:
            message.loss_fn_config_v2[rng.choice(["beta", "loss_id"])].text = rng.choice(TEXTS)
        elif kind == 3 and datum.model_input:
            chunk = rng.choice(datum.model_input)
            chunk.encoded_text.tokens = _array(rng, "<i", chunk.encoded_text.tokens)
        elif kind == 4:
            chunk = datum.model_input.add()
            chunk.image.data = b"x"
            chunk.image.format = rng.choice(["png", "", "bmp"])
        elif kind == 5:
            datum.loss_fn_inputs[rng.choice(KEYS)].CopyFrom(_some_tensor(rng, datum))
        elif kind == 6:
            message.data.add().CopyFrom(datum)
        elif kind == 7:
            span = datum.model_input_spans.add().prompt_tokens
            span.sequence_id = rng.choice(TEXTS[:3])
            span.length = rng.choice(INTEGERS)
        else:
            _damage_tensor(rng, _some_tensor(rng, datum, is_copy=False))
    return message.SerializeToString()


def _some_tensor(rng: random.Random, datum: Any, *, is_copy: bool = True) -> Any:
    names = sorted(datum.loss_fn_inputs)
    if not names:
        return tinsmith_pb2.Tensor()
    tensor = datum.loss_fn_inputs[rng.choice(names)]
    return copy.deepcopy(tensor) if is_copy else tensor


def _damage_tensor(rng: random.Random, tensor: Any) -> None:
    kind = rng.randrange(5)
    if kind == 0:
        tensor.dtype = rng.randrange(5)
    elif kind == 1:
        sizes = [rng.choice(INTEGERS) for _ in range(rng.randrange(4))]
        del tensor.shape[:]
        tensor.shape.extend(sizes)
    elif kind == 2:
        tensor.dense = _array(rng, "<q" if tensor.dtype == 2 else "<f", tensor.dense)
    elif kind == 3:
        tensor.dense = tensor.dense[: rng.randrange(len(tensor.dense) + 1)]
    else:
        tensor.sparse_csr.values = b"\0\0\x80?" * 2
        tensor.sparse_csr.crow_indices = _array(rng, "<q", struct.pack("<3q", 0, 1, 2))
        tensor.sparse_csr.col_indices = _array(rng, "<q", struct.pack("<2q", 0, 1))


def _array(rng: random.Random, form: str, raw: bytes) -> bytes:
    """The array with one element replaced by an extreme one."""
    size = struct.calcsize(form)
    values = [*struct.unpack(f"<{len(raw) // size}{form[1]}", raw[: len(raw) // size * size])]
    if not values:
        return raw + b"\0" * rng.randrange(9)
    if form == "<f":
        extreme: float = rng.choice([0.0, -3e38, 3e38, 1e-45, float("nan"), float("inf")])
    else:
        low, high = -(2 ** (8 * size - 1)), 2 ** (8 * size - 1) - 1
        extreme = rng.choice([number for number in INTEGERS if low <= number <= high])
    values[rng.randrange(len(values))] = extreme
    return struct.pack(f"<{len(values)}{form[1]}", *values)


def mutated_json(rng: random.Random, body: Any) -> bytes:
    """One or two values replaced, dropped, renamed or added; sometimes the text itself damaged."""
    changed = copy.deepcopy(body)
    for _ in range(rng.randint(1, 2)):
        places = [place for place in _places(changed) if place[0]]
        container, key = rng.choice(places)
        kind = rng.randrange(10)
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[rng.choice(["unknown", "", "type"])] = rng.choice(JSON_VALUES)
        else:
            container[key] = copy.deepcopy(rng.choice(JSON_VALUES))
        if not isinstance(changed, dict) or not changed:
            break
    text = json.dumps(changed).encode()
    return mutated_bytes(rng, text) if rng.random() < 0.15 else text


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        keys: list[Any] = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))[:4]
    else:
        return found
    for key in keys:
        found.append((value, key))
        found += _places(value[key])
    return found
