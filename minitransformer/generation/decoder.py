"""A decoder in the middle of a text: the prompt in one pass, then token after token."""

from contextlib import nullcontext

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.generation.flat import flat
from minitransformer.model import Transformer
from minitransformer.model.evaluation import evaluation
from minitransformer.modules import KVCache, TokenEmbedding
from minitransformer.modules.masks import padding_mask, self_attention_mask
from minitransformer.modules.positions import consecutive


class Decoder:
    """What a model makes of the texts so far, and of each token that is added.

    attention_mask int [B T]: 0 where the prompt is padded, on the left; None where nothing is. memory [B S D] and
    memory_mask [B S]: the encoder's output, and 0 for its padding. room: how many tokens are expected. Without a cache,
    each step reads the whole text again.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        attention_mask: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        room: int = 0,
        use_cache: bool = True,
    ) -> None:
        embed = model.target_embed or model.embed
        if model.decoder is None or not isinstance(embed, TokenEmbedding):
            raise InputError("generate: this model has no decoder")
        self.model, self.stack = model, model.decoder
        self.attention_mask = attention_mask
        self.memory, self.memory_mask = memory, memory_mask
        self.cache = KVCache.empty(layers=len(self.stack.blocks), room=room) if use_cache else None
        self.ids: Tensor | None = None  # what was read, where there is no cache
        self.next_row: Tensor | None = None  # int [B|1 1], the position of the next token
        self.flat_embed, self.flat_stack, self.flat_head = flat(embed), flat(self.stack), flat(model.projection())
        self.flat_memory_mask = padding_mask(memory_mask)  # [B 1 1 S]

    @torch.inference_mode()
    def read(self, ids: Tensor) -> Tensor:
        """Read the prompt, int [B T], or each text's next token, [B 1]. -> the following's logits, float32 [B V]."""
        with evaluation(self.model) if self.model.training else nullcontext():
            return self._logits(ids).float()

    def _logits(self, ids: Tensor) -> Tensor:
        if self.cache is None:
            if self.ids is not None:
                ids = torch.cat((self.ids, ids), dim=1)
                self._lengthen_mask()
            self.ids = ids
            return self._read_all(ids)
        if self.cache.length == 0:
            return self._read_all(ids)
        self._lengthen_mask()
        return self._read_one(ids, self.cache)

    @torch.inference_mode()
    def repeat(self, times: int) -> None:
        """Go on with each text as often as that, side by side: B texts become B · times."""
        if self.cache is not None and self.cache.self_attn[0].keys is not None:
            rows = torch.arange(len(self.cache.self_attn[0].keys), device=self.cache.self_attn[0].keys.device)
            self.cache.select(rows.repeat_interleave(times))
        for name in ("ids", "attention_mask", "memory", "memory_mask", "flat_memory_mask", "next_row"):
            x: Tensor | None = getattr(self, name)
            if x is not None and (name != "next_row" or len(x) > 1):
                setattr(self, name, x.repeat_interleave(times, dim=0))

    @torch.inference_mode()
    def reorder(self, rows: Tensor) -> None:
        """Go on from the texts `rows`, int [B], each of which shares its prompt with the text whose place it takes."""
        if self.ids is not None:
            self.ids = self.ids[rows]
        if self.cache is not None:  # all beams of a prompt attend to the same memory, which stays where it is
            for kept in self.cache.self_attn:
                kept.select(rows)

    def _lengthen_mask(self) -> None:
        """One more token that is no padding."""
        if self.attention_mask is not None:
            ones = self.attention_mask.new_ones(len(self.attention_mask), 1)
            self.attention_mask = torch.cat((self.attention_mask, ones), dim=1)  # [B T+1]

    def _read_all(self, ids: Tensor) -> Tensor:
        """A pass over the whole text: [B T] -> [B V]."""
        rows = positions(self.model, ids, self.attention_mask)
        self.next_row = None if rows is None else rows[:, -1:] + 1
        hidden = self.model.decode(
            ids,
            self.attention_mask,
            position_ids=rows,
            memory=self.memory,
            memory_mask=self.memory_mask,
            cache=self.cache,
        )
        return self.model.token_logits(hidden[:, -1:])[:, -1]

    def _read_one(self, ids: Tensor, cache: KVCache) -> Tensor:
        """The same for one further token, [B 1] -> [B V], with nothing between the kernels."""
        row = self.next_row
        self.next_row = None if row is None else row + 1
        mask = self_attention_mask(
            self.attention_mask,
            causal=True,
            window=self.stack.config.window,
            queries=1,
            past=cache.length,
            device=ids.device,
        )
        x = self.flat_embed(ids, position_ids=row)  # [B 1 D]
        hidden = self.flat_stack(
            x[0, 0] if len(x) == 1 and not torch.is_autocast_enabled(x.device.type) else x,  # one text: a vector
            mask=mask,
            position_ids=row,
            memory=self.memory,
            memory_mask=self.flat_memory_mask,
            cache=cache,
        )
        return self.flat_head(hidden, self.model.table()).view(len(ids), -1)


def positions(model: Transformer, ids: Tensor, attention_mask: Tensor | None) -> Tensor | None:
    """The position of each token, int [B|1 T]: the first one after the padding has the first. None: the model has none.

    They are rows of the table of positions, where there is one.
    """
    embed = model.target_embed or model.embed
    rotary = model.decoder is not None and model.decoder.config.rotary_theta is not None
    if not isinstance(embed, TokenEmbedding) or (embed.positions is None and not rotary):
        return None
    if attention_mask is None:
        return consecutive(ids.shape[1], past=0, device=ids.device) + embed.config.position_offset  # [1 T]
    return (attention_mask.cumsum(1) - 1).clamp(min=0) + embed.config.position_offset  # [B T]
