"""Terms of whole distributions: what they see, values and gradients by closed forms, refusals."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tests.unit.regularizers.in_module as in_module
from tests.unit.regularizers.support import data_for, finite_differences, gradient, leaves
from tinsmith.core.errors import DataError
from tinsmith.regularizers import (
    KL,
    L1,
    ComposedLoss,
    Entropy,
    JensenShannon,
    Regularizer,
    RegularizerError,
)
from tinsmith.regularizers.distributions import CHOSEN_TOKENS, Distributions, widest

VOCABULARY = 5
LENGTHS = (3, 2)


def distributions_of(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(length, VOCABULARY, generator=generator, dtype=torch.float64).log_softmax(-1)
        for length in LENGTHS
    ]


def whole() -> Distributions:
    return Distributions([x.requires_grad_(True) for x in distributions_of(1)])


def top(width: int) -> Distributions:
    """As a service tells them."""
    found = [x.topk(width, dim=1) for x in distributions_of(1)]
    return Distributions([x.values.requires_grad_(True) for x in found], [x.indices for x in found])


def chosen() -> list[torch.Tensor]:
    return leaves([-0.5, -1.0, -1.5], [-2.0, -0.1])


def total_of(terms: list[Regularizer], given: Distributions, **inputs: Any) -> Any:
    """The composed loss with a base, its output and the leaves."""
    logprobs = chosen()
    loss = ComposedLoss(lambda d, x: (-torch.cat(x).mean(), {}), terms, track_grad_norms=True)
    total, _ = loss(data_for(logprobs, **inputs), logprobs, given)
    return total, loss.output, [*logprobs, *given.logprobs]


def test_the_widest_that_terms_ask_for_is_asked_of_the_service() -> None:
    def fn(data: Any, logprobs: Any) -> Any: ...

    def of(*widths: Any) -> list[Regularizer]:
        return [Regularizer(fn, 1.0, f"t{i}", distribution=w) for i, w in enumerate(widths)]

    assert widest(of(None, None)) is None
    assert widest(of(3, None, 20)) == 20
    assert widest(of(3, "full", 20)) == "full"
    off = Regularizer(fn, 1.0, "off", enabled=False, distribution="full")
    loss = ComposedLoss(None, [*of(3, None), off])
    assert (loss.distribution, loss.distribution_terms) == (3, ["t0"])


def test_an_object_may_say_what_it_needs() -> None:
    class Wide:
        name = "wide"
        distribution = 7

        def compute(self, data: Any, logprobs: Any) -> Any: ...

    assert Regularizer(Wide(), 1.0).distribution == 7
    assert Regularizer(Wide(), 1.0, distribution="full").distribution == "full"


@pytest.mark.parametrize("given", [whole(), top(4)], ids=["full", "top-4"])
def test_the_likeliest_tokens_are_taken_of_what_came(given: Distributions) -> None:
    narrow = given.narrowed(2)
    for index, expected in enumerate(distributions_of(1)):
        best = expected.topk(2, dim=1)
        assert torch.equal(narrow.logprobs[index], best.values)
        assert torch.equal(narrow.columns(index), best.indices)
    assert given.narrowed("full") is given


def test_a_term_sees_the_distributions_tokens_as_targets() -> None:
    data = data_for(chosen(), mask=[[1, 0, 1], [1, 1]])
    (first, second) = whole().seen_in(data)
    assert second.loss_fn_inputs["target_tokens"].tolist() == [[0, 1, 2, 3, 4]] * 2
    assert first.loss_fn_inputs[CHOSEN_TOKENS].tolist() == [0, 1, 2]
    assert first.loss_fn_inputs["mask"].tolist() == [1, 0, 1]
    assert "chosen_tokens" not in data[0].loss_fn_inputs
    tokens = top(2).seen_in(data)[0].loss_fn_inputs["target_tokens"]
    assert tokens.tolist() == distributions_of(1)[0].topk(2, dim=1).indices.tolist()


@pytest.mark.parametrize("width", ["full", 2])
@pytest.mark.parametrize("given", [whole, lambda: top(4)], ids=["full", "top-4"])
def test_values_and_gradients_are_the_closed_forms(given: Any, width: Any) -> None:
    """dH/dl = -p (l + 1); dKL/dl = p (l - q + 1), over the tokens that are seen."""
    told = given()
    if width == "full" and told.tokens is not None:
        width = 4  # then all that were told
    references = distributions_of(2)
    terms = [
        Regularizer(Entropy(reduction="sum"), 0.5, distribution=width),
        Regularizer(KL("other", reduction="sum"), 2.0, distribution=width),
    ]
    total, output, seen = total_of(terms, told, other=references)
    entropy = kl = 0.0
    gradients = [np.full(length, -1 / sum(LENGTHS)) for length in LENGTHS]
    for index, lp in enumerate(distributions_of(1)):
        count = VOCABULARY if width == "full" else width
        best = lp.topk(count, dim=1).indices
        rounded = references[index].float().double()  # as a loss input travels
        log_p, log_q = (x.gather(1, best).numpy() for x in (lp, rounded))
        p = np.exp(log_p)
        entropy -= float((p * log_p).sum())
        kl += float((p * (log_p - log_q)).sum())
        slopes = np.zeros(told.logprobs[index].shape)
        places = [told.columns(index)[row].tolist() for row in range(len(best))]
        for row in range(len(best)):
            for column, token in enumerate(best[row].tolist()):
                value = 0.5 * p[row, column] * (log_p[row, column] + 1)
                value += 2.0 * p[row, column] * (log_p[row, column] - log_q[row, column] + 1)
                slopes[row, places[row].index(token)] = value
        gradients.append(slopes.ravel())
    assert output.regularizers["entropy"].value == pytest.approx(-entropy)
    assert output.regularizers["kl"].value == pytest.approx(kl, rel=1e-6)  # fields are float32
    found = gradient(total, seen)
    np.testing.assert_allclose(found, np.concatenate(gradients), rtol=1e-6, atol=1e-7)
    assert output.total_grad_norm == pytest.approx(np.linalg.norm(found))


@pytest.mark.parametrize("term", [Entropy(temperature=2.0), KL("other"), JensenShannon("other")])
@pytest.mark.parametrize("width", ["full", 3])
def test_gradients_are_those_of_finite_differences(term: Any, width: Any) -> None:
    references = distributions_of(2)
    given = whole()
    terms = [Regularizer(term, 1.5, distribution=width)]
    total, _, seen = total_of(terms, given, other=references)

    def value(moved: list[torch.Tensor]) -> torch.Tensor:
        loss = ComposedLoss(None, terms)
        loss(data_for(moved[:2], other=references), moved[:2], Distributions(moved[2:]))
        base = -torch.cat(moved[:2]).mean()
        return base.detach() + loss.output.loss_total

    np.testing.assert_allclose(
        gradient(total, seen), finite_differences(value, seen), rtol=1e-5, atol=1e-8
    )


def test_terms_of_several_widths_and_of_chosen_tokens_mix() -> None:
    seen: dict[str, Any] = {}

    def look(name: str) -> Callable[..., Any]:
        def fn(data: Any, logprobs: list[torch.Tensor]) -> Any:
            seen[name] = [tuple(x.shape) for x in logprobs]
            return torch.cat([x.flatten() for x in logprobs]).sum(), {}

        return fn

    terms = [
        Regularizer(look("all"), 1.0, "all", distribution="full"),
        Regularizer(look("two"), 10.0, "two", distribution=2),
        Regularizer(look("own"), 100.0, "own"),
    ]
    total, output, leaves_ = total_of(terms, whole())
    assert seen == {"all": [(3, 5), (2, 5)], "two": [(3, 2), (2, 2)], "own": [(3,), (2,)]}
    slopes = gradient(total, leaves_)
    np.testing.assert_allclose(slopes[:5], 100 - 0.2)
    assert sorted(set(slopes[5:].round(9))) == [1.0, 11.0]
    assert (slopes[5:] == 11.0).sum() == 2 * sum(LENGTHS)
    assert output.regularizers["own"].grad_norm == pytest.approx(np.sqrt(5))


def test_processes_and_single_datums_see_them_too() -> None:
    terms = [
        Regularizer(in_module.squares, 1.0, "there", run_in="process", distribution=2),
        Regularizer(in_module.squares, 1.0, "here", distribution=2),
    ]
    _, output, _ = total_of(terms, whole())
    there, here = output.regularizers["there"], output.regularizers["here"]
    assert there.value == pytest.approx(here.value)
    assert there.grad_norm == pytest.approx(here.grad_norm)

    def picky(data: list[Any], logprobs: list[torch.Tensor]) -> Any:
        if len(data) != 1 or len(logprobs[0]) == 2:
            raise LookupError("one long datum only")
        return logprobs[0].sum(), {}

    term = Regularizer(picky, 1.0, reduction="sum", on_error="partial", distribution="full")
    _, output, _ = total_of([term], whole())
    assert output.partial == {"picky": (1,)}
    expected = float(distributions_of(1)[0].sum())
    assert output.regularizers["picky"].value == pytest.approx(expected)


def test_logprobs_of_other_tokens_are_refused(golden: Callable[[str, Any], None]) -> None:
    """Which tokens are the likeliest changes with the model: a field must hold the vocabulary."""
    wrong: dict[str, tuple[Any, Any]] = {
        "as many as are seen": ("other", [x[:, :2] for x in distributions_of(2)]),
        "one a position": ("other", [x[:, 0] for x in distributions_of(2)]),
        "a position too few": ("other", [x[:1] for x in distributions_of(2)]),
        "by a function": (lambda data: [x[:, :1] for x in distributions_of(2)], None),
    }
    told: dict[str, str] = {}
    for name, (reference, rows) in wrong.items():
        inputs = {} if rows is None else {"other": rows}
        terms = [Regularizer(KL(reference), 1.0, distribution=2)]
        with pytest.raises(RegularizerError) as refused:
            total_of(terms, top(2), **inputs)
        assert isinstance(refused.value.__cause__, DataError)
        told[name] = str(refused.value)
    golden("regularizer_distribution_errors.json", told)


def test_a_function_may_give_logprobs_of_the_tokens_that_it_sees() -> None:
    references = distributions_of(2)

    def of_tokens(data: list[Any]) -> list[torch.Tensor]:
        return [
            q.gather(1, datum.loss_fn_inputs["target_tokens"].to_torch())
            for q, datum in zip(references, data, strict=True)
        ]

    values = []
    for reference in (of_tokens, lambda data: references):
        _, output, _ = total_of([Regularizer(KL(reference), 1.0, distribution=3)], top(3))
        values.append(output.regularizers["kl"].value)
    assert values[0] == pytest.approx(values[1])


def test_a_mask_counts_positions_of_distributions() -> None:
    terms = [Regularizer(L1(mask="mask"), 1.0, distribution="full")]
    _, output, _ = total_of(terms, whole(), mask=[[0, 1, 0], [0, 0]])
    expected = float(distributions_of(1)[0][1].abs().sum())
    assert output.regularizers["l1_sparsity"].value == pytest.approx(expected)
