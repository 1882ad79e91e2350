"""Small decoders of the transformers package with random weights, exported with their caches by PyTorch's exporters."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Sequence
from typing import Any

import onnx
import pytest
import torch
from ground_truth import as_if_trained

transformers = pytest.importorskip("transformers")

VOCABULARY, LAYERS = 40, 3
_COMMON = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": LAYERS}
_COMMON |= {"num_attention_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
_GROUPED = _COMMON | {"num_key_value_heads": 1}
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": LAYERS, "n_head": 2, "n_positions": 64}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _GROUPED),
    "gpt2": ("GPT2Config", _GPT2 | {"bos_token_id": 1, "eos_token_id": 2}),
    "qwen3": ("Qwen3Config", _GROUPED | {"head_dim": 8}),
    "neox": ("GPTNeoXConfig", _COMMON),
    "gemma2": ("Gemma2Config", _GROUPED | {"head_dim": 8}),
    "phi": ("PhiConfig", _COMMON),
}


class WithPast(torch.nn.Module):
    """A decoder with its cache as plain tensors."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, position_ids, *past):
        cache = transformers.cache_utils.DynamicCache()
        for number in range(len(past) // 2):
            cache.update(past[2 * number], past[2 * number + 1], number)
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        layers = out.past_key_values.layers
        return (out.logits, *(part for layer in layers for part in (layer.keys, layer.values)))


def build(family: str) -> torch.nn.Module:
    """A causal language model of a family."""
    torch.manual_seed(0)
    name, options = CONFIGS[family]
    config = getattr(transformers, name)(**options)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return as_if_trained(model.eval())


def export(model: torch.nn.Module, exporter: str) -> onnx.ModelProto:
    """The model with `past_key_values.i.*` inputs and `present.i.*` outputs, batch and lengths free."""
    layers = model.config.num_hidden_layers
    with torch.no_grad():
        kept = model(torch.ones(1, 1, dtype=torch.long), use_cache=True).past_key_values.layers[0].keys
    batch, past, seq = 2, 4, 3
    caches = [torch.randn(batch, kept.shape[1], past, kept.shape[3]) for _ in range(2 * layers)]
    positions = torch.arange(past, past + seq).expand(batch, seq).contiguous()
    mask = torch.ones(batch, past + seq, dtype=torch.long)
    args = (torch.randint(0, VOCABULARY, (batch, seq)), mask, positions, *caches)
    numbered = [f"{number}.{part}" for number in range(layers) for part in ("key", "value")]
    inputs = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{n}" for n in numbered)]
    outputs = ["logits", *(f"present.{n}" for n in numbered)]
    options: dict[str, Any] = {"input_names": inputs, "output_names": outputs}
    if exporter == "torchscript":
        axes = {key: {0: "batch", 1: "seq"} for key in ("input_ids", "position_ids", "logits")}
        axes |= {"attention_mask": {0: "batch", 1: "total"}}
        axes |= {key: {0: "batch", 2: "past"} for key in inputs[3:]}
        axes |= {key: {0: "batch", 2: "total"} for key in outputs[1:]}
        options |= {"dynamo": False, "dynamic_axes": axes, "opset_version": 17}
    else:
        dim = torch.export.Dim
        rows, length, before = dim("batch"), dim("seq"), dim("past")
        tokens, cache = {0: rows, 1: length}, tuple({0: rows, 2: before} for _ in caches)
        shapes = (tokens, {0: rows, 1: dim.DYNAMIC}, tokens, cache)
        options |= {"dynamo": True, "dynamic_shapes": shapes, "verbose": False}
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "torchscript":
            torch.onnx.export(WithPast(model), args, buffer, **options)
        else:
            torch.onnx.export(WithPast(model), args, **options).save(buffer)
    return onnx.load_from_string(buffer.getvalue())


def without(model: torch.nn.Module, number: int) -> torch.nn.Module:
    """A copy of the model without one layer."""
    shorter = copy.deepcopy(model)
    count = shorter.config.num_hidden_layers
    layers = next(m for m in shorter.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count)
    del layers[number]
    for place, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = place
    shorter.config.num_hidden_layers -= 1
    if getattr(shorter.config, "layer_types", None):
        kinds = shorter.config.layer_types
        shorter.config.layer_types = [kind for place, kind in enumerate(kinds) if place != number]
    return shorter


def generate(model: torch.nn.Module, prompt: Sequence[int], steps: int) -> list[int]:
    """Tokens that PyTorch generates with its own cache."""
    with torch.no_grad():
        tokens = model.generate(
            torch.tensor([list(prompt)]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=steps,
            min_new_tokens=steps,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
    return tokens[0, len(prompt) :].tolist()
