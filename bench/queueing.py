"""What the service itself costs, the computing left out: CPU time a request, and at rest.

The service is the real one, over a model so small that its engine answers at once. Charged is the
API process alone (`cpu_times` of all its threads: accept, decode, check, schedule, send to the
engine, take the answer, store, answer the long poll); the engine and the client are processes of
their own. CPU time, unlike wall time, hardly depends on what else the machine does. At rest both
processes of the service are charged. Main name: `queueing_measurements`.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import httpx
import numpy as np
import psutil

from bench.batches import datums, equal_examples
from bench.engines import sampling_params
from bench.measurement import Measurement, Setting
from bench.models import BenchModel, make_null_model
from bench.results import Bound, Row
from bench.service import ServiceProcess
from tinsmith.client import SamplingClient, TrainingClient
from tinsmith.engine.jobs import ForwardBackwardJob
from tinsmith.server.messages import Call, Reply, RunForwardBackward, decode, encode
from tinsmith.types import AdamParams, ForwardBackwardOutput, ModelInput, TensorData
from tinsmith.types.codec import (
    encode_forward_backward_output,
    encode_forward_backward_request,
    read_forward_backward_request,
)

__all__ = ["queueing_measurements"]

SEQUENCES, LENGTH = 32, 128
"""4k tokens, in many datums: each costs more than its tokens do."""
NUM_ADAPTERS, EACH = 8, 25
NUM_POLLS = 50
REST_S = 20.0
SETTLE_S = 3.0


class _Rig:
    """A service over one model, with a model in training."""

    def __init__(self, model: BenchModel, setting: Setting, stack: contextlib.ExitStack) -> None:
        self.model = model
        self.setting = setting
        self.stack = stack

    @cached_property
    def service(self) -> ServiceProcess:
        """Started when it is first needed."""
        service = self.stack.enter_context(ServiceProcess(self.model, self.setting.scratch))
        self.stack.enter_context(contextlib.closing(service.client))
        return service

    @cached_property
    def training(self) -> TrainingClient:
        """An adapter on the service."""
        return self._adapter(0)

    def _adapter(self, seed: int) -> TrainingClient:
        created = self.service.client.create_lora_training_client(
            str(self.model.path), rank=4, seed=seed
        )
        return created.result()

    def forward_backward(self, name: str) -> Row:
        """4k tokens, from request to result."""
        data = datums(equal_examples(SEQUENCES, LENGTH, self.model.vocab_size))

        def send(count: int) -> None:
            sent = [self.training.forward_backward(data, "cross_entropy") for _ in range(count)]
            for future in sent:
                future.result()

        return self._cpu_row(name, send, target_ms=3.0)

    def sample(self, name: str) -> Row:
        """A short prompt, eight tokens."""
        sampling = self.training.save_weights_and_get_sampling_client().result()
        return self._cpu_row(name, lambda count: self._sample([sampling], count), target_ms=2.0)

    def _cpu_row(self, name: str, send: Callable[[int], object], *, target_ms: float) -> Row:
        rounds, count = (1, 10) if self.setting.quick else (5, 100)
        api = psutil.Process(self.service.process.pid)
        send(count)  # warms up
        costs_ms: list[float] = []
        for _ in range(rounds):
            before_s = _cpu_s([api])
            send(count)
            costs_ms.append((_cpu_s([api]) - before_s) / count * 1e3)
        target = Bound("at most", target_ms)
        cost_ms = statistics.median(costs_ms)
        return Row(name=name, model=self.model.name, unit="ms", ours=cost_ms, target=target)

    def _sample(self, clients: Sequence[SamplingClient], each: int) -> list[float]:
        """Seconds until each client has all its results, all having begun at once."""
        prompt = ModelInput.from_ints(list(range(1, 65)))
        start_s = time.perf_counter()

        def wait(client: SamplingClient) -> float:
            sent = [client.sample(prompt, 1, sampling_params(8, seed=i)) for i in range(each)]
            for future in sent:
                future.result()
            return time.perf_counter() - start_s

        with ThreadPoolExecutor(len(clients)) as pool:
            return list(pool.map(wait, clients))

    @cached_property
    def crowd(self) -> list[float]:
        """Seconds that each of many adapters took for its share of many requests at once."""
        num_adapters, each = (2, 2) if self.setting.quick else (NUM_ADAPTERS, EACH)
        clients: list[SamplingClient] = []
        for seed in range(num_adapters):
            saved = self._adapter(seed).save_weights_and_get_sampling_client()
            clients.append(saved.result())
        self._sample(clients, 2)  # warms up
        return self._sample(clients, each)

    def throughput(self, name: str) -> Row:
        """Requests a second of the crowd."""
        rate = (2 * 2 if self.setting.quick else NUM_ADAPTERS * EACH) / max(self.crowd)
        return Row(name=name, model=self.model.name, unit="requests/s", ours=rate)

    def fairness(self, name: str) -> Row:
        """The slowest adapter's time over the fastest one's."""
        ratio = max(self.crowd) / min(self.crowd)
        target = Bound("at most", 1.5)
        return Row(name=name, model=self.model.name, unit="x", ours=ratio, target=target)

    def rest(self, name: str) -> Row:
        """Share of one core while clients wait: a loaded engine, a heartbeat, many long polls."""
        api = psutil.Process(self.service.process.pid)
        processes = [api, *api.children(recursive=True)]
        with contextlib.ExitStack() as stack:
            http = stack.enter_context(
                httpx.Client(
                    base_url=self.service.url,
                    headers={"X-API-Key": self.service.api_key},
                    timeout=120.0,
                    limits=httpx.Limits(max_connections=NUM_POLLS),
                )
            )
            pool = stack.enter_context(ThreadPoolExecutor(NUM_POLLS))
            polls = [
                pool.submit(http.post, "/api/v1/retrieve_future", json={"request_id": request_id})
                for request_id in self._stuck_requests(http)
            ]
            time.sleep(0.5 if self.setting.quick else SETTLE_S)
            rest_s = 1.0 if self.setting.quick else REST_S
            before_s = _cpu_s(processes)
            time.sleep(rest_s)
            share = (_cpu_s(processes) - before_s) / rest_s * 100
            if any(poll.done() for poll in polls):
                raise RuntimeError("a long poll was answered: nothing waited")
            self.service.__exit__()  # lets go of the polls
        return Row(
            name=name,
            model=self.model.name,
            unit="% of a core",
            ours=share,
            target=Bound("at most", 1.0),
        )

    def _stuck_requests(self, http: httpx.Client) -> list[str]:
        """Requests that wait for a sequence number that nobody sends."""
        model_id = self._adapter(99).model_id
        params = AdamParams(learning_rate=0.0).model_dump(mode="json")
        found: list[str] = []
        for seq_id in range(2, 2 + NUM_POLLS):
            body = {"model_id": model_id, "seq_id": seq_id, "adam_params": params}
            answer = http.post("/api/v1/optim_step", json=body).raise_for_status()
            found.append(answer.json()["request_id"])
        return found


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes]
    return sum(one.user + one.system for one in times)


def _pipe(name: str, model: BenchModel, *, quick: bool) -> Row:
    """A 4k-token job into the engine process and its result out: CPU time of both ends."""
    data = datums(equal_examples(SEQUENCES, LENGTH, model.vocab_size))
    body = encode_forward_backward_request("model", 1, data, "cross_entropy")
    request = read_forward_backward_request(body)  # as the API process has it
    job = ForwardBackwardJob("model", request.data, request.loss_fn)
    arrays = {"logprobs": TensorData(np.zeros(LENGTH, np.float32), "float32")}
    output = ForwardBackwardOutput(
        loss_fn_output_type="ArrayRecord", loss_fn_outputs=[arrays] * SEQUENCES, metrics={}
    )
    rounds = 3 if quick else 200
    start_s = time.process_time()
    for _ in range(rounds):
        decode(encode(Call(1, RunForwardBackward([job]))))
        decode(encode(Reply(1, [encode_forward_backward_output(output)])))
    cost_ms = (time.process_time() - start_s) / rounds * 1e3
    return Row(name=name, model="", unit="ms", ours=cost_ms)


def queueing_measurements(setting: Setting) -> Iterator[Measurement]:
    """Every case, over a model that costs next to nothing."""
    model = make_null_model(setting.scratch / "null")
    with contextlib.ExitStack() as stack:
        rig = _Rig(model, setting, stack)
        crowd = f"{NUM_ADAPTERS * EACH} samples at once from {NUM_ADAPTERS} adapters"
        for name, measure in (
            ("CPU of the API process, forward_backward of 4k tokens", rig.forward_backward),
            ("CPU of the API process, sample request", rig.sample),
            (crowd, rig.throughput),
            ("... slowest adapter's time over the fastest's", rig.fairness),
            (f"CPU of service and engine at rest, {NUM_POLLS} long polls", rig.rest),
        ):
            yield Measurement(name, model.name, lambda name=name, measure=measure: measure(name))
    name = "CPU of the pipe to the engine and back, 4k tokens"
    yield Measurement(name, "", lambda: _pipe(name, model, quick=setting.quick))
