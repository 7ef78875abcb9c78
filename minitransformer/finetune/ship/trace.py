"""A model as a graph of operations, in which the batch and the lengths stay free: what an export is written from."""

import copy
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.passes import move_to_device_pass

from minitransformer.config import (
    ClassificationConfig,
    PatchEmbeddingConfig,
    QuestionAnsweringConfig,
    TokenEmbeddingConfig,
    TransformerConfig,
)
from minitransformer.errors import ConfigError
from minitransformer.model import Transformer

Inputs = Mapping[str, Tensor]
CHOICES = 3  # answers for each question, in the batches that are tried

HEADS = {
    "base", "sequence-classification", "token-classification", "image-classification", "question-answering",
    "multiple-choice", "masked-lm", "causal-lm", "seq2seq-lm",
}  # fmt: skip


class Graph(nn.Module):
    """A model whose inputs and outputs stand in a fixed order, as a graph has them."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs in the order of `input_names` -> outputs in that of `output_names`."""
        return tuple(logits_of(self.model, dict(zip(input_names(self.model.config), inputs, strict=True))).values())


def input_names(config: TransformerConfig) -> tuple[str, ...]:
    """What the model reads, as transformers calls it. Padding behind what a decoder reads needs no mask: it is causal.

    An encoder and decoder that read one text twice are given it once.
    """
    if isinstance(config.embed, PatchEmbeddingConfig):
        return ("pixel_values",)
    names = ["input_ids", "attention_mask"]
    reads_twice = isinstance(config.head, ClassificationConfig | QuestionAnsweringConfig)
    if config.embed.token_types == "learned" and config.embed.type_vocab_size > 1:
        names.append("token_type_ids")
    if config.encoder and config.decoder and not reads_twice:
        names.append("decoder_input_ids")
    return tuple(names)


def output_names(config: TransformerConfig) -> tuple[str, ...]:
    """What the model's head gives. A ConfigError for heads that nobody runs elsewhere."""
    if config.task not in HEADS and config.head is not None:
        raise ConfigError(f"export: got the head {config.task}, expected one of {', '.join(sorted(HEADS))}")
    if config.head is None:
        return ("last_hidden_state", "pooler_output") if config.pooler else ("last_hidden_state",)
    return ("start_logits", "end_logits") if isinstance(config.head, QuestionAnsweringConfig) else ("logits",)


def logits_of(model: Transformer, batch: Inputs) -> dict[str, Tensor]:
    """The model's outputs by name."""
    with torch.no_grad():
        output = model(**batch)
    return {name: getattr(output, name) for name in output_names(model.config)}


def traced(model: Transformer) -> ExportedProgram:
    """The model's graph, with its weights.

    It is traced on shapes alone, without a number in memory: so no check that looks at numbers is in the graph.
    """
    config = model.config
    shapes = copy.deepcopy(model).to("meta").eval()
    for parameter in shapes.parameters():
        parameter.requires_grad_(False)
    batch = {name: x.to("meta") for name, x in sample(config, 2, 5).items()}
    with warnings.catch_warnings(action="ignore"):  # what torch says of itself
        program = torch.export.export(
            Graph(shapes),
            tuple(batch.values()),
            dynamic_shapes={"inputs": tuple(free_axes(config, name, x) for name, x in batch.items())},
            strict=False,
        )
    weights = {f"model.{name}": x for name, x in model.state_dict(keep_vars=True).items()}
    program.state_dict.update({name: weights[name] for name in program.state_dict})
    program._example_inputs = None  # they have no numbers
    return move_to_device_pass(program, "cpu")


def free_axes(config: TransformerConfig, name: str, x: Tensor) -> dict[int, Dim]:
    """Which axes of an input may have any size: batch, choices, length."""
    if isinstance(config.embed, PatchEmbeddingConfig):
        return {0: Dim("batch")}
    decoder = name == "decoder_input_ids"
    embed = config.target_embed if decoder and config.target_embed else config.embed
    limit = embed.max_length if isinstance(embed, TokenEmbeddingConfig) else None
    length = Dim("decoder_length" if decoder else "length", **({} if limit is None else {"max": limit}))
    return {0: Dim("batch"), 1: Dim("choices"), 2: length} if x.ndim == 3 else {0: Dim("batch"), 1: length}


def sample(config: TransformerConfig, batch: int, length: int, generator: torch.Generator | None = None) -> Inputs:
    """Random inputs; of several texts, the second is padded behind, and the third before its tokens."""
    embed = config.embed
    if isinstance(embed, PatchEmbeddingConfig):
        return {"pixel_values": torch.randn(batch, embed.channels, *embed.image_size, generator=generator)}
    length = min(length, embed.max_length or length)
    shape = [batch, CHOICES, length] if config.task == "multiple-choice" else [batch, length]
    found = {"input_ids": _ids(embed.vocab_size, shape, generator)}
    found["attention_mask"] = torch.ones_like(found["input_ids"])
    found["attention_mask"][1:2, ..., (length + 1) // 2 :] = 0
    found["attention_mask"][2:3, ..., : length // 2] = 0
    found["input_ids"][found["attention_mask"] == 0] = config.pad_id or 0
    head = config.head
    if isinstance(head, ClassificationConfig) and head.reads == "last_eos" and head.token_id is not None:
        found["input_ids"][..., 0] = head.token_id  # the token that the head looks for
    names = input_names(config)
    if "token_type_ids" in names:
        found["token_type_ids"] = _ids(embed.type_vocab_size, shape, generator)
    if "decoder_input_ids" in names:
        vocabulary = config.target_embed or embed
        size = vocabulary.vocab_size if isinstance(vocabulary, TokenEmbeddingConfig) else 1
        found["decoder_input_ids"] = _ids(size, [batch, min(length + 2, embed.max_length or length + 2)], generator)
    return {name: found[name] for name in names}


def _ids(size: int, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    return torch.randint(size, tuple(shape), generator=generator)
