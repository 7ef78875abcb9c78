"""From token ids to vectors."""

import sys

import torch
from torch import Tensor, nn

from minitransformer.config import TokenEmbeddingConfig
from minitransformer.errors import InputError
from minitransformer.modules.norm import LayerNorm
from minitransformer.modules.positions import consecutive, lookup, positions
from minitransformer.ops import BOOKS, Book


class TokenEmbedding(nn.Module):
    """token · scale (+ type) + position, then perhaps a LayerNorm. Vaswani et al. 2017, section 3.4."""

    book: Book = BOOKS["fused"]

    def __init__(self, config: TokenEmbeddingConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = lookup(config.vocab_size, config.d_model)
        self.types = lookup(config.type_vocab_size, config.d_model) if config.token_types == "learned" else None
        self.positions = positions(config)
        self.norm = None if config.norm_eps is None else LayerNorm(config.d_model, config.norm_eps)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        past: int = 0,
    ) -> Tensor:
        """All int [B T] -> [B T D]. Types default to 0, positions to `past`, `past` + 1, …"""
        check_ids("input_ids", input_ids, self.config.vocab_size)
        x = self.tokens(input_ids) * self.config.scale  # [B T D]
        x = self.add_types(x, token_type_ids)
        x = self.add_positions(x, position_ids, past)
        if self.norm is not None:
            x = self.norm(x)
        return self.book.drop(x, self.config.dropout if self.training else 0.0)

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

    def add_positions(self, x: Tensor, position_ids: Tensor | None, past: int) -> Tensor:
        """Add the vector of each token's place. [B T D] -> [B T D]."""
        if position_ids is None:
            length, limit = past + x.shape[1], self.config.max_positions
            if limit is not None and length > limit:
                raise InputError(
                    f"input_ids: got a sequence of {length} tokens, but the model has {limit} positions; "
                    f"cut the text: tokenizer(text, truncation=True, max_length={limit})"
                )
            position_ids = consecutive(x.shape[1], past=past, device=x.device)  # [1 T]
        else:
            check_ids("position_ids", position_ids, self.config.max_positions or sys.maxsize, like=x)
        return x + self.positions(position_ids).to(x.dtype)


def check_ids(name: str, ids: Tensor, size: int, *, like: Tensor | None = None) -> None:
    """Raise an InputError unless `ids` are whole numbers from 0 to size - 1, [B T] like the tokens of `like`.

    On a GPU only the shape is checked: reading the values would make the host wait for it.
    """
    if ids.ndim != 2 or ids.numel() == 0:
        raise InputError(f"{name}: got shape {list(ids.shape)}, expected [batch, tokens] with at least one token")
    if ids.dtype not in (torch.int64, torch.int32):
        raise InputError(f"{name}: got {ids.dtype}, expected int64 ids")
    if like is not None and (ids.shape[1] != like.shape[1] or ids.shape[0] not in (1, like.shape[0])):
        raise InputError(f"{name}: got shape {list(ids.shape)}, expected {list(like.shape[:2])}, that of input_ids")
    if ids.device.type != "cpu":
        return
    low, high = (int(x) for x in ids.aminmax())
    if low < 0 or high >= size:
        row, column = (int(x) for x in ((ids < 0) | (ids >= size)).nonzero()[0])
        raise InputError(
            f"{name}: got {int(ids[row, column])} at row {row}, position {column}, expected 0 to {size - 1}; "
            f"does the tokenizer belong to this model?"
        )
