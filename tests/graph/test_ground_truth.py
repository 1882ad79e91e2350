"""The blocks found are exactly the modules that are residual blocks: no miss, no false find, from both exporters."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from architectures import ARCHITECTURES
from ground_truth import Architecture, First, as_if_trained, export, exported

from lacoot_deploy.graph.discovery import find_blocks
from lacoot_deploy.graph.model.blocks import Form

CASES = [
    pytest.param(
        architecture,
        exporter,
        id=f"{architecture.name}-{exporter}",
        marks=[] if architecture.fast else [pytest.mark.slow],
    )
    for architecture in ARCHITECTURES
    for exporter in architecture.exporters
]
FUSED_WITH_A_STAGES_NORM = {("segformer", "ort-extended"): 3}
"""Units whose sum is fused with a norm behind the whole stage: a bypass would drop it, so only the branch can go."""

REWRITERS = ("ort-basic", "ort-extended", "onnxslim", "onnxsim")


@pytest.fixture(scope="module", autouse=True)
def exports(tmp_path_factory: pytest.TempPathFactory):
    """Every network is exported once, for all the tests here."""
    folder = os.environ.get("LACOOT_TEST_CACHE") or str(tmp_path_factory.mktemp("exports"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LACOOT_TEST_CACHE", folder)
        yield


@pytest.mark.parametrize(("architecture", "exporter"), CASES)
def test_blocks_are_the_residual_modules(architecture: Architecture, exporter: str):
    model, expected = exported(architecture, exporter)
    found = {block.name: block.forms[0].value for block in find_blocks(model) if block.collapsible}
    assert found == expected


def test_there_are_enough_architectures():
    assert len({architecture.name for architecture in ARCHITECTURES}) >= 30
    assert sum(architecture.exporters == ("dynamo", "torchscript") for architecture in ARCHITECTURES) >= 30


@pytest.mark.slow
@pytest.mark.parametrize("tool", REWRITERS)
@pytest.mark.parametrize(("architecture", "exporter"), CASES)
def test_other_tools_hide_no_unit(architecture: Architecture, exporter: str, tool: str, tmp_path: Path):
    """Names may go with the tool's rewriting; every unit is still there, in the same forms, and nothing else."""
    model, _ = exported(architecture, exporter)
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(model, before)
    rewrite(tool, before, after)
    moved = FUSED_WITH_A_STAGES_NORM.get((architecture.name, tool), 0)
    assert _units(onnx.load(after)) == _units(model) + Counter({True: moved}) - Counter({False: moved})


VARIED = (
    "resnet18",
    "mobilenet_v2",
    "convnext",
    "swin",
    "bert",
    "roberta",
    "t5",
    "yolo",
    "unet",
    "conformer",
    "preact_resnet",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIED)
@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("variant", ["free batch", "oldest opset", "newest opset", "float16"])
def test_variants_have_the_same_blocks(name: str, exporter: str, variant: str):
    architecture = next(architecture for architecture in ARCHITECTURES if architecture.name == name)
    torch.manual_seed(0)
    module, inputs = architecture.build()
    module = as_if_trained(module.eval())
    options: dict[str, Any] = {}
    if variant == "float16":
        module = module.half()
        inputs = tuple(tensor.half() if tensor.is_floating_point() else tensor for tensor in inputs)
    elif variant == "free batch" and exporter == "torchscript":
        names = [f"input{number}" for number in range(len(inputs))]
        options = {"input_names": names, "dynamic_axes": {name: {0: "batch"} for name in names}}
    elif variant == "free batch":
        inputs = tuple(torch.cat([tensor, tensor]) for tensor in inputs)
        free = tuple({0: "batch"} for _ in inputs)
        options = {"dynamic_shapes": (free,) if isinstance(module, First) else free}
    else:
        oldest = {"dynamo": 18, "torchscript": 16 if name == "t5" else 11}[exporter]
        options = {
            "opset_version": oldest
            if variant == "oldest opset"
            else {"dynamo": 23, "torchscript": 20}[exporter]
        }
    model = export(module, inputs, exporter, **options)
    found = {block.name: block.forms[0].value for block in find_blocks(model) if block.collapsible}
    assert found == architecture.expected(module)


def _units(model: onnx.ModelProto) -> Counter[bool | None]:
    """How many units can go, and how many of them only by the shortcut, their last one aside.

    A norm after the last block that a tool has fused with its merge takes the bypass from it.
    """
    blocks = [block for block in find_blocks(model, granularity="unit") if block.collapsible]
    return Counter(block.forms == (Form.SHORTCUT,) for block in blocks[:-1]) + Counter(
        [None] if blocks else []
    )


def rewrite(tool: str, before: Path, after: Path) -> None:
    """What ONNX Runtime's optimiser, onnxslim or onnxsim make of a model."""
    if tool == "onnxslim":
        import onnxslim

        onnx.save(onnxslim.slim(str(before)), after)
    elif tool == "onnxsim":
        import onnxsim

        onnx.save(onnxsim.simplify(str(before))[0], after)
    else:
        import onnxruntime

        levels = onnxruntime.GraphOptimizationLevel
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = {
            "ort-basic": levels.ORT_ENABLE_BASIC,
            "ort-extended": levels.ORT_ENABLE_EXTENDED,
        }[tool]
        options.optimized_model_filepath = str(after)
        options.log_severity_level = 4
        onnxruntime.InferenceSession(str(before), options, providers=["CPUExecutionProvider"])
