"""Further architectures with the residual blocks that they have: speech, denoisers, and the decoders of these years.

Small, with random weights. Diffusers' networks are there where that package is installed. Used by the table of models
(samples/benchmarks/model_table.py) and by slow tests.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from ground_truth import (
    BYPASS,
    SHORTCUT,
    Architecture,
    Expected,
    First,
    every,
    image,
    modules,
    tokens,
    tokens_and_mask,
    transformer,
)
from torch import Tensor, nn

TEXT = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
DECODER = TEXT | {"use_cache": False, "attn_implementation": "eager"}
GROUPED = DECODER | {"num_key_value_heads": 1}


def _text(name: str, kind: str, **options: Any) -> Architecture:
    return _of(name, f"{name}Model", f"{name}Config", kind, TEXT | options, tokens)


def _decoder(name: str, kind: str, options: dict[str, Any]) -> Architecture:
    return _of(name, f"{name}Model", f"{name}Config", kind, options, tokens_and_mask)


def _vision(name: str, config: str, kind: str, **options: Any) -> Architecture:
    return _of(name, f"{name}Model", config, kind, VISION | options, lambda: image(32))


def _of(
    name: str,
    model: str,
    config: str,
    kind: str,
    options: dict[str, Any],
    inputs: Callable[[], tuple[Any, ...]],
) -> Architecture:
    def make(t: Any) -> nn.Module:
        found: nn.Module = getattr(t, model)(getattr(t, config)(**options))
        return found

    return Architecture(name.lower(), transformer(make, inputs), every(kind), exporters=("torchscript",))


def _mel() -> tuple[Tensor, ...]:
    return (torch.randn(1, 16, 40),)


def _whisper(t: Any) -> Any:
    return t.WhisperConfig(
        vocab_size=60,
        num_mel_bins=16,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_source_positions=20,
        max_target_positions=20,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )


class Listening(First):
    """A speech decoder: tokens, and what the encoder heard."""

    def forward(self, ids: Tensor, mask: Tensor, heard: Tensor) -> Any:
        """The decoder's states."""
        states = self.model(input_ids=ids, attention_mask=mask, encoder_hidden_states=heard, use_cache=False)
        return states[0]


SPEECH = {
    "conv_dim": (16, 16),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
} | {key: TEXT[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
SPEECH |= {"intermediate_size": 48}


def _wave() -> tuple[Tensor, ...]:
    return (torch.randn(1, 400),)


TRANSFORMERS = (
    _text("ModernBert", "ModernBertEncoderLayer", global_attn_every_n_layers=2, pad_token_id=0),
    _text("Electra", "ElectraLayer", embedding_size=32),
    _text("RoFormer", "RoFormerLayer", embedding_size=32),
    _text("MPNet", "MPNetLayer"),
    _vision("Dinov2", "Dinov2Config", "Dinov2Layer"),
    _vision("SiglipVision", "SiglipVisionConfig", "SiglipEncoderLayer"),
    _vision("CLIPVision", "CLIPVisionConfig", "CLIPEncoderLayer"),
    _decoder("Mistral", "MistralDecoderLayer", GROUPED),
    _decoder("Qwen3", "Qwen3DecoderLayer", GROUPED | {"head_dim": 16}),
    _decoder("Gemma2", "Gemma2DecoderLayer", GROUPED | {"head_dim": 16}),
    _decoder("Phi", "PhiDecoderLayer", DECODER),
    _decoder("GPTNeoX", "GPTNeoXLayer", DECODER),
    _decoder("Olmo2", "Olmo2DecoderLayer", DECODER),
    Architecture(
        "whisper encoder",
        transformer(lambda t: t.WhisperModel(_whisper(t)).encoder, _mel),
        every("WhisperEncoderLayer"),
        exporters=("torchscript",),
    ),
    Architecture(
        "whisper decoder",
        transformer(
            lambda t: t.WhisperModel(_whisper(t)).decoder,
            lambda: (*tokens(6), torch.ones(1, 6, dtype=torch.long), torch.randn(1, 20, 32)),
            Listening,
        ),
        every("WhisperDecoderLayer"),
        exporters=("torchscript",),
    ),
    Architecture(
        "wav2vec2",
        transformer(lambda t: t.Wav2Vec2Model(t.Wav2Vec2Config(**SPEECH)), _wave),
        # Before the layers the encoder adds the activation of a convolution to its input, in its own forward.
        lambda m: every("Wav2Vec2EncoderLayer")(m) | {"model.encoder:Add": BYPASS},
        exporters=("torchscript",),
    ),
    _of(
        "wav2vec2 conformer",
        "Wav2Vec2ConformerModel",
        "Wav2Vec2ConformerConfig",
        "Wav2Vec2ConformerEncoderLayer",
        SPEECH | {"conv_depthwise_kernel_size": 3, "position_embeddings_type": None},
        _wave,
    ),
)


class Denoiser(First):
    """A denoiser with its time, and perhaps what it is to draw."""

    def forward(self, image: Tensor, time: Tensor, *rest: Tensor) -> Any:
        """The noise."""
        return self.model(image, time, *rest, return_dict=False)[0]


def _diffusers(
    name: str,
    make: Callable[[Any], nn.Module],
    expected: Callable[[nn.Module], Expected],
    *rest: Callable[[], Tensor],
) -> Architecture:
    def build() -> tuple[nn.Module, tuple[Any, ...]]:
        import diffusers

        module = Denoiser(make(diffusers))
        return module, (torch.randn(1, 4, 16, 16), torch.tensor([3]), *(one() for one in rest))

    return Architecture(name, build, expected, exporters=("torchscript",))


def _unet(module: nn.Module) -> Expected:
    found = {
        path: BYPASS if block.conv_shortcut is None else SHORTCUT
        for path, block in modules(module, "ResnetBlock2D")
    }
    found |= {path: BYPASS for path, block in modules(module, "Attention") if block.residual_connection}
    return found | {
        path: BYPASS for path, _ in modules(module, "Transformer2DModel", "BasicTransformerBlock")
    }


UNET = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (16, 32),
    "norm_num_groups": 4,
}
DENOISERS = (
    _diffusers(
        "unet2d", lambda d: d.UNet2DModel(**UNET, **_blocks("AttnDownBlock2D", "AttnUpBlock2D")), _unet
    ),
    _diffusers(
        "unet2d conditioned",
        lambda d: d.UNet2DConditionModel(
            **UNET, **_blocks("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=16
        ),
        _unet,
        lambda: torch.randn(1, 5, 16),
    ),
    _diffusers(
        "diffusers dit",
        lambda d: d.DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            num_layers=2,
            sample_size=16,
            norm_num_groups=4,
        ),
        every("BasicTransformerBlock"),
        lambda: torch.tensor([5]),
    ),
)


def _blocks(down: str, up: str) -> dict[str, Any]:
    return {"down_block_types": ("DownBlock2D", down), "up_block_types": (up, "UpBlock2D")}


MORE = (*TRANSFORMERS, *(DENOISERS if find_spec("diffusers") else ()))
