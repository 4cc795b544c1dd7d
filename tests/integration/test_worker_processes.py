"""Sampling clients in worker processes, against the real service."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.integration.service_process import ServiceProcess, make_data
from tests.unit.client.worker import sample, sample_by_handle
from tinsmith.client import ServiceClient
from tinsmith.types import AdamParams

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("tiny_dir")]


def test_workers_sample_what_the_parent_samples(tmp_path: Path) -> None:
    with ServiceProcess(tmp_path) as process:
        url, key = process.ready["url"], process.ready["api_key"]
        with ServiceClient(base_url=url, api_key=key) as service:
            training = service.create_lora_training_client("tinsmith/tiny", rank=8, seed=1)
            client = training.result(120)
            client.forward_backward(make_data(seed=1), "cross_entropy")
            client.optim_step(AdamParams(learning_rate=5e-3))
            sampling = client.save_weights_and_get_sampling_client().result(60)
            prompts = [[5, 6, 7 + i] for i in range(4)]
            expected = [sample(sampling, prompt) for prompt in prompts]
            base = service.create_sampling_client(base_model="tinsmith/tiny").result(60)
            assert expected != [sample(base, prompt) for prompt in prompts]
            handle = sampling.get_sampler_handle()
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(2, mp_context=context) as pool:
                pickled = [pool.submit(sample, sampling, prompt) for prompt in prompts]
                by_handle = [pool.submit(sample_by_handle, handle, key, p) for p in prompts]
                assert [future.result(120) for future in pickled] == expected
                assert [future.result(120) for future in by_handle] == expected
            assert sample(sampling, prompts[0]) == expected[0]  # the session is still there
