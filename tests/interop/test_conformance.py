"""Our service scores full, and each kind of fault that peers have is found."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.service_process import ServiceProcess
from tests.interop import broken_proxy as faults
from tests.interop.broken_proxy import BrokenProxy, Fault
from tests.interop.conftest import API_KEY
from tinsmith.cli.conformance.command import chosen
from tinsmith.cli.conformance.server import Server
from tinsmith.cli.conformance.sheet import run_checks

pytest.importorskip("tinker", reason="the official client is not installed here")

pytestmark = pytest.mark.integration

FAULTS: list[tuple[Fault, str]] = [
    (Fault(), ""),  # the proxy itself breaks nothing
    (faults.MeansForSums(), "losses.cross_entropy losses.are_sums"),
    (faults.MeansForSummedGradients(), "gradients.are_sums"),
    (faults.ArrivalOrder(), "delivery.out_of_order delivery.of_repeated_training"),
    (faults.NewestWeights(), "snapshots.are_frozen"),
    (faults.LastSettings(), "tenants.step_with_their_own_settings"),
    (faults.ForwardTrains(), "gradients.are_not_made_by_forward"),
    (faults.OtherLoss(), "losses.ppo losses.cispo gradients.ppo gradients.cispo"),
    (faults.Dropped("optim_step", "adam_params", "weight_decay"), "optimizer.decays_weights"),
    (faults.Dropped("optim_step", "adam_params", "grad_clip_norm"), "optimizer.clips_by_the_norm"),
    (faults.Dropped("optim_step", "adam_params", "beta1", 0.0), "optimizer.has_momentum"),
    (faults.Dropped("optim_step", "adam_params", "eps", 1e-8), "gradients.are_sums"),
    (faults.Dropped("asample", "sampling_params", "seed"), "sampling.repeats_with_a_seed"),
    (faults.Dropped("asample", "sampling_params", "stop"), "sampling.stops_at_tokens"),
    (faults.Dropped("asample", "sampling_params", "temperature"), "sampling.is_greedy_when_asked"),
    (faults.Dropped("asample", "", "topk_sample_logprobs"), "options.list_likely_sampled_tokens"),
    (faults.Dropped("asample", "", "target_prompt_logprobs"), "options.score_named_prompt_tokens"),
    (faults.Dropped("asample", "", "prompt_alt_tokens_k"), "options.draw_alternatives_of_a_prompt"),
    (faults.Dropped("save_weights", "", "overwrite", True), "snapshots.are_not_overwritten"),
    (faults.Dropped("load_weights", "", "optimizer", False), "snapshots.resume_training"),
    (faults.ShortPromptLogprobs(), "sampling.scores_prompts"),
    (faults.TemperedLogprobs(), "sampling.returns_true_logprobs"),
    (faults.CrashesOnBadInput(), "errors.refuse_bad_samples errors.refuse_garbage"),
    (faults.BareMetricNames(), "protocol.names_metrics_by_their_reduction"),
]


@pytest.mark.slow
def test_our_service_scores_full_restart_included() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("tinsmith")), "conformance", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    sheet = json.loads(done.stdout)
    wrong = [each for each in sheet["checks"] if each["outcome"] != "passed"]
    assert wrong == []
    assert (done.returncode, sheet["score"]) == (0, sheet["possible"])
    assert len(sheet["checks"]) == len(chosen(()))


@pytest.mark.parametrize(("fault", "found_by"), FAULTS, ids=lambda each: type(each).__name__)
def test_a_broken_server_is_found(service: ServiceProcess, fault: Fault, found_by: str) -> None:
    names = found_by.split() or ["delivery.of_repeated_training", "sampling.scores_prompts"]
    with (
        BrokenProxy(service.ready["url"], fault) as proxy,
        Server(proxy.url, api_key=API_KEY, timeout_s=20.0) as server,
    ):
        sheet = run_checks(server, chosen(names), on_start=lambda _: None)
    outcomes = {line.check.name: line.outcome for line in sheet.lines}
    assert outcomes == dict.fromkeys(names, "failed" if found_by else "passed"), sheet.as_json()
    assert sheet.is_full == (not found_by)


def test_every_check_says_what_it_proves_and_counts() -> None:
    checks = chosen(())
    assert len(checks) > 60
    for check in checks:
        assert re.fullmatch(r"[a-z]+\.[a-z_]+", check.name)
        assert check.title and check.proves and check.points > 0  # noqa: PT018
