"""Cut connections, slow readers and crowds: nothing is lost, nothing is done twice, all go on."""

from __future__ import annotations

import collections
import socket
from concurrent.futures import as_completed
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.integration.service_process import BASE_MODEL, ServiceProcess, WireClient, make_data
from tests.interop.broken_proxy import BrokenProxy, CutsAnswers
from tests.interop.conftest import Connect, Warm
from tests.interop.official_data import outputs_of, random_data

tinker = pytest.importorskip("tinker", reason="the official client is not installed here")
if TYPE_CHECKING:
    import tinker

pytestmark = pytest.mark.integration

NUM_ADAPTERS, NUM_PROMPTS = 8, 25


def test_every_tenth_answer_cut_off_changes_nothing(
    service: ServiceProcess, connect: Connect, warm: Warm
) -> None:
    data = random_data(6, seed=60)

    def work(client: tinker.ServiceClient) -> tuple[list[float], np.ndarray, list[list[int]]]:
        trainer = client.create_training_client_from_state(warm.state_path).result()
        losses = []
        for step in range(3):
            parts = [trainer.forward_backward(data[i : i + 2], "cross_entropy") for i in (0, 2, 4)]
            trainer.optim_step(tinker.AdamParams(learning_rate=1e-3 * (step + 1))).result()
            losses += [part.result().metrics["loss:sum"] for part in parts]
        sampler = trainer.save_weights_and_get_sampling_client().result()
        prompt = tinker.ModelInput.from_ints([5, 6, 7])
        drawn = [
            sampler.sample(prompt, 1, tinker.SamplingParams(max_tokens=5, seed=n, stop=[]))
            for n in range(6)
        ]
        tokens = [list(each.result().sequences[0].tokens) for each in drawn]
        found = outputs_of(trainer.forward(data, "cross_entropy").result())
        return losses, np.concatenate(found), tokens

    cutter = CutsAnswers(every=10)
    with BrokenProxy(service.ready["url"], cutter) as proxy:
        cut = work(connect(base_url=proxy.url))
    whole = work(connect())
    assert cutter.num_cut >= 3
    np.testing.assert_allclose(cut[0], whole[0], atol=1e-3)
    np.testing.assert_allclose(cut[1], whole[1], atol=3e-4)
    assert cut[2] == whole[2]


def test_a_crowd_of_samplers_from_eight_adapters_is_served_whole_and_fairly(warm: Warm) -> None:
    data = random_data(2, seed=61)
    samplers = []
    for number in range(NUM_ADAPTERS):
        trainer = warm.fork()
        trainer.forward_backward(data, "cross_entropy").result()
        trainer.optim_step(tinker.AdamParams(learning_rate=1e-3 * (number + 1))).result()
        samplers.append(trainer.save_weights_and_get_sampling_client().result())
    params = tinker.SamplingParams(max_tokens=12, temperature=0.0, stop=[])
    prompts = [tinker.ModelInput.from_ints([50, 60 + n]) for n in range(NUM_PROMPTS)]
    # The worst order for the last ones: all of the first adapter's requests, then the next one's.
    futures = {
        sampler.sample(prompt, 1, params): (owner, place)
        for owner, sampler in enumerate(samplers)
        for place, prompt in enumerate(prompts)
    }
    answers: dict[tuple[int, int], list[int]] = {}
    halfway: collections.Counter[int] = collections.Counter()
    for future in as_completed(futures, timeout=120):  # type: ignore[type-var]
        (sequence,) = future.result().sequences
        answers[futures[future]] = list(sequence.tokens)
        if len(answers) == len(futures) // 2:
            halfway = collections.Counter(owner for owner, _ in answers)
    assert len(answers) == NUM_ADAPTERS * NUM_PROMPTS
    # Nothing was mixed up: each adapter alone says the same of a prompt of its own.
    for owner in (0, NUM_ADAPTERS - 1):
        alone = samplers[owner].sample(prompts[owner], 1, params).result().sequences[0].tokens
        assert answers[owner, owner] == list(alone)
    assert set(halfway) == set(range(NUM_ADAPTERS)), halfway


def test_one_who_reads_slowly_holds_up_nobody(service: ServiceProcess) -> None:
    client = WireClient(service.ready)
    model = client.create_model()
    promise = model.forward_backward(make_data(64, 16))
    address = urlsplit(service.ready["url"])
    body = b'{"request_id": "%s"}' % promise["request_id"].encode()
    head = (
        f"POST /api/v1/retrieve_future HTTP/1.1\r\nHost: x\r\nX-API-Key: {service.ready['api_key']}"
        f"\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    sockets = []
    for content in (head.encode() + body, head.encode(), head.encode()[:30]):
        slow = socket.create_connection((str(address.hostname), int(address.port or 0)))
        slow.sendall(content)  # asked and not read; promised and not sent; begun
        sockets.append(slow)
    loss = client.output(promise["request_id"]).loss
    assert model.loss(make_data(64, 16)) == pytest.approx(loss, rel=1e-5)
    sampler = client.create_sampler(0, base_model=BASE_MODEL)
    assert client.samples(client.asample(sampler, [5, 6], seq_id=0)["request_id"]).sequences
    answer = sockets[0].recv(65536)
    assert answer.startswith(b"HTTP/1.1 200")
    for slow in sockets:
        slow.close()
    client.http.close()
