from __future__ import annotations

import numpy as np
import pytest
import torch

from lacoot_deploy.errors import UsageError
from lacoot_deploy.transport import cosine_distance, paired_distance


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 3, 2, 2, generator=generator), torch.randn(6, 3, 2, 2, generator=generator)


def test_same_as_numpy() -> None:
    x, y = pair()
    a, b = (v.flatten(1).numpy().astype(np.float64) for v in (x, y))
    paired = np.sqrt(((b - a) ** 2).sum(1).mean()) / np.sqrt((a**2).sum(1).mean())
    cosine = 1 - ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean()
    assert float(paired_distance(x, y)) == pytest.approx(paired, rel=1e-6)
    assert float(cosine_distance(x, y)) == pytest.approx(cosine, rel=1e-6)


def test_gradients_are_right_and_finite_where_input_equals_output() -> None:
    x, y = (v.double().requires_grad_() for v in pair())
    assert torch.autograd.gradcheck(paired_distance, (x, y))
    assert torch.autograd.gradcheck(cosine_distance, (x, y))
    for measure in (paired_distance, cosine_distance):
        for value in (x, torch.zeros_like(x)):
            a, b = value.detach().clone().requires_grad_(), value.detach().clone().requires_grad_()
            distance = measure(a, b)
            distance.backward()
            assert float(distance.detach()) == pytest.approx(0, abs=1e-12)
            assert torch.isfinite(a.grad).all()
            assert torch.isfinite(b.grad).all()


def test_sees_what_equal_distributions_hide() -> None:
    x, _ = pair()
    assert float(paired_distance(x, x.flip(0))) > 0.5
    assert float(cosine_distance(x, x.flip(0))) > 0.5


def test_zero_samples() -> None:
    x = torch.zeros(2, 3)
    y = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    assert float(paired_distance(x, y)) == float("inf")
    assert float(cosine_distance(x, y)) == pytest.approx(0.5)


def test_half_precision_does_not_overflow() -> None:
    x = torch.full((4, 5000), 100.0, dtype=torch.float16)
    assert float(paired_distance(x, x * 2)) == pytest.approx(1)
    assert float(cosine_distance(x, x * 2)) == pytest.approx(0, abs=1e-6)


def test_refuses_different_shapes() -> None:
    with pytest.raises(UsageError, match="equally many"):
        paired_distance(torch.zeros(2, 3), torch.zeros(3, 3))
