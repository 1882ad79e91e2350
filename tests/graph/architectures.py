"""The architectures of the ground truth, each with the modules that are its residual blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ground_truth import (
    BYPASS,
    SHORTCUT,
    Architecture,
    Built,
    Expected,
    Feature,
    Seq2Seq,
    downsampled,
    every,
    flagged,
    hand_made,
    image,
    modules,
    none,
    paths,
    timm_net,
    tokens,
    tokens_and_mask,
    torchvision_net,
    transformer,
)
from torch import nn

SMALL_TEXT = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "attn_implementation": "eager",
}
SMALL_IMAGE = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


def _vit() -> Built:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 2, 2, 32, 64), image(32)


def _swin(version: int) -> Callable[[], Built]:
    def build() -> Built:
        from functools import partial

        from torchvision.models import swin_transformer as swin

        options: dict[str, Any] = {}
        if version == 2:
            options = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
        options["norm_layer"] = partial(nn.LayerNorm, eps=1e-5)
        return swin.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], **options), image(64)

    return build


def _regnet() -> Callable[[nn.Module], Expected]:
    return lambda module: {
        path: SHORTCUT if child.proj is not None else BYPASS
        for path, child in modules(module, "ResBottleneckBlock")
    }


def _mnasnet(module: nn.Module) -> Expected:
    return {path: BYPASS for path, child in modules(module, "_InvertedResidual") if child.apply_residual}


def _timm_inverted(module: nn.Module) -> Expected:
    kinds = ("InvertedResidual", "DepthwiseSeparableConv", "EdgeResidual", "ConvBnAct")
    return {path: BYPASS for path, child in modules(module, *kinds) if child.has_skip}


def _preact(module: nn.Module) -> Expected:
    return {
        path: BYPASS if child.shortcut is None else SHORTCUT for path, child in modules(module, "PreActBlock")
    }


def _projected(kind: str, by: str) -> Callable[[nn.Module], Expected]:
    return lambda module: {
        path: SHORTCUT if isinstance(getattr(child, by), nn.Conv2d) else BYPASS
        for path, child in modules(module, kind)
    }


def _pyramid() -> Built:
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    return Feature(resnet_fpn_backbone(backbone_name="resnet18", weights=None)), image(64)


def _lraspp() -> Built:
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    return Feature(lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)), image(64)


def _bart(transformers: Any) -> Any:
    return transformers.BartConfig(
        vocab_size=50,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=40,
    )


def _dla(module: nn.Module) -> Expected:
    """A block of a tree takes its skip from its parent, which projects it for the first block where sizes change."""
    blocks = [path for path, _ in modules(module, "DlaBasic")]
    projected = {
        f"{path}.tree1"
        for path, tree in modules(module, "DlaTree")
        if isinstance(tree.project, nn.Sequential)
    }
    return {path: SHORTCUT if path in projected else BYPASS for path in blocks}


TORCHVISION = (
    Architecture("resnet18", torchvision_net("resnet18"), downsampled("BasicBlock"), fast=True),
    Architecture("resnet50", torchvision_net("resnet50"), downsampled("Bottleneck")),
    Architecture("resnext50", torchvision_net("resnext50_32x4d"), downsampled("Bottleneck")),
    Architecture(
        "mobilenet_v2",
        torchvision_net("mobilenet_v2"),
        flagged("InvertedResidual", flag="use_res_connect"),
        fast=True,
    ),
    Architecture(
        "mobilenet_v3",
        torchvision_net("mobilenet_v3_small"),
        flagged("InvertedResidual", flag="use_res_connect"),
    ),
    Architecture("mnasnet", torchvision_net("mnasnet0_5"), _mnasnet),
    Architecture(
        "efficientnet_b0", torchvision_net("efficientnet_b0"), flagged("MBConv", flag="use_res_connect")
    ),
    Architecture(
        "efficientnet_v2",
        torchvision_net("efficientnet_v2_s"),
        flagged("MBConv", "FusedMBConv", flag="use_res_connect"),
    ),
    Architecture("regnet_y", torchvision_net("regnet_y_400mf"), _regnet()),
    Architecture("convnext", torchvision_net("convnext_tiny"), every("CNBlock")),
    Architecture("vit", _vit, paths("encoder.layers.encoder_layer_{}", 2)),
    Architecture("swin", _swin(1), every("SwinTransformerBlock")),
    Architecture("swin_v2", _swin(2), every("SwinTransformerBlockV2")),
    Architecture("densenet121", torchvision_net("densenet121"), none),
    Architecture("googlenet", torchvision_net("googlenet", aux_logits=False, init_weights=False), none),
    Architecture("fpn_backbone", _pyramid, downsampled("BasicBlock")),
    Architecture("lraspp", _lraspp, flagged("InvertedResidual", flag="use_res_connect")),
    Architecture("shufflenet", torchvision_net("shufflenet_v2_x0_5"), none),
    Architecture("squeezenet", torchvision_net("squeezenet1_1"), none),
)


TIMM = (
    Architecture("seresnet18", timm_net("legacy_seresnet18"), downsampled("SEResNetBlock")),
    Architecture("resnet_d", timm_net("seresnext26d_32x4d"), downsampled("Bottleneck")),
    Architecture("skresnet18", timm_net("skresnet18"), downsampled("SelectiveKernelBasic")),
    Architecture(
        "resnet_v2",
        timm_net("resnetv2_50", layers=(2, 2, 1, 1), channels=(32, 32, 64, 64), stem_chs=16),
        downsampled("PreActBottleneck"),
    ),
    Architecture("timm_efficientnet", timm_net("efficientnet_lite0"), _timm_inverted),
    Architecture("timm_mobilenet_v3", timm_net("mobilenetv3_small_050"), _timm_inverted),
    Architecture("timm_convnext", timm_net("convnext_atto"), every("ConvNeXtBlock")),
    Architecture("deit", timm_net("deit_tiny_patch16_224", img_size=64, depth=2), paths("blocks.{}", 2)),
    Architecture(
        "timm_swin",
        timm_net(
            "swin_tiny_patch4_window7_224", 56, img_size=56, depths=(2, 2), num_heads=(3, 6), embed_dim=24
        ),
        every("SwinTransformerBlock"),
    ),
    Architecture("mixer", timm_net("mixer_s16_224", img_size=64), every("MixerBlock")),
    Architecture("poolformer", timm_net("poolformer_s12"), every("MetaFormerBlock")),
    Architecture("regnet_x", timm_net("regnetx_002"), downsampled("Bottleneck")),
    Architecture(
        "ghostnet",
        timm_net("ghostnet_050"),
        lambda m: {p: BYPASS if len(c.shortcut) == 0 else SHORTCUT for p, c in modules(m, "GhostBottleneck")},
    ),
    Architecture("dla34", timm_net("dla34"), _dla),
    Architecture("hrnet", timm_net("hrnet_w18_small"), downsampled("BasicBlock", "Bottleneck")),
    Architecture("res2net", timm_net("res2net50_14w_8s"), downsampled("Bottle2neck")),
)

TRANSFORMERS = (
    Architecture(
        "bert",
        transformer(lambda t: t.BertModel(t.BertConfig(**SMALL_TEXT)), tokens_and_mask),
        every("BertLayer"),
    ),
    Architecture(
        "roberta",
        transformer(lambda t: t.RobertaModel(t.RobertaConfig(**SMALL_TEXT)), tokens_and_mask),
        every("RobertaLayer"),
    ),
    Architecture(
        "distilbert",
        transformer(
            lambda t: t.DistilBertModel(
                t.DistilBertConfig(
                    vocab_size=50, dim=32, hidden_dim=48, n_layers=2, n_heads=2, max_position_embeddings=40
                )
            ),
            tokens_and_mask,
        ),
        every("TransformerBlock"),
    ),
    Architecture(
        "gpt2",
        transformer(
            lambda t: t.GPT2Model(
                t.GPT2Config(
                    vocab_size=50,
                    n_positions=40,
                    n_embd=32,
                    n_layer=2,
                    n_head=2,
                    use_cache=False,
                    attn_implementation="eager",
                )
            ),
            tokens,
        ),
        every("GPT2Block"),
        exporters=("dynamo",),
    ),
    Architecture(
        "llama",
        transformer(
            lambda t: t.LlamaModel(t.LlamaConfig(**SMALL_TEXT, num_key_value_heads=1, use_cache=False)),
            tokens,
        ),
        every("LlamaDecoderLayer"),
        exporters=("dynamo",),
    ),
    Architecture(
        "hf_vit",
        transformer(lambda t: t.ViTModel(t.ViTConfig(**SMALL_IMAGE)), lambda: image(32)),
        every("ViTLayer"),
    ),
    Architecture(
        "hf_swin",
        transformer(
            lambda t: t.SwinModel(
                t.SwinConfig(
                    image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4
                )
            ),
            lambda: image(32),
        ),
        every("SwinLayer"),
    ),
    Architecture(
        "hf_convnext",
        transformer(
            lambda t: t.ConvNextModel(t.ConvNextConfig(hidden_sizes=[8, 16], depths=[2, 2], num_stages=2)),
            lambda: image(32),
        ),
        every("ConvNextLayer"),
    ),
    Architecture(
        "t5",
        transformer(
            lambda t: t.T5EncoderModel(
                t.T5Config(
                    vocab_size=50, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, use_cache=False
                )
            ),
            tokens,
        ),
        every("T5LayerSelfAttention", "T5LayerFF"),
    ),
    # One layer called twice: the second call is a block of its own, with a number after its name.
    Architecture(
        "albert",
        transformer(lambda t: t.AlbertModel(t.AlbertConfig(**SMALL_TEXT, embedding_size=16)), tokens),
        lambda m: {path + call: BYPASS for path, _ in modules(m, "AlbertLayer") for call in ("", "_2")},
    ),
    Architecture(
        "bart",
        transformer(lambda t: t.BartModel(_bart(t)), lambda: (*tokens(), *tokens(9)), Seq2Seq),
        every("BartEncoderLayer", "BartDecoderLayer"),
    ),
    Architecture(
        "gpt_neox",
        transformer(lambda t: t.GPTNeoXModel(t.GPTNeoXConfig(**SMALL_TEXT, use_cache=False)), tokens),
        every("GPTNeoXLayer"),
        exporters=("dynamo",),
    ),
    Architecture(
        "gemma2",
        transformer(
            lambda t: t.Gemma2Model(
                t.Gemma2Config(**SMALL_TEXT, num_key_value_heads=1, head_dim=16, use_cache=False)
            ),
            tokens,
        ),
        every("Gemma2DecoderLayer"),
        exporters=("dynamo",),
    ),
    Architecture(
        "segformer",
        transformer(
            lambda t: t.SegformerModel(
                t.SegformerConfig(
                    hidden_sizes=[8, 16, 16, 32], depths=[1, 2, 1, 1], num_attention_heads=[1, 1, 2, 2]
                )
            ),
            lambda: image(64),
        ),
        every("SegformerLayer"),
    ),
    Architecture(
        "wav2vec2_conformer",
        transformer(
            lambda t: t.Wav2Vec2ConformerModel(
                t.Wav2Vec2ConformerConfig(
                    hidden_size=32,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    intermediate_size=48,
                    conv_dim=(8, 8),
                    conv_stride=(5, 2),
                    conv_kernel=(10, 3),
                    num_conv_pos_embeddings=4,
                    num_conv_pos_embedding_groups=2,
                    position_embeddings_type="relative",
                )
            ),
            lambda: (torch.randn(1, 800),),
        ),
        every("Wav2Vec2ConformerEncoderLayer"),
    ),
)

HAND_MADE = (
    Architecture(
        "plain_cnn",
        hand_made("PlainCnn", lambda: image(16, 1)),
        lambda m: {"block1": BYPASS, "block2": SHORTCUT},
        fast=True,
    ),
    Architecture("preact_resnet", hand_made("PreActResNet", lambda: image(16)), _preact, fast=True),
    Architecture(
        "padded_resnet",
        hand_made("PaddedResNet", lambda: image(16)),
        lambda m: {"layer1.0": BYPASS, "layer1.1": BYPASS, "layer2.0": SHORTCUT, "layer2.1": BYPASS},
    ),
    Architecture(
        "yolo",
        hand_made("Yolo", lambda: image(32)),
        lambda m: {"stage1.m.0": BYPASS, "stage1.m.1": BYPASS, "stage2.m.0": BYPASS},
        fast=True,
    ),
    Architecture(
        "dit",
        hand_made("DiT", lambda: (torch.randn(1, 4, 8, 8), torch.randn(1, 16), torch.randint(0, 10, (1,)))),
        paths("blocks.{}", 3),
    ),
    Architecture(
        "conformer", hand_made("Conformer", lambda: (torch.randn(1, 12, 20),)), paths("layers.{}", 2)
    ),
    Architecture(
        "unet",
        hand_made("UNet", lambda: (torch.randn(1, 3, 16, 16), torch.randn(1, 8))),
        _projected("TimeBlock", "skip"),
    ),
    Architecture(
        "linknet",
        hand_made("LinkNet", lambda: image(16)),
        lambda m: {"enc1": BYPASS, "enc2": SHORTCUT, "enc3": SHORTCUT},
    ),
    Architecture(
        "feature_pyramid",
        hand_made("FeaturePyramid", lambda: image(16)),
        lambda m: {"c2": BYPASS, "c3": SHORTCUT, "c4": SHORTCUT},
    ),
    Architecture(
        "temporal",
        hand_made("TemporalNet", lambda: (torch.randn(1, 4, 40),)),
        paths("blocks.{}", 3, SHORTCUT),
    ),
    Architecture("parallel", hand_made("ParallelDecoder", tokens), paths("blocks.{}", 2)),
    Architecture("gru", hand_made("PlainGru", lambda: (torch.randn(1, 3, 8), torch.randn(1, 8))), none),
    Architecture("dense", hand_made("DenseNet", lambda: image(16)), none, fast=True),
)

ARCHITECTURES = (*TORCHVISION, *TIMM, *TRANSFORMERS, *HAND_MADE)
