"""What a capture will take, before it is taken."""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from minitransformer.config import LanguageModelConfig, PatchEmbeddingConfig, TokenEmbeddingConfig
from minitransformer.errors import InputError
from minitransformer.model.points import Point, stacks
from minitransformer.model.transformer import Transformer


def check_memory(model: Transformer, chosen: Collection[Point], batch: Mapping[str, Tensor]) -> None:
    """Raise an InputError for a capture that is larger than the memory that is free."""
    needed, free = capture_bytes(model, chosen, batch), free_memory(next(model.parameters()).device)
    if free is not None and needed > free:
        raise InputError(
            f"capturing {len(chosen)} points of this batch takes {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB "
            f"are free; give less text, or name fewer points"
        )


def free_memory(device: torch.device) -> int | None:
    """The bytes that are free there; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def capture_bytes(model: Transformer, chosen: Collection[Point], batch: Mapping[str, Tensor]) -> int:
    """How many bytes these points of this batch take."""
    dtype = next(model.parameters()).dtype
    return sum(_count(model, point, batch) for point in chosen) * dtype.itemsize


def _count(model: Transformer, point: Point, batch: Mapping[str, Tensor]) -> int:
    """How many numbers a point has: its letters, multiplied."""
    config = model.config
    read = batch.get("input_ids", batch.get("pixel_values"))
    if read is None:
        raise InputError("batch: got no input_ids and no pixel_values; model.tokenizer(text) gives a batch")
    source = config.embed.length if isinstance(config.embed, PatchEmbeddingConfig) else read.shape[-1]
    labels = batch.get("labels") if isinstance(config.head, LanguageModelConfig) else None  # read by the decoder
    written = batch.get("decoder_input_ids", labels)
    two = len(stacks(model)) == 2
    target = written.shape[-1] if two and written is not None else source
    of_decoder = two and point.name.startswith(("decoder.", "unembed."))
    stack = model.decoder if of_decoder or model.encoder is None else model.encoder
    assert stack is not None
    embed = (config.target_embed or config.embed) if of_decoder else config.embed
    sizes = {
        "B": read.shape[:-1].numel() if read.ndim < 4 else len(read),
        "T": target if of_decoder else source,
        "S": target if of_decoder and "cross" not in point.name else source,
        "D": stack.config.d_model,
        "H": stack.config.heads,
        "G": stack.config.kv_heads or stack.config.heads,
        "E": stack.config.d_head,
        "F": stack.config.d_ffn,
        "V": embed.vocab_size if isinstance(embed, TokenEmbeddingConfig) else 0,
        "W": embed.d_table if isinstance(embed, TokenEmbeddingConfig) else 0,
        "N": 0 if isinstance(embed, TokenEmbeddingConfig) else source - embed.special_tokens,
        "1": 1,
    }
    return torch.Size([sizes[letter] for letter in point.shape.split()]).numel()
