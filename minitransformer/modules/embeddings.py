"""From token ids, or from pixels, to vectors."""

import sys
import warnings

import torch
from torch import Tensor, nn

from minitransformer.config import PatchEmbeddingConfig, TokenEmbeddingConfig
from minitransformer.errors import InputError
from minitransformer.modules.norm import LayerNorm
from minitransformer.modules.positions import consecutive, lookup, positions
from minitransformer.ops import BOOKS, Book


class TokenEmbedding(nn.Module):
    """token · scale (+ type) (+ position), perhaps a LayerNorm, perhaps a projection. Vaswani et al. 2017, section 3.4.

    `tokens`: the table of another embedding, where the two share it.
    """

    book: Book = BOOKS["fused"]

    def __init__(self, config: TokenEmbeddingConfig, tokens: nn.Embedding | None = None) -> None:
        super().__init__()
        self.config = config
        self.tokens = lookup(config.vocab_size, config.d_table) if tokens is None else tokens
        self.types = lookup(config.type_vocab_size, config.d_table) if config.token_types == "learned" else None
        self.positions = positions(config)
        self.norm = None if config.norm_eps is None else LayerNorm(config.d_table, config.norm_eps)
        self.proj = None if config.d_embed is None else nn.Linear(config.d_embed, config.d_model)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        past: int = 0,
    ) -> Tensor:
        """All int [B T] -> [B T D]. Types default to 0, positions to `past`, `past` + 1, … as the config counts."""
        check_ids("input_ids", input_ids, self.config.vocab_size)
        x = self.tokens(input_ids) * self.config.scale  # [B T D]
        x = self.add_types(x, token_type_ids)
        x = self.add_positions(x, input_ids, position_ids, past)
        if self.norm is not None:
            x = self.norm(x)
        x = self.book.drop(x, self.config.dropout if self.training else 0.0)
        return x if self.proj is None else self.proj(x)

    def add_types(self, x: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Add the vector of each token's segment (first sentence 0, second 1). [B T D] -> [B T D]."""
        if self.types is not None:
            if token_type_ids is None:
                token_type_ids = torch.zeros(x.shape[:2], dtype=torch.int64, device=x.device)
            check_ids("token_type_ids", token_type_ids, self.config.type_vocab_size, like=x)
            return x + self.types(token_type_ids)
        if token_type_ids is None:
            return x
        if self.config.token_types != "tokens":
            raise InputError("token_type_ids: this model has no token types; leave them out")
        check_ids("token_type_ids", token_type_ids, self.config.vocab_size, like=x)
        return x + self.tokens.weight[token_type_ids]

    def add_positions(self, x: Tensor, input_ids: Tensor, position_ids: Tensor | None, past: int) -> Tensor:
        """Add the vector of each token's place. [B T D] -> [B T D]. `position_ids` are rows of the table."""
        if position_ids is None:
            position_ids = self.default_positions(input_ids, past)
        else:
            check_ids("position_ids", position_ids, self.config.max_positions or sys.maxsize, like=x)
        return x if self.positions is None else x + self.positions(position_ids).to(x.dtype)

    def default_positions(self, input_ids: Tensor, past: int) -> Tensor:
        """Each token's row in the table of positions. int [B T] -> int [B|1 T]."""
        offset, skipped = self.config.position_offset, self.config.skips_id
        if skipped is None:
            self.check_length(past + input_ids.shape[1])
            return consecutive(input_ids.shape[1], past=past, device=input_ids.device) + offset  # [1 T]
        real = input_ids != skipped  # [B T]
        if past + input_ids.shape[1] > (self.config.max_length or sys.maxsize):
            self.check_length(past + int(real.sum(1).max()))
        # The nth token that counts stands in row offset + n - 1, all that do not in the row before the first.
        return (real.cumsum(1) + past) * real + offset - 1  # [B T]

    def check_length(self, length: int) -> None:
        """An InputError for a text that is longer than the table; a warning where there is none to run out of."""
        limit = self.config.max_length
        if limit is None or length <= limit:
            return
        cut = f"cut the text: tokenizer(text, truncation=True, max_length={limit})"
        if self.positions is not None:
            raise InputError(
                f"input_ids: got a sequence of {length} tokens, but the model has {limit} positions; {cut}"
            )
        warnings.warn(f"got {length} tokens, but the model was trained on texts of up to {limit}; {cut}", stacklevel=2)


class PatchEmbedding(nn.Module):
    """The class token and the projected patches of an image, each with its position. Dosovitskiy et al. 2020, eq. 1."""

    book: Book = BOOKS["fused"]

    def __init__(self, config: PatchEmbeddingConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = Patches(config)
        self.class_token = nn.Parameter(torch.zeros(config.d_model))
        self.distillation_token = nn.Parameter(torch.zeros(config.d_model)) if config.special_tokens == 2 else None
        self.positions = PatchPositions(config)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values float [B C height width] -> [B T D]: T = special tokens + patches, row by row."""
        expected = [self.config.channels, *self.config.image_size]
        if pixel_values.ndim != 4 or list(pixel_values.shape[1:]) != expected or not pixel_values.is_floating_point():
            raise InputError(
                f"pixel_values: got {pixel_values.dtype} {list(pixel_values.shape)}, expected floats of shape "
                f"[batch, {', '.join(map(str, expected))}]; model.image_processor(image) gives them"
            )
        x = self.patches(pixel_values.to(self.class_token.dtype))  # [B N D]
        special = (self.class_token, self.distillation_token)
        before = [token.expand(x.shape[0], 1, -1) for token in special if token is not None]  # [B 1 D] each
        x = torch.cat((*before, x), dim=1)  # [B T D]
        x = x + self.positions()  # [B T D]
        return self.book.drop(x, self.config.dropout if self.training else 0.0)


class Patches(nn.Module):
    """One linear projection for all patches. [B C height width] -> [B N D]."""

    book: Book = BOOKS["fused"]

    def __init__(self, config: PatchEmbeddingConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.d_model, config.channels, *config.patch_size))
        self.bias = nn.Parameter(torch.zeros(config.d_model))

    def forward(self, images: Tensor) -> Tensor:
        """See `by_hand.patches`."""
        return self.book.patches(images, self.weight, self.bias)


class PatchPositions(nn.Module):
    """A learned vector for each place of an image, special tokens first."""

    def __init__(self, config: PatchEmbeddingConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.length, config.d_model))

    def forward(self) -> Tensor:
        """-> [1 T D]: all images have the same places. A copy: who looks inside may change it where it lies."""
        return self.weight[None].clone()


def check_ids(name: str, ids: Tensor, size: int, *, like: Tensor | None = None) -> None:
    """Raise an InputError unless `ids` are whole numbers from 0 to size - 1, [B T] like the tokens of `like`.

    On a GPU, and in a compiled model, only the shape is checked: reading the values would make the host wait for it.
    """
    if ids.ndim != 2 or ids.numel() == 0:
        raise InputError(f"{name}: got shape {list(ids.shape)}, expected [batch, tokens] with at least one token")
    if ids.dtype not in (torch.int64, torch.int32):
        raise InputError(f"{name}: got {ids.dtype}, expected int64 ids")
    if like is not None and (ids.shape[1] != like.shape[1] or ids.shape[0] not in (1, like.shape[0])):
        raise InputError(f"{name}: got shape {list(ids.shape)}, expected {list(like.shape[:2])}, that of input_ids")
    if ids.device.type != "cpu" or torch.compiler.is_compiling():
        return
    low, high = (int(x) for x in ids.aminmax())
    if low < 0 or high >= size:
        row, column = (int(x) for x in ((ids < 0) | (ids >= size)).nonzero()[0])
        raise InputError(
            f"{name}: got {int(ids[row, column])} at row {row}, position {column}, expected 0 to {size - 1}; "
            f"does the tokenizer belong to this model?"
        )
