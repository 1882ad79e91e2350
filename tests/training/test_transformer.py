from __future__ import annotations

import pytest
import torch
from torch import nn

from lacoot_deploy.errors import UsageError
from lacoot_deploy.training.blocks import locate_blocks
from lacoot_deploy.training.models import build_model
from lacoot_deploy.training.recipe import Recipe
from lacoot_deploy.training.transformer import EncoderLayer


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_layer_is_torchs_own(norm_first: bool) -> None:
    torch.manual_seed(0)
    layer = EncoderLayer(24, 3, norm_first=norm_first)
    other = nn.TransformerEncoderLayer(
        24, 3, 96, dropout=0, activation="gelu", batch_first=True, norm_first=norm_first
    )
    attention = other.self_attn
    with torch.no_grad():
        attention.in_proj_weight.copy_(layer.attention.inward.weight)
        attention.in_proj_bias.copy_(layer.attention.inward.bias)
        attention.out_proj.load_state_dict(layer.attention.outward.state_dict())
        other.linear1.load_state_dict(layer.feed_forward[0].state_dict())
        other.linear2.load_state_dict(layer.feed_forward[2].state_dict())
        x = torch.randn(2, 5, 24)
        torch.testing.assert_close(layer(x), other(x), atol=2e-6, rtol=1e-5)


def test_every_unit_of_a_post_norm_network_is_found() -> None:
    recipe = Recipe(model="patch-transformer", model_args={"size": 16, "depth": 3})
    model = build_model(recipe, classes=10, channels=1)
    found = locate_blocks(model.eval(), torch.zeros(2, 1, 16, 16))
    assert [block.name for block in found.tracked] == [f"layers.{i}" for i in range(3)]


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UsageError, match="multiple"):
        build_model(Recipe(model="patch-transformer", model_args={"size": 18}), classes=10, channels=1)
