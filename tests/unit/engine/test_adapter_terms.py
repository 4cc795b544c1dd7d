"""Terms on parameters alone: closed forms against float64 autograd and finite differences."""

import pytest
import torch
from torch import Tensor

from tinsmith.core.errors import UserError
from tinsmith.engine.adapter_terms import add_adapter_terms, term_gradient
from tinsmith.engine.adapters import Adapter
from tinsmith.types import AdapterTerm, LoraConfig

FEATURES = {"one": (7, 5), "two": (4, 9)}
KINDS = ("weight_decay", "anchor", "orthogonality")


def make_adapter(*, is_trained: bool = True) -> Adapter:
    config = LoraConfig(rank=3, seed=11)
    adapter = Adapter.initialize(config, FEATURES, device=torch.device("cpu"), dtype=torch.float64)
    if is_trained:
        noise = torch.randn(
            adapter.flat.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        adapter.flat.data.add_(0.3 * noise)
    return adapter


def reference(adapter: Adapter, kind: str, flat: Tensor) -> Tensor:
    """The formulas once more, differentiated by autograd."""
    if kind == "weight_decay":
        return (flat**2).sum() / 2
    if kind == "anchor":
        return ((flat - make_adapter(is_trained=False).flat.detach()) ** 2).sum() / 2
    total = flat.new_zeros(())
    for shape in adapter.shapes:
        a, b = shape.views(flat)
        for gram in (a @ a.T, b.T @ b):
            total = total + (gram - torch.eye(3, dtype=flat.dtype)).pow(2).sum()
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_autograd_and_finite_differences(kind: str) -> None:
    adapter = make_adapter()
    value, grad = term_gradient(adapter, kind)
    leaf = adapter.flat.detach().clone().requires_grad_()
    expected = reference(adapter, kind, leaf)
    expected.backward()
    assert value == pytest.approx(float(expected.detach()), rel=1e-12)
    torch.testing.assert_close(grad, leaf.grad, rtol=1e-12, atol=1e-12)
    step = 1e-6
    for index in (0, 20, len(grad) - 1):
        values = []
        for sign in (1, -1):
            adapter.flat.data[index] += sign * step
            values.append(term_gradient(adapter, kind)[0])
            adapter.flat.data[index] -= sign * step
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(grad[index]), abs=1e-6)


def test_weighted_gradients_add_up_with_what_was_there() -> None:
    adapter = make_adapter()
    before = torch.ones_like(adapter.flat.detach())
    adapter.grad = before.clone()
    terms = [
        AdapterTerm(kind=kind, weight=w) for kind, w in zip(KINDS, (0.1, 2.0, 0.0), strict=True)
    ]  # type: ignore[arg-type]
    output = add_adapter_terms(adapter, terms)
    parts = [term_gradient(adapter, term.kind) for term in terms]
    added = sum(term.weight * grad for term, (_, grad) in zip(terms, parts, strict=True))
    torch.testing.assert_close(adapter.grad, before + added, rtol=1e-12, atol=1e-12)
    assert [o.value for o in output.terms] == [value for value, _ in parts]
    assert [o.grad_norm for o in output.terms] == pytest.approx([float(g.norm()) for _, g in parts])
    assert output.total == pytest.approx(0.1 * parts[0][0] + 2.0 * parts[1][0])
    assert output.total_grad_norm == pytest.approx(float(added.norm()))


def test_a_fresh_adapter_is_at_its_anchor() -> None:
    adapter = make_adapter(is_trained=False)
    value, grad = term_gradient(adapter, "anchor")
    assert value == 0
    assert not grad.any()


def test_terms_that_overflow_add_nothing() -> None:
    adapter = make_adapter()
    adapter.flat.data.mul_(1e200)
    with pytest.raises(UserError, match="their gradient is not finite; nothing was accumulated"):
        add_adapter_terms(adapter, [AdapterTerm(kind="orthogonality", weight=1.0)])
    assert adapter.grad is None
