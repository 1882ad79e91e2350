from __future__ import annotations

import numpy as np
import pytest
from tiny_models import classifier, text_encoder

from lacoot_deploy.data import InputInfo
from lacoot_deploy.errors import InputError, UsageError
from lacoot_deploy.runtime.feeds import (
    check_feeds,
    check_size,
    evaluate,
    generate_feeds,
    index_limits,
    model_inputs,
    resolve_shapes,
)
from lacoot_deploy.runtime.options import Runtime
from lacoot_deploy.runtime.sessions import open_session


def test_inputs_of_a_model_and_of_its_session_agree():
    for model in (classifier(), text_encoder(), classifier(batch=3)):
        assert model_inputs(model) == model_inputs(open_session(model, runtime=Runtime("cpu")))


def test_token_ids_stay_inside_the_table():
    model = text_encoder(rows=7)
    assert index_limits(model) == {"input_ids": 7}
    feeds = generate_feeds(model_inputs(model), batch=50, dims={"sequence": 9}, limits=index_limits(model))
    ids, mask = feeds["input_ids"], feeds["attention_mask"]
    assert ids.shape == mask.shape == (50, 9)
    assert ids.dtype == mask.dtype == np.int64
    assert ids.min() == 0
    assert ids.max() == 6
    assert (mask == 1).all()
    open_session(model, runtime=Runtime("cpu")).run(feeds)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bool", "uint8", "int32", "int64", "str"])
def test_every_type_is_respected_and_the_seed_repeats(dtype):
    info = InputInfo("x", ("n", 3), dtype)
    a, b = (generate_feeds([info], batch=2, seed=5)["x"] for _ in range(2))
    assert a.shape == (2, 3)
    assert a.dtype == (object if dtype == "str" else dtype)
    assert (a == b).all()
    check_feeds([info], {"x": a})


def test_positions_are_counted_up_and_types_are_zero():
    inputs = [InputInfo("position_ids", ("n", 4), "int64"), InputInfo("token_type_ids", ("n", 4), "int64")]
    feeds = generate_feeds(inputs, batch=2)
    assert feeds["position_ids"].tolist() == [[0, 1, 2, 3]] * 2
    assert feeds["token_type_ids"].tolist() == [[0] * 4] * 2


def test_free_image_sides_get_a_common_size_and_dims_override_it():
    image = InputInfo("pixels", ("n", 3, "height", None), "float32")
    assert resolve_shapes([image])["pixels"] == (1, 3, 224, 224)
    assert resolve_shapes([image], batch=2, dims={"height": 32, "pixels:3": 48})["pixels"] == (2, 3, 32, 48)


def test_a_batch_against_a_fixed_first_dimension_is_refused():
    with pytest.raises(InputError, match="fixed to 1"):
        resolve_shapes([InputInfo("x", (1, 3), "float32")], batch=8)


def test_an_unknown_dimension_is_a_usage_error_that_lists_the_free_ones():
    with pytest.raises(UsageError, match="'width'; its free dimensions are: n, x:0"):
        resolve_shapes([InputInfo("x", ("n", 3), "float32")], dims={"width": 3})


def test_inputs_that_no_memory_holds_are_refused():
    image = [InputInfo("pixels", ("n", 3, 224, 224), "float32")]
    check_size(image, batch=2)
    with pytest.raises(InputError, match=r"The inputs of m\.onnx would take 5\.61e\+05 GiB"):
        check_size(image, batch=10**9, what="m.onnx")


def test_one_name_has_one_size():
    inputs = [InputInfo("a", ("n", "t"), "float32"), InputInfo("b", ("n", "t"), "float32")]
    feeds = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((2, 4), np.float32)}
    with pytest.raises(InputError, match="'t' of The model is 3 in input 'a' but 4 in 'b'"):
        check_feeds(inputs, feeds)


def test_a_type_that_cannot_be_generated_is_refused():
    with pytest.raises(InputError, match="bfloat16"):
        generate_feeds([InputInfo("x", (1,), "bfloat16")])


def test_what_a_decoder_attends_to_is_its_past_and_the_new_tokens_whatever_it_is_called():
    cache = InputInfo("past_key_values.0.key", ("batch", 2, "past", 8), "float32")
    for total, wanted in (("total", 5), ("past + seq", 5), ("seq", 2), (5, 5)):
        inputs = [
            InputInfo("input_ids", ("batch", "seq"), "int64"),
            InputInfo("attention_mask", ("batch", total), "int64"),
            cache,
        ]
        shapes = resolve_shapes(inputs, dims={"past": 3, "seq": 2})
        assert shapes["attention_mask"] == (1, wanted)
    without = [
        InputInfo("input_ids", ("batch", "seq"), "int64"),
        InputInfo("attention_mask", ("batch", "m"), "int64"),
    ]
    assert resolve_shapes(without, dims={"seq": 2, "m": 9})["attention_mask"] == (1, 9)


def test_sums_of_symbols_are_computed_and_a_past_may_be_empty():
    inputs = (
        InputInfo("input_ids", ("B", "S"), "int64"),
        InputInfo("mask", ("B", "P + S"), "int64"),
        InputInfo("past.0.key", ("B", 2, "P", 4), "float32"),
    )
    shapes = resolve_shapes(inputs, dims={"P": 0, "S": 3})
    assert shapes == {"input_ids": (1, 3), "mask": (1, 3), "past.0.key": (1, 2, 0, 4)}
    assert resolve_shapes(inputs, dims={"P": 5, "S": 3})["mask"] == (1, 8)
    assert resolve_shapes(inputs, dims={"P": 5, "S": 3, "P + S": 9})["mask"] == (1, 9)
    assert evaluate("2*(P - 1)", {"P": 4}) == 6
    for text in ("P - 9", "P.x", "open('x')", "unk + 1", "a b", "P ** 9"):
        assert evaluate(text, {"P": 4}) is None


def test_times_are_taken_at_the_sizes_of_the_data_or_those_asked_for():
    from builders import GraphBuilder

    from lacoot_deploy.data import Samples
    from lacoot_deploy.runtime.sizes import timed_feeds

    g = GraphBuilder()
    g.op("MatMul", g.input("x", ["N", "S", 4]), g.normal(4, 2), output="y")
    model = g.model({"y": ["N", "S", 2]})
    samples = Samples({"x": np.zeros((9, 33, 4), np.float32)})
    assert timed_feeds(model, samples, {})["x"].shape == (1, 33, 4)
    assert timed_feeds(model, samples, {"S": 7})["x"].shape == (1, 7, 4)
    assert timed_feeds(model, samples, {"N": 2})["x"].shape == (2, 33, 4)


def test_sizes_that_do_not_fit_are_named_with_the_option_that_mends_them():
    from builders import GraphBuilder

    from lacoot_deploy.runtime.sessions import open_session

    g = GraphBuilder()
    g.op("Add", g.input("x", ["N", "S"]), g.input("mask", ["N", "T"]), output="y")
    session = open_session(g.model({"y": ["N", "S"]}, infer=False), label="m.onnx")
    with pytest.raises(InputError, match=r"x \[2, 3\], mask \[2, 4\]\. Give others with --dim NAME=VALUE"):
        session.run({"x": np.zeros((2, 3), np.float32), "mask": np.zeros((2, 4), np.float32)})
