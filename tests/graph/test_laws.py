"""Laws of surgery over random residual graphs: what must hold whatever is cut."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
from builders import GraphBuilder, cut_by_hand, make_block, random_feeds, residual_mlp, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from lacoot_deploy.graph.discovery import survey
from lacoot_deploy.graph.model.blocks import Block, Form
from lacoot_deploy.graph.model.io import fingerprint
from lacoot_deploy.graph.surgery.collapse import collapse_blocks
from lacoot_deploy.graph.surgery.cuts import Cut, Repair

WIDTH = 4
RELAXED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Layer:
    """One residual unit of a random chain and what hangs on it."""

    op: str
    relu: bool
    shared: bool
    constant: bool
    projected: bool
    public: bool
    nested_reader: bool
    dead_reader: bool


LAYERS = st.lists(
    st.builds(
        Layer,
        op=st.sampled_from(["Tanh", "Sigmoid", "MatMul"]),
        relu=st.booleans(),
        shared=st.booleans(),
        constant=st.booleans(),
        projected=st.booleans(),
        public=st.booleans(),
        nested_reader=st.booleans(),
        dead_reader=st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


def build(layers: list[Layer], *, stem: bool) -> tuple[onnx.ModelProto, list[Block]]:
    g = GraphBuilder()
    x, flag = g.input("x", ["N", WIDTH]), g.input("flag", [], TensorProto.BOOL)
    shared = g.normal(WIDTH, WIDTH, name="shared")
    value, positive = (g.op("Relu", x, output="stem"), True) if stem else (x, False)
    outputs, blocks = {}, []
    for number, layer in enumerate(layers):
        name = f"layer{number}"
        weight = shared if layer.shared else g.normal(WIDTH, WIDTH, name=f"{name}.w")
        if layer.constant:
            values = onnx.numpy_helper.from_array(np.full((WIDTH, WIDTH), 0.1, np.float32))
            weight = g.op("Constant", value=values)
        branch = g.op("MatMul", value, weight)
        if layer.op != "MatMul":
            branch = g.op(layer.op, branch)
        skip = (
            g.op("MatMul", value, g.normal(WIDTH, WIDTH, name=f"{name}.skip")) if layer.projected else value
        )
        merge = g.op("Add", branch, skip, output=f"{name}.sum")
        y = g.op("Relu", merge, output=f"{name}.y") if layer.relu else merge
        forms = [Form.SHORTCUT] if layer.projected else list(Form)
        blocks.append(
            make_block(
                name,
                value,
                y,
                skip=skip,
                branch=branch,
                merge=merge,
                trailing=[y] if layer.relu else [],
                forms=forms,
                shape=("N", WIDTH),
                keep_relu=layer.relu and not positive,
            )
        )
        if layer.public:
            outputs[y] = ["N", WIDTH]
        if layer.nested_reader:
            bodies = {}
            for label, op in (("then_branch", "Exp"), ("else_branch", "Neg")):
                inner = GraphBuilder()
                inner.op(op, y, output=f"{name}.{label}")
                bodies[label] = inner.graph({f"{name}.{label}": ["N", WIDTH]})
            outputs[g.op("If", flag, **bodies, output=f"{name}.if")] = ["N", WIDTH]
        if layer.dead_reader:
            g.op("Neg", y, output=f"{name}.dead")
        value, positive = y, layer.relu
    g.op("Identity", value, output="out")
    outputs["out"] = ["N", WIDTH]
    return g.model(outputs), blocks


def signature(model: onnx.ModelProto) -> tuple[bytes, ...]:
    return tuple(v.SerializeToString() for v in (*model.graph.input, *model.graph.output))


@st.composite
def cases(draw):
    """A random model, and a random choice of cuts in random order."""
    layers = draw(LAYERS)
    model, blocks = build(layers, stem=draw(st.booleans()))
    chosen = [block for block in blocks if draw(st.booleans())]
    cuts = []
    for block in draw(st.permutations(chosen)):
        repair = None
        if draw(st.booleans()):
            rng = np.random.default_rng(draw(st.integers(0, 5)))
            shift, scale = rng.normal(size=(2, WIDTH)).astype(np.float32)
            matrix = rng.normal(size=(WIDTH, WIDTH)).astype(np.float32)
            repair = draw(st.sampled_from([Repair(1, shift, scale), Repair(1, shift, matrix=matrix)]))
        cuts.append(Cut(block, draw(st.sampled_from(block.forms)), repair))
    return model, cuts


@given(cases())
@RELAXED
def test_every_result_is_valid_and_keeps_the_signature(case):
    model, cuts = case
    result = collapse_blocks(model, cuts)
    onnx.checker.check_model(result, full_check=True)
    assert signature(result) == signature(model)
    for flag in (True, False):
        feeds = random_feeds(result) | {"flag": np.array(flag)}
        assert len(run(result, feeds)) == len(model.graph.output)


@given(cases())
@RELAXED
def test_without_repairs_every_output_equals_the_cut_by_hand(case):
    model, cuts = case
    cuts = [replace(cut, repair=None) for cut in cuts]
    result = collapse_blocks(model, cuts)
    oracle = cut_by_hand(model, [(cut.block, cut.form) for cut in cuts])
    for flag in (True, False):
        feeds = random_feeds(model) | {"flag": np.array(flag)}
        for ours, theirs in zip(run(result, feeds), run(oracle, feeds), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@given(cases())
@RELAXED
def test_cutting_nothing_changes_nothing(case):
    model, _ = case
    before = model.SerializeToString(deterministic=True)
    result = collapse_blocks(model, [])
    assert result == model
    assert result.SerializeToString(deterministic=True) == before
    assert fingerprint(result) == fingerprint(model)


def in_one_order(result: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """The result with what depends on the order of the cuts put in one order.

    That is the order of repairs' weights behind the others, and where among nodes that do not read it the Identity of
    a public output stands.
    """
    known = {tensor.name for tensor in model.graph.initializer}
    copy = onnx.ModelProto()
    copy.CopyFrom(result)
    for entries, is_new in (
        (copy.graph.initializer, lambda tensor: tensor.name not in known),
        (copy.graph.node, lambda node: node.name.endswith("/Identity")),
    ):
        ordered = sorted(entries, key=lambda entry: (is_new(entry), entry.name if is_new(entry) else ""))
        del entries[:]
        entries.extend(ordered)
    return copy


class Rediscovery:
    """Describes blocks as discovery would find them again after others went."""

    def __init__(self) -> None:
        self.read_instead: dict[str, str] = {}
        self.renamed: dict[str, str] = {}

    def describe(self, block: Block) -> Block:
        def made(name: str) -> str:
            while name in self.renamed:
                name = self.renamed[name]
            return name

        def read(name: str) -> str:
            while (name := made(name)) in self.read_instead:
                name = self.read_instead[name]
            return name

        units = tuple(
            replace(u, input=read(u.input), skip=read(u.skip), merge=made(u.merge), output=made(u.output))
            for u in block.units
        )
        return replace(block, input=read(block.input), output=made(block.output), units=units)

    def note(self, block: Block, form: Form, result: onnx.ModelProto) -> None:
        source = block.input if form is Form.BYPASS else block.units[0].skip
        makers = {name: node.op_type for node in result.graph.node for name in node.output} | {"x": "input"}
        if makers.get(block.output, "Identity") == "Identity":
            self.read_instead[block.output] = source
        elif source not in makers:
            self.renamed[source] = block.output


@given(cases())
@RELAXED
def test_all_at_once_equals_one_after_the_other(case):
    """In whatever order; a block whose input went with its neighbour reads what stands in its place."""
    model, cuts = case
    stepwise, again = model, Rediscovery()
    for cut in cuts:
        block = again.describe(cut.block)
        stepwise = collapse_blocks(stepwise, [replace(cut, block=block)])
        again.note(block, cut.form, stepwise)
    assert in_one_order(stepwise, model) == in_one_order(collapse_blocks(model, cuts), model)


@given(cases())
@RELAXED
def test_what_stays_keeps_its_order_and_its_bytes(case):
    model, cuts = case
    result = collapse_blocks(model, cuts)
    known = {node.name: node for node in model.graph.node}
    kept = [node.name for node in result.graph.node if node.name in known]
    assert kept == [node.name for node in model.graph.node if node.name in set(kept)]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    assert all(weights.get(tensor.name, tensor) == tensor for tensor in result.graph.initializer)
    read, read_before = ({name for node in m.graph.node for name in node.input} for m in (result, model))
    assert {t.name for t in result.graph.initializer} - read == set(weights) - read_before


@given(cases())
@RELAXED
def test_a_cut_changes_no_shape_of_what_stays(case):
    """Looked through with the shapes of the model that it was cut from, the result is what it is by itself."""
    model, cuts = case
    result = collapse_blocks(model, cuts)
    whole = survey(result)
    told = survey(result, cut_from=survey(model))
    assert (told.blocks, told.undecided, told.costs) == (whole.blocks, whole.undecided, whole.costs)


def test_shapes_are_not_inferred_again(monkeypatch):
    model, blocks = residual_mlp(4)
    before = survey(model)
    result = collapse_blocks(model, [Cut(blocks[1], Form.BYPASS)])
    monkeypatch.setattr("lacoot_deploy.graph.shapes.infer.propagate", None)
    assert [block.name for block in survey(result, cut_from=before).blocks] == ["layer0", "layer2", "layer3"]
