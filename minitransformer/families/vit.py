"""ViT and DeiT. Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words"; Touvron et al. 2020, "DeiT"."""

import re
from collections.abc import Sequence
from dataclasses import replace

from minitransformer.config import (
    Biased,
    ClassificationConfig,
    DistilledClassificationConfig,
    HeadConfig,
    PatchEmbeddingConfig,
    StackConfig,
    TransformerConfig,
)
from minitransformer.families.fields import Raw, activation, flag, num_labels, number, refuse, two_wholes, whole
from minitransformer.families.rules import Alias, Family, Ignore, Map, Rule


def config(raw: Raw, head: str, special_tokens: int = 1) -> TransformerConfig:
    """config.json and a head's name, in our terms."""
    d_model, dropout = whole(raw, "hidden_size"), number(raw, "hidden_dropout_prob", 0.0)
    refuse(raw, {"pooler_output_size": (d_model, None)})
    biases: tuple[Biased, ...] = ("qkv", "o", "ffn") if flag(raw, "qkv_bias", default=True) else ("o", "ffn")
    return TransformerConfig(
        embed=PatchEmbeddingConfig(
            d_model=d_model,
            image_size=two_wholes(raw, "image_size", 224),
            patch_size=two_wholes(raw, "patch_size", 16),
            channels=whole(raw, "num_channels", 3),
            special_tokens=special_tokens,
            dropout=dropout,
        ),
        encoder=StackConfig(
            layers=whole(raw, "num_hidden_layers"),
            d_model=d_model,
            heads=whole(raw, "num_attention_heads"),
            d_ffn=whole(raw, "intermediate_size"),
            norm_order="pre",
            norm_eps=number(raw, "layer_norm_eps", 1e-12),
            final_norm=True,
            activation=activation(raw, "hidden_act", "gelu"),
            causal=False,
            biases=biases,
            dropout=dropout,
            ffn_dropout=dropout,
            attention_dropout=number(raw, "attention_probs_dropout_prob", 0.0),
        ),
        head=_head(raw, head),
        pooler=head == "base",
    )


def deit_config(raw: Raw, head: str) -> TransformerConfig:
    """The same with a distillation token behind the class token."""
    return config(raw, head, special_tokens=2)


def _head(raw: Raw, head: str) -> HeadConfig | None:
    match head:
        case "image-classification":
            return ClassificationConfig(task=head, num_labels=num_labels(raw), reads="first_token")
        case "image-classification-with-teacher":
            return DistilledClassificationConfig(num_labels=num_labels(raw))
    return None


def rules(config: TransformerConfig) -> Sequence[Rule]:
    """The names of a ViT or DeiT file."""
    layer, ours = "encoder.layer.{i}", "encoder.layers.{i}"
    classifier = "cls_classifier" if isinstance(config.head, DistilledClassificationConfig) else "classifier"
    return [
        Map("embeddings.cls_token", "embed.class_token", ones=2),
        Map("embeddings.distillation_token", "embed.distillation_token", ones=2),
        Map("embeddings.position_embeddings", "embed.positions.weight", ones=1),
        Map("embeddings.patch_embeddings.projection.{wb}", "embed.patches.{wb}"),
        Map(f"{layer}.layernorm_before.{{wb}}", f"{ours}.self_attn_norm.{{wb}}"),
        Map(f"{layer}.attention.attention.query.{{wb}}", f"{ours}.self_attn.q.{{wb}}"),
        Map(f"{layer}.attention.attention.key.{{wb}}", f"{ours}.self_attn.k.{{wb}}"),
        Map(f"{layer}.attention.attention.value.{{wb}}", f"{ours}.self_attn.v.{{wb}}"),
        Map(f"{layer}.attention.output.dense.{{wb}}", f"{ours}.self_attn.o.{{wb}}"),
        Map(f"{layer}.layernorm_after.{{wb}}", f"{ours}.ffn_norm.{{wb}}"),
        Map(f"{layer}.intermediate.dense.{{wb}}", f"{ours}.ffn.up.{{wb}}"),
        Map(f"{layer}.output.dense.{{wb}}", f"{ours}.ffn.down.{{wb}}"),
        Map("layernorm.{wb}", "encoder.final_norm.{wb}"),
        Map("pooler.dense.{wb}", "pooler.{wb}"),
        Map(f"{classifier}.{{wb}}", "head.cls.{wb}"),
        Map("distillation_classifier.{wb}", "head.distillation.{wb}"),
        *IN_MEMORY,
        Ignore(r"embeddings\.mask_token$", "for pretraining by masked patches"),
        Ignore(r"^(\w+\.)?pooler\.", "this head does not read the pooler"),
        Ignore(r"^(classifier|cls_classifier|distillation_classifier|decoder)\.", "belongs to another head"),
    ]


# transformers has one spelling in files and another in memory, and reads both.
PARTS_IN_MEMORY = {
    ".attention.attention.query.": ".attention.q_proj.",
    ".attention.attention.key.": ".attention.k_proj.",
    ".attention.attention.value.": ".attention.v_proj.",
    ".attention.output.dense.": ".attention.o_proj.",
    ".intermediate.dense.": ".mlp.fc1.",
    ".output.dense.": ".mlp.fc2.",
}
IN_MEMORY: list[Rule] = [
    Alias(r"^(\w+\.)?layers\.", r"\1encoder.layer."),
    *(Alias(re.escape(there), part) for part, there in PARTS_IN_MEMORY.items()),
]

VIT = Family(
    model_type="vit",
    differs="pre-norm encoder of image patches behind a class token, learned positions",
    image_processor="ViTImageProcessor",
    prefix="vit.",
    classes={"base": "ViTModel", "image-classification": "ViTForImageClassification"},
    config=config,
    rules=rules,
    refuses={"pooler_act": ("tanh", None), "head_dim": (None,)},
    in_memory={"encoder.layer.": "layers.", **PARTS_IN_MEMORY},
)
DEIT = replace(
    VIT,
    model_type="deit",
    image_processor="DeiTImageProcessor",
    differs="ViT's with a distillation token",
    prefix="deit.",
    classes={
        "base": "DeiTModel",
        "image-classification": "DeiTForImageClassification",
        "image-classification-with-teacher": "DeiTForImageClassificationWithTeacher",
    },
    config=deit_config,
)
