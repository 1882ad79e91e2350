from __future__ import annotations

import pytest
import torch

from lacoot_deploy.errors import UsageError
from lacoot_deploy.transport import SlicedOptions, floor, max_sliced_wasserstein


@pytest.mark.parametrize(("estimator", "tolerance"), [("sampled", 0.15), ("ascent", 0.05)])
@pytest.mark.parametrize(("n", "features"), [(128, 2000), (60, 3000)])
def test_is_what_fresh_samples_show(n: int, features: int, estimator: str, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.stack(
        [
            max_sliced_wasserstein(
                torch.randn(n, features, generator=generator),
                torch.randn(n, features, generator=generator),
                SlicedOptions(estimator=estimator),
                generator=generator,
            )
            for _ in range(9)
        ]
    ).median()
    value = floor(
        torch.randn(n, features, generator=generator), SlicedOptions(estimator=estimator), generator=generator
    )
    assert value == pytest.approx(float(truth), rel=tolerance)


def test_two_samples_of_128_read_0_41_in_unit_variance() -> None:
    """The figure in FACTS.md."""
    x = torch.randn(128, 16384, generator=torch.Generator().manual_seed(0))
    assert floor(x, generator=torch.Generator().manual_seed(1)) == pytest.approx(0.41, abs=0.06)


def test_repeats_with_the_generator_and_leaves_x_alone() -> None:
    x = torch.randn(20, 30)
    before = x.clone()
    first, second = (floor(x, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert first == second
    assert torch.equal(x, before)


def test_refuses_too_few_samples() -> None:
    with pytest.raises(UsageError, match="1 samples"):
        floor(torch.zeros(1, 4))
