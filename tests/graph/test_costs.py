"""Parameters and multiply-adds, against PyTorch's own figures and against counting by hand."""

import numpy as np
import pytest
from builders import GraphBuilder, residual_cnn
from onnx import TensorProto

from lacoot_deploy.graph.discovery.costs import model_costs


def macs(g: GraphBuilder, output: str, **options: object) -> int | None:
    return model_costs(g.model({output: None}, **options)).macs


def test_convolution_by_hand():
    g = GraphBuilder()
    x = g.input("x", ["N", 4, 9, 9])
    g.op(
        "Conv",
        x,
        g.normal(6, 2, 3, 3),
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1] * 4,
        group=2,
        output="y",
    )
    assert macs(g, "y") == 5 * 5 * 6 * 2 * 9


def test_transposed_convolution_by_hand():
    g = GraphBuilder()
    g.op("ConvTranspose", g.input("x", [1, 4, 5, 5]), g.normal(4, 3, 2, 2), strides=[2, 2], output="y")
    assert macs(g, "y") == 5 * 5 * 4 * 3 * 4


@pytest.mark.parametrize("batch", [1, 4, "N"])
def test_products_count_for_one_sample(batch):
    g = GraphBuilder()
    x = g.op("MatMul", g.input("x", [batch, 7, 8]), g.normal(8, 5))
    flat = g.op("Reshape", x, g.weight([-1, 5], dtype=np.int64))
    g.op("Gemm", flat, g.normal(6, 5), transB=1, output="y")
    assert macs(g, "y") == 7 * 8 * 5 + 7 * 5 * 6


def test_attention_scores_count():
    g = GraphBuilder()
    x = g.input("x", ["N", 7, 8])
    scores = g.op("Softmax", g.op("MatMul", x, g.op("Transpose", x, perm=[0, 2, 1])))
    g.op("MatMul", scores, x, output="y")
    assert macs(g, "y") == 2 * 7 * 7 * 8


def test_einsum():
    g = GraphBuilder()
    g.op("Einsum", g.input("x", ["N", 7, 8]), g.normal(8, 3), equation="bij,jk->bik", output="y")
    assert macs(g, "y") == 7 * 8 * 3


def test_fused_attention_counts_its_projection():
    g = GraphBuilder()
    x = g.input("x", ["N", 7, 8])
    g.op("Attention", x, g.normal(8, 24), g.normal(24), domain="com.microsoft", num_heads=2, output="y")
    assert macs(g, "y", infer=False) == 7 * 8 * 24 + 2 * 7 * 7 * 8


def test_recurrent_cell():
    g = GraphBuilder()
    x = g.input("x", [5, "N", 4])
    g.op("GRU", x, g.normal(1, 18, 4), g.normal(1, 18, 6), hidden_size=6, output="y")
    model = g.model({"y": None})
    assert model_costs(model).macs == 5 * (18 * 4 + 18 * 6) // 5


def test_work_that_nobody_can_see_is_not_guessed():
    g = GraphBuilder()
    g.op("Mystery", g.input("x", ["N", 8]), domain="org.example", output="y")
    assert macs(g, "y", infer=False) is None


def test_parameters_are_weights_and_not_shapes_or_factors():
    g = GraphBuilder()
    x = g.op("Reshape", g.input("x", ["N", 8]), g.weight([-1, 8], dtype=np.int64))
    g.op("Mul", g.op("MatMul", x, g.normal(8, 3)), g.weight(0.5), output="y")
    assert model_costs(g.model({"y": None})).parameters == 24


def test_bodies_count():
    inner = GraphBuilder()
    inner.op("MatMul", "x", inner.normal(8, 3), output="inner")
    body = inner.graph({"inner": ["N", 3]})
    g = GraphBuilder()
    g.input("x", ["N", 8])
    g.op("If", g.input("flag", [], TensorProto.BOOL), then_branch=body, else_branch=body, output="y")
    costs = model_costs(g.model({"y": ["N", 3]}))
    assert (costs.nodes, costs.parameters, costs.macs, costs.opset) == (3, 48, 48, 17)


def test_block_costs_add_up_to_what_removal_saves():
    from lacoot_deploy.graph.discovery import find_blocks
    from lacoot_deploy.graph.model.blocks import Form
    from lacoot_deploy.graph.surgery.collapse import collapse_blocks
    from lacoot_deploy.graph.surgery.cuts import Cut

    model, _ = residual_cnn(blocks=3)
    before = model_costs(model)
    for block in find_blocks(model):
        after = model_costs(collapse_blocks(model, [Cut(block, Form.BYPASS)]))
        assert before.macs - after.macs == block.macs
        assert before.parameters - after.parameters == block.parameters
        assert before.nodes - after.nodes == len(block.nodes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50",
        "mobilenet_v2",
        "regnet_y_400mf",
        "efficientnet_b0",
        "vit_b_16",
        "convnext_tiny",
    ],
)
def test_torchvision_figures(name):
    """torchvision publishes GFLOPS that are multiply-adds, and parameters; batch norms are folded in the export."""
    import torch
    import torchvision
    from ground_truth import as_if_trained, export

    weights = torchvision.models.get_model_weights(name).DEFAULT
    size = weights.meta["min_size"] if name == "vit_b_16" else (224, 224)
    module = as_if_trained(torchvision.models.get_model(name, weights=None).eval())
    costs = model_costs(export(module, (torch.randn(2, 3, *size),), "dynamo"))
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    assert costs.macs / 1e9 == pytest.approx(weights.meta["_ops"], rel=0.03)
    # Exporting folds a norm's two parameters per channel into the convolution before it, as one bias.
    folded = sum(part.num_features for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d))
    assert costs.parameters == pytest.approx(weights.meta["num_params"] - folded, rel=1e-3)
