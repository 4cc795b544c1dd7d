"""Terms of whole distributions over the kept graph: explicit autograd through the same model."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.integration.service_process import ServiceProcess, make_data
from tests.integration.test_retained import paths_of, without_graphs
from tinsmith.client import ServiceClient, TrainingClient
from tinsmith.client.errors import UnsupportedError
from tinsmith.regularizers import KL, Entropy, JensenShannon, PolicyReference, Regularizer
from tinsmith.telemetry import read_metrics
from tinsmith.training import SupervisedConfig, run_supervised
from tinsmith.training.share_chart import share_panels
from tinsmith.types import AdamParams, Datum, TensorData

pytestmark = [pytest.mark.integration]

VOCABULARY = 2048  # of the bundled model
TOP = 12


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path_factory.mktemp("service")) as process:
        yield process


@pytest.fixture
def service(running: ServiceProcess) -> Iterator[ServiceClient]:
    ready = running.ready
    with ServiceClient(base_url=ready["url"], api_key=ready["api_key"]) as service:
        yield service


def make_client(service: ServiceClient) -> TrainingClient:
    """Adapters of one seed are equal; one step has been taken, so that A has a gradient."""
    client = service.create_lora_training_client("tinsmith/tiny", rank=8, seed=5).result(120)
    client.forward_backward(make_data(3, seed=9), "cross_entropy")
    client.optim_step(AdamParams(learning_rate=1e-2)).result(60)
    return client


class Twin:
    """The client's model in float64, by transformers and PEFT."""

    def __init__(self, client: TrainingClient, running: ServiceProcess, model_dir: Path) -> None:
        path = client.save_weights_for_sampler("twin").result(60).path
        assert path is not None
        parts = [quote(part, safe="") for part in path.removeprefix("tinker://").split("/")]
        base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64)
        adapter = running.state_dir.joinpath("checkpoints", *parts)
        self.model = PeftModel.from_pretrained(base, adapter, is_trainable=True).eval()
        self.model.to(torch.float64)
        self.parameters = [p for n, p in self.model.named_parameters() if ".lora_" in n]

    def logprobs(self, data: Sequence[Datum]) -> list[torch.Tensor]:
        """(N, V) of each datum."""
        return [
            self.model(input_ids=torch.tensor([datum.model_input.to_ints()]), use_cache=False)
            .logits[0]
            .log_softmax(-1)
            for datum in data
        ]

    def norm(self, loss: torch.Tensor) -> float:
        grads = torch.autograd.grad(loss, self.parameters, retain_graph=True)
        return float(torch.sqrt(sum(grad.square().sum() for grad in grads)))  # type: ignore[arg-type]


def references(data: Sequence[Datum]) -> list[np.ndarray]:
    """Some other distribution at every position."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(datum.model_input.length, VOCABULARY) for datum in data]
    return [torch.randn(s, generator=generator).log_softmax(-1).numpy() for s in shapes]


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p.exp() * (p - q)).sum(-1)


def mean_nll(data: Any, logprobs: list[torch.Tensor]) -> Any:
    return -torch.cat(logprobs).mean(), {}


@pytest.mark.parametrize("width", ["full", TOP])
def test_values_and_gradients_are_those_of_explicit_autograd(
    service: ServiceClient, running: ServiceProcess, tiny_dir: Path, width: Any
) -> None:
    """Of each term, of the base loss and of the total, by the adapter's parameters.

    The service computes in float32 and gradients travel as float32: 1e-4 of the norm.
    """
    client = make_client(service)
    data = make_data(2, seed=2)
    others = references(data)
    for datum, other in zip(data, others, strict=True):
        datum.loss_fn_inputs["other"] = TensorData.from_numpy(other)
    terms = [
        Regularizer(Entropy(), 0.7, distribution=width),
        Regularizer(KL("other"), 0.3, distribution=width),
        Regularizer(JensenShannon("other", reduction="sum"), 0.2, distribution=width),
    ]
    output = client.forward_backward_custom(
        data, mean_nll, regularizers=terms, track_grad_norms="parameters"
    ).result(120)
    step = client.optim_step(AdamParams(learning_rate=0.0)).result(60)

    twin = Twin(client, running, tiny_dir)
    whole = twin.logprobs(data)
    chosen = [
        lp.gather(1, d.loss_fn_inputs["target_tokens"].to_torch()[:, None])[:, 0]
        for lp, d in zip(whole, data, strict=True)
    ]
    p = torch.cat(whole)
    q = torch.cat([torch.from_numpy(other).double() for other in others])
    if width != "full":
        p, tokens = p.topk(width, dim=-1)
        q = q.gather(1, tokens)
    m = ((p.exp() + q.exp()) / 2).log()
    expected = {
        "entropy": (p.exp() * p).sum(-1).mean(),
        "kl": kl(p, q).mean(),
        "jensen_shannon": 0.5 * (kl(p, m) + kl(q, m)).sum(),
    }
    base = -torch.cat(chosen).mean()
    total = base
    for term in terms:
        loss, told = expected[term.name], output.regularizers[term.name]
        assert told.value == pytest.approx(float(loss.detach()), rel=1e-4, abs=1e-5), term.name
        assert told.grad_norm == pytest.approx(twin.norm(loss), rel=1e-4), term.name
        total = total + term.weight * loss
    assert output.base_loss is not None
    assert output.base_loss.grad_norm == pytest.approx(twin.norm(base), rel=1e-4)
    assert output.loss_total == pytest.approx(float(total.detach()), rel=1e-4)
    assert output.total_grad_norm == pytest.approx(twin.norm(total), rel=1e-4)
    assert (step.metrics or {})["grad_norm"] == pytest.approx(twin.norm(total), rel=1e-4)
    for found, lp in zip(output.loss_fn_outputs, chosen, strict=True):
        np.testing.assert_allclose(found["logprobs"].to_numpy(), lp.detach(), atol=1e-4)


def test_a_reference_model_tells_distributions(service: ServiceClient) -> None:
    """The untouched base model, asked for the vocabulary, and for the likeliest tokens only."""
    client = make_client(service)
    base = service.create_lora_training_client("tinsmith/tiny", rank=1).result(60)
    data = make_data(2, seed=4)
    values = {}
    for width in ("full", VOCABULARY):
        term = Regularizer(KL(PolicyReference(base)), 1.0, distribution=width)
        values[width] = client.forward_backward_custom(data, regularizers=[term]).result(120)
    (full, top) = (output.regularizers["kl"].value for output in values.values())
    assert full > 1e-3
    assert top == pytest.approx(full, rel=1e-5)
    same = Regularizer(KL(PolicyReference(client)), 1.0, distribution=TOP)
    with pytest.raises(Exception, match="called by the loss_fn that this client waits for"):
        client.forward_backward_custom(data, regularizers=[same]).result(60)


def test_an_entropy_bonus_on_distributions_raises_entropy_of_a_conversation(
    service: ServiceClient,
) -> None:
    client = make_client(service)
    data = make_data(2, seed=6)
    term = Regularizer(Entropy(), 1.0, distribution="full")
    outputs = []
    for _ in range(4):
        outputs.append(client.forward_backward_custom(data, regularizers=[term]))
        client.optim_step(AdamParams(learning_rate=3e-3))
    entropies = [o.result(120).regularizers["entropy"].custom["entropy"] for o in outputs]
    assert entropies == sorted(entropies)
    assert entropies[-1] > entropies[0] + 0.02


def test_a_batch_in_several_requests_is_one_batch(service: ServiceClient) -> None:
    """The service tells 2^23 logprobs a request, so the client cuts by vocabulary and positions."""
    data = [datum for seed in range(2) for datum in make_data(2, seed=seed)]
    assert {datum.model_input.length for datum in data} == {16}
    term = Regularizer(Entropy(reduction="sum"), 1.0, distribution="full")
    norms, counts = [], []
    sent = paths_of(make_client(service))  # and of every client of the service
    for vocab_size in (VOCABULARY, None, 2**19):
        client = make_client(service)
        assert client._lane._vocab_size == VOCABULARY  # as get_info tells it
        client._lane._vocab_size = vocab_size
        sent.clear()
        client.forward_backward_custom(data, regularizers=[term]).result(120)
        counts.append(sent.count("ext/retained_forward"))
        metrics = client.optim_step(AdamParams(learning_rate=0.0)).result(60).metrics or {}
        norms.append(metrics["grad_norm"])
    assert counts == [1, 2, 4]  # a vocabulary that is not told is taken for 2^18
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-5)


def test_a_norm_whose_gradient_is_too_wide_for_a_request_is_none(
    service: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain loss's gradient is narrow and keeps its norm; the step's gradient is the same."""
    terms = [Regularizer(Entropy(), 1.0, distribution="full")]
    outputs, norms = [], []
    data = make_data(2)
    width = sum(datum.model_input.length for datum in data) * VOCABULARY * 8
    for limit in (2 * width, width // 2):
        monkeypatch.setattr("tinsmith.client.model_lane.MAX_NORM_BYTES", limit)
        client = make_client(service)
        call = client.forward_backward_custom(
            data, mean_nll, regularizers=terms, track_grad_norms="parameters"
        )
        outputs.append(call.result(60))
        metrics = client.optim_step(AdamParams(learning_rate=0.0)).result(60).metrics or {}
        norms.append(metrics["grad_norm"])
    told, untold = outputs
    assert told.total_grad_norm == pytest.approx(norms[0], rel=1e-5)
    assert told.regularizers["entropy"].grad_norm is not None
    assert untold.total_grad_norm is None
    assert untold.regularizers["entropy"].grad_norm is None
    assert told.base_loss is not None
    assert untold.base_loss is not None
    assert untold.base_loss.grad_norm == pytest.approx(told.base_loss.grad_norm, rel=1e-5)
    assert norms[0] == norms[1]


def test_where_the_service_tells_none_nothing_stands_in_for_them(service: ServiceClient) -> None:
    client = without_graphs(make_client(service))
    terms = [Regularizer(Entropy(), 1.0, distribution="full"), Regularizer(KL(), 1.0)]
    sent = paths_of(client)
    with pytest.raises(UnsupportedError, match=r"\['entropy'\]: need distribution='full', and"):
        client.forward_backward_custom(make_data(1), regularizers=terms).result(60)
    assert not [path for path in sent if "forward" in path]


def test_without_room_for_graphs_the_gradient_goes_the_two_pass_way(tmp_path: Path) -> None:
    norms = []
    for options in ((), ("--max-graph-bytes", "0")):
        directory = tmp_path / str(len(options))
        directory.mkdir()
        with (
            ServiceProcess(directory, *options) as process,
            ServiceClient(
                base_url=process.ready["url"], api_key=process.ready["api_key"]
            ) as service,
        ):
            client = make_client(service)
            term = Regularizer(Entropy(), 1.0, distribution=TOP)
            client.forward_backward_custom(make_data(2), regularizers=[term]).result(60)
            metrics = client.optim_step(AdamParams(learning_rate=0.0)).result(60).metrics or {}
            norms.append(metrics["grad_norm"])
    assert norms[0] > 0
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def rows_of_a_run(
    service: ServiceClient, directory: Path, **weights: float
) -> list[dict[str, float]]:
    """Of a supervised run with an entropy bonus and a KL to the base model; weight 0 measures."""
    directory.mkdir()
    data = directory / "data.jsonl"
    line = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
    data.write_text((json.dumps(line) + "\n") * 4)
    config = SupervisedConfig.model_validate(
        {
            "data": str(data),
            "run_dir": directory / "run",
            "model": "tinsmith/tiny",
            "num_steps": 4,
            "batch_size": 2,
            "learning_rate": 1e-2,
            "regularizers": [
                {"kind": "entropy", "weight": weights["entropy"], "distribution": "full"},
                {"kind": "kl", "weight": weights["kl"], "distribution": 16},
            ],
            "progress": False,
        }
    )
    run_supervised(config, service=service)
    rows = read_metrics(directory / "run" / "metrics.jsonl")
    return [row for row in rows if "train/nll" in row]


def test_a_run_with_an_entropy_bonus_is_less_sure_one_with_kl_stays_near_and_the_page_shows_both(
    service: ServiceClient, tmp_path: Path
) -> None:
    """Against a run that only measures."""
    free = rows_of_a_run(service, tmp_path / "free", entropy=0.0, kl=0.0)
    unsure = rows_of_a_run(service, tmp_path / "unsure", entropy=5.0, kl=0.0)
    near = rows_of_a_run(service, tmp_path / "near", entropy=0.0, kl=5.0)
    entropies = [row["reg/entropy/entropy"] for row in unsure]
    assert entropies[-1] > entropies[0] + 0.1
    assert entropies[-1] > free[-1]["reg/entropy/entropy"] + 0.1
    assert entropies[-1] < np.log(VOCABULARY)
    divergences = [row["reg/kl/value"] for row in near]
    assert divergences[0] == pytest.approx(0.0, abs=1e-6)  # the base model is where it starts
    assert 0 < divergences[-1] < free[-1]["reg/kl/value"] / 4
    for name, rows in (("unsure", unsure), ("near", near)):
        panels = {panel.title: panel.lines for panel in share_panels(rows)}
        for term, metric in (("entropy", "entropy"), ("kl", "value")):
            recorded = [(int(row["step"]), row[f"reg/{term}/{metric}"]) for row in rows]
            assert panels[f"{term}/{metric}"] == {term: recorded}
        page = (tmp_path / name / "run" / "shares.html").read_text()
        assert "<h2>entropy/entropy</h2>" in page
        assert "<h2>kl/value</h2>" in page
