"""The oracle: every block of many networks, cut alone and half of them together.

The cut model must equal, bit for bit, a bypass written in raw protobuf that shares no code with the surgery, and to
1e-5 the PyTorch module with the block replaced.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from builders import cut_by_hand, random_feeds, run
from onnx import numpy_helper

from lacoot_deploy.graph.discovery import find_blocks
from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut

ground_truth = pytest.importorskip("ground_truth")
ARCHITECTURES = pytest.importorskip("architectures").ARCHITECTURES

Choice = tuple[Block, Form]
RELU_AFTER_PROJECTION = {"BasicBlock", "Bottleneck", "ResBottleneckBlock", "SEResNetBlock", "Bottle2neck"}


class Dense:
    """A whole model with its weights moved out into one file, so that each of its cuts is a small file beside it."""

    def __init__(self, model: onnx.ModelProto, feeds, folder):
        self.folder, self.feeds = folder, feeds
        onnx.save(model, folder / "dense.onnx", save_as_external_data=True, location="weights.bin")
        self.model = onnx.load(folder / "dense.onnx", load_external_data=False)
        self.blocks = [block for block in find_blocks(self.model) if block.collapsible]

    def outputs(self, model: onnx.ModelProto) -> list[np.ndarray]:
        path = self.folder / "cut.onnx"
        path.write_bytes(model.SerializeToString())
        onnx.checker.check_model(path, full_check=True)
        return run(str(path), self.feeds)

    def check(self, choices: Sequence[Choice]) -> list[np.ndarray]:
        """Cut the blocks, compare with the cut in raw protobuf, and give the outputs."""
        result = collapse_blocks(self.model, [Cut(block, form) for block, form in choices])
        # Before IR version 4 every weight had to be listed as an input too; those of dead weights go with them.
        weights = (
            {tensor.name for tensor in self.model.graph.initializer} if self.model.ir_version < 4 else set()
        )
        inputs, dense_inputs = (
            [value for value in graph.input if value.name not in weights]
            for graph in (result.graph, self.model.graph)
        )
        assert inputs == dense_inputs
        assert list(result.graph.output) == list(self.model.graph.output)
        assert len(result.graph.node) < len(self.model.graph.node)
        outputs = self.outputs(result)
        for ours, theirs in zip(outputs, self.outputs(cut_by_hand(self.model, choices)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        return outputs

    def choices(self, seed: str) -> list[list[Choice]]:
        """Every block alone in every form, and a random half of them together in their best form."""
        alone = [[(block, form)] for block in self.blocks for form in block.forms]
        some = random.Random(seed).sample(self.blocks, (len(self.blocks) + 1) // 2)
        return [*alone, [(block, block.forms[0]) for block in some]]


class Replacement:
    """A PyTorch module with some of its blocks replaced by what is left of them, for the time of a `with`."""

    def __init__(self, module, choices: Sequence[Choice], model: onnx.ModelProto):
        self.ops = {name: node.op_type for node in model.graph.node for name in node.output}
        self.places: dict[object, dict[int, Choice]] = {}
        for block, form in choices:
            path, call = module_call(module, block.name)
            self.places.setdefault(module.get_submodule(path), {})[call] = (block, form)

    @staticmethod
    def covers(module, choice: Choice) -> bool:
        """Whether the block is a module, and what is left of it can be said in PyTorch without its code."""
        block, form = choice
        found = dict(module.named_modules()).get(module_call(module, block.name)[0])
        projected = type(found).__name__ in RELU_AFTER_PROJECTION and skip_module(found) is not None
        return found is not None and (form is Form.BYPASS or projected)

    def __enter__(self):
        for part, calls in self.places.items():
            part.forward = self.left_of(part, part.forward, calls)

    def __exit__(self, *exc):
        for part in self.places:
            del part.forward

    def left_of(self, part, original, calls: dict[int, Choice]):
        import torch

        numbers = itertools.count(1)

        def forward(*args, **kwargs):
            number = next(numbers)
            if number not in calls:
                return original(*args, **kwargs)
            block, form = calls[number]
            x = args[0] if args else kwargs["hidden_states"]
            if form is Form.SHORTCUT:
                assert self.ops[block.output] == "Relu"
                return torch.relu(skip_module(part)(x))
            y = torch.relu(x) if block.keep_relu else x
            whole = original(*args, **kwargs)
            return (y, *whole[1:]) if isinstance(whole, tuple) else y

        return forward


def module_call(module, name: str) -> tuple[str, int]:
    """The module behind a name and which of its calls the block is: `layer_2` is the second of `layer`."""
    path, _, number = name.rpartition("_")
    modules = dict(module.named_modules())
    return (path, int(number)) if name not in modules and path in modules and number.isdigit() else (name, 1)


def skip_module(part):
    return next((child for name, child in part.named_children() if name in ("downsample", "proj")), None)


def flat(value) -> list:
    if isinstance(value, (tuple, list)):
        return [tensor for part in value for tensor in flat(part)]
    return [value]


def check_against_pytorch(
    module, inputs, dense: Dense, choices: Sequence[Choice], outputs: Sequence[np.ndarray]
) -> None:
    import torch

    with torch.no_grad(), Replacement(module, choices, dense.model):
        wanted = flat(module(*inputs))
    for ours, theirs in zip(outputs, wanted, strict=True):
        scale = max(float(theirs.abs().max()), 1e-6)
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-5 * scale)


OLDER_EXPORTER = {
    "resnet18",
    "mobilenet_v2",
    "regnet_y",
    "convnext",
    "vit",
    "swin",
    "bert",
    "gpt2",
    "preact_resnet",
}

NETWORKS = [
    pytest.param(
        architecture,
        exporter,
        id=f"{architecture.name}-{exporter}",
        marks=() if architecture.fast and exporter == "dynamo" else pytest.mark.slow,
    )
    for architecture in ARCHITECTURES
    for exporter in ("dynamo", "torchscript")
    if architecture.expected is not ground_truth.none
    if exporter in architecture.exporters and (exporter == "dynamo" or architecture.name in OLDER_EXPORTER)
]


@pytest.mark.parametrize(("architecture", "exporter"), NETWORKS)
def test_every_block_alone_and_half_together(architecture, exporter, tmp_path):
    import torch

    model, _ = ground_truth.exported(architecture, exporter)
    torch.manual_seed(0)
    module, inputs = architecture.build()
    module = ground_truth.as_if_trained(module.eval())
    values = [tensor.numpy() for tensor in flat(inputs)]
    feeds = {value.name: array for value, array in zip(model.graph.input, values, strict=True)}
    dense = Dense(model, feeds, tmp_path)
    check_against_pytorch(module, inputs, dense, [], dense.outputs(dense.model))
    assert dense.blocks
    compared, every = 0, dense.choices(architecture.name)
    for choices in every:
        outputs = dense.check(choices)
        if all(Replacement.covers(module, choice) for choice in choices):
            check_against_pytorch(module, inputs, dense, choices, outputs)
            compared += 1
    print(f"{len(dense.blocks)} blocks, {len(every)} cuts bit for bit, {compared} of them next to PyTorch")
    assert compared > 0 or not any(Form.BYPASS in block.forms for block in dense.blocks)


def with_weights(path) -> onnx.ModelProto:
    """A light model with random weights in place of the zeros and ones that its file computes them from."""
    model = onnx.load(path)
    model.ir_version = 4  # since then, a weight need not be an input as well
    rng = np.random.default_rng(0)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        shape = tuple(shapes[node.input[0]])
        if len(shape) > 1:
            values = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        else:
            values = abs(rng.normal(1, 0.1, shape))
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


LIGHT = ("resnet50", "shufflenet")
LIGHT_WITHOUT = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "squeezenet",
    "vgg19",
    "zfnet512",
)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["as shipped", "random"])
@pytest.mark.parametrize("name", LIGHT)
def test_light_models_of_the_onnx_package(onnx_light, name, weights, tmp_path):
    path = onnx_light / f"light_{name}.onnx"
    model = onnx.load(path) if weights == "as shipped" else with_weights(path)
    dense = Dense(model, random_feeds(model, batch=1), tmp_path)
    assert len(dense.blocks) >= 13
    for choices in dense.choices(name):
        outputs = dense.check(choices)
        assert weights == "as shipped" or all(np.isfinite(output).all() for output in outputs)


@pytest.mark.parametrize("name", LIGHT_WITHOUT)
def test_light_models_without_residual_blocks(onnx_light, name):
    assert find_blocks(onnx.load(onnx_light / f"light_{name}.onnx")) == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "vit"])
def test_units_that_onnx_runtime_fused(name, tmp_path):
    """Cut from the optimised model, where sum and norm are one node, or from the plain one: the outputs agree."""
    import onnxruntime as ort
    import torch

    architecture = next(a for a in ARCHITECTURES if a.name == name)
    plain, _ = ground_truth.exported(architecture, "dynamo")
    torch.manual_seed(0)
    values = [tensor.numpy() for tensor in flat(architecture.build()[1])]
    feeds = {value.name: array for value, array in zip(plain.graph.input, values, strict=True)}
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    ort.InferenceSession(plain.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fused = onnx.load(tmp_path / "fused.onnx")
    pairs = list(
        zip(
            *([b for b in find_blocks(m, granularity="unit") if b.collapsible] for m in (plain, fused)),
            strict=True,
        )
    )
    assert any(unit.units[0].merge_op == "SkipLayerNormalization" for _, unit in pairs)
    for ours, theirs in pairs:
        cut = run(collapse_blocks(plain, [Cut(ours, Form.SHORTCUT)]), feeds)
        fused_cut = run(collapse_blocks(fused, [Cut(theirs, Form.SHORTCUT)]), feeds)
        for a, b in zip(cut, fused_cut, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(np.abs(a).max()))
