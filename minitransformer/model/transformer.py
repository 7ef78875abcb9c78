"""The whole model: embeddings, one stack or two, a head."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minitransformer.config import MultipleChoiceConfig, TransformerConfig
from minitransformer.errors import InputError
from minitransformer.model.capture import Seen, capture
from minitransformer.model.heads import States, head
from minitransformer.model.initialise import initialise
from minitransformer.model.stack import Stack
from minitransformer.modules import KVCache, TokenEmbedding
from minitransformer.modules.masks import check_attention_mask, padding_mask, self_attention_mask
from minitransformer.ops import BOOKS

# ids [B T], and where given their attention mask, token types and positions, all [B T]
Inputs = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]


@dataclass(kw_only=True)
class Output:
    """What a forward pass gives. What was not asked for, or does not exist in this model, is None.

    Sizes: B batch, T tokens (of the decoder, where there are two stacks), S tokens of the encoder, H heads.
    """

    loss: Tensor | None = None  # the head's sum / count
    logits: Tensor | None = None  # [B T V], [B T labels], [B labels] or [B choices]: the head says which
    prediction_logits: Tensor | None = None  # [B T V] (pretraining)
    seq_relationship_logits: Tensor | None = None  # [B 2] (pretraining)
    start_logits: Tensor | None = None  # [B T] (question answering)
    end_logits: Tensor | None = None  # [B T]
    last_hidden_state: Tensor | None = None  # [B T D], after the final norm
    pooler_output: Tensor | None = None  # [B D]
    encoder_last_hidden_state: Tensor | None = None  # [B S D] (two stacks)
    hidden_states: tuple[Tensor, ...] | None = None  # each block's input, then last_hidden_state: N + 1 × [B T D]
    attentions: tuple[Tensor, ...] | None = None  # each block's weights: N × [B H T T]
    cross_attentions: tuple[Tensor, ...] | None = None  # N × [B H T S] (two stacks)
    encoder_hidden_states: tuple[Tensor, ...] | None = None  # (two stacks)
    encoder_attentions: tuple[Tensor, ...] | None = None  # N × [B H S S] (two stacks)


class Transformer(nn.Module):
    """Vaswani et al. 2017, figure 1, or the half of it that a checkpoint is."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = TokenEmbedding(config.embed)
        self.target_embed = TokenEmbedding(config.target_embed) if config.target_embed else None
        self.encoder = Stack(config.encoder) if config.encoder else None
        self.decoder = Stack(config.decoder) if config.decoder else None
        self.pooler = nn.Linear(config.embed.d_model, config.embed.d_model) if config.pooler else None
        self.head = head(config.head, config) if config.head else None

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        cache: KVCache | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> Output:
        """All ids int [B T], masks [B S] with 1 for a token and 0 for padding; multiple choice takes [B choices T].

        With two stacks, `input_ids` go to the encoder. A `cache` is written to. Labels and positions give a loss.
        """
        source = (input_ids, attention_mask, token_type_ids, position_ids)
        choices = 1
        if input_ids.ndim == 3 and isinstance(self.config.head, MultipleChoiceConfig):
            choices, source = input_ids.shape[1], _one_text_a_row(source)  # [B·choices T]
        read = self._read_by_last_stack(source, decoder_input_ids, decoder_attention_mask, cache)
        points = ["*.hook_resid_pre"] * output_hidden_states + ["*attn.hook_pattern"] * output_attentions
        with capture(self, points) as seen:
            hidden, memory = self._through_stacks(source, read, cache)  # [B T D], [B S D]
        pooled = None if self.pooler is None else torch.tanh(self.pooler(hidden[:, 0]))  # [B D]

        output = Output(last_hidden_state=hidden, pooler_output=pooled, encoder_last_hidden_state=memory)
        _put_insides(output, seen)
        table = (self.target_embed or self.embed).tokens.weight  # [V D]
        states = States(hidden, pooled, table, ids=read[0], attention_mask=read[1], choices=choices)
        targets = {
            "labels": labels,
            "next_sentence_label": next_sentence_label,
            "start_positions": start_positions,
            "end_positions": end_positions,
        }
        self._read_head(output, states, {name: x for name, x in targets.items() if x is not None})
        return output

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """The encoder's last hidden state: ids [B S] -> [B S D]."""
        if self.encoder is None:
            raise InputError("encode: this model has no encoder")
        x = self.embed(input_ids, token_type_ids, position_ids)  # [B S D]
        check_attention_mask("attention_mask", attention_mask, batch=x.shape[0], keys=x.shape[1])
        return self.encoder(x, mask=_self_mask(x, attention_mask, causal=self.encoder.config.causal))

    def decode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """The decoder's last hidden state: ids [B T], memory [B S D], memory_mask [B S] -> [B T D].

        After a cache of P tokens, `attention_mask` is [B P+T].
        """
        if self.decoder is None:
            raise InputError("decode: this model has no decoder")
        if not self.decoder.config.cross_attention:
            _refuse("this decoder has no cross-attention", memory=memory, memory_mask=memory_mask)
        elif memory is None:
            raise InputError("memory: got none; this decoder attends to the encoder's output, encode(input_ids)")
        past = 0 if cache is None else cache.length
        x = (self.target_embed or self.embed)(input_ids, token_type_ids, position_ids, past=past)  # [B T D]
        check_attention_mask("attention_mask", attention_mask, batch=x.shape[0], keys=past + x.shape[1])
        if cache is not None:
            cache.check(layers=self.decoder.config.layers, batch=x.shape[0])
        if memory is not None:
            check_attention_mask("memory_mask", memory_mask, batch=memory.shape[0], keys=memory.shape[1])
        mask = _self_mask(x, attention_mask, causal=self.decoder.config.causal, past=past)
        return self.decoder(x, mask=mask, memory=memory, memory_mask=padding_mask(memory_mask), cache=cache)

    def use(self, book: str) -> "Transformer":
        """Compute with the formulas "by_hand" or "fused" from now on. Returns the model."""
        if book not in BOOKS:
            raise InputError(f"book: got {book!r}, expected one of {', '.join(BOOKS)}")
        for module in self.modules():
            if hasattr(module, "book"):
                module.book = BOOKS[book]  # type: ignore[assignment]
        return self

    def _read_by_last_stack(
        self,
        source: Inputs,
        decoder_input_ids: Tensor | None,
        decoder_attention_mask: Tensor | None,
        cache: KVCache | None,
    ) -> Inputs:
        """The inputs of the stack that the head stands on. An InputError for those that no stack would read."""
        if self.decoder is None:
            _refuse("this model has no decoder", cache=cache)
        if self.encoder is None or self.decoder is None:
            one_stack = "this model has one stack, which reads input_ids"
            _refuse(one_stack, decoder_input_ids=decoder_input_ids, decoder_attention_mask=decoder_attention_mask)
            return source
        if decoder_input_ids is None:
            raise InputError("decoder_input_ids: got none; a model of two stacks needs what the decoder reads")
        return decoder_input_ids, decoder_attention_mask, None, None

    def _through_stacks(self, source: Inputs, read: Inputs, cache: KVCache | None) -> tuple[Tensor, Tensor | None]:
        """The last stack's output [B T D] and, where an encoder's output was attended to, that: [B S D]."""
        if self.encoder is None:
            return self.decode(*read, cache=cache), None
        memory = self.encode(*source)
        if self.decoder is None:
            return memory, None
        return self.decode(*read, memory=memory, memory_mask=source[1], cache=cache), memory

    def _read_head(self, output: Output, states: States, targets: dict[str, Tensor]) -> None:
        """Put the head's logits, and the loss where there are targets, into `output`."""
        if self.head is None:
            if targets:
                raise InputError(f"{', '.join(targets)}: this model has no head and no loss; load it with head=...")
            return
        logits = self.head(states)
        for name, x in logits.items():
            setattr(output, name, x)
        if targets:
            total, count = self.head.loss(logits, targets)
            output.loss = total / count


def build(config: TransformerConfig, device: torch.device | str | None = None) -> Transformer:
    """An untrained model, its weights drawn from torch's global generator. On device "meta" it has shapes only."""
    with torch.device(device or torch.get_default_device()):
        model = Transformer(config)
    if torch.device(device or "cpu").type != "meta":
        initialise(model)
    return model


def _one_text_a_row(inputs: Inputs) -> Inputs:
    """Each choice as a text of its own: [B choices T] -> [B·choices T]."""
    ids, *others = inputs
    mask, types, positions = (x.flatten(0, 1) if x is not None and x.ndim == 3 else x for x in others)
    return ids.flatten(0, 1), mask, types, positions


def _refuse(why: str, **inputs: object) -> None:
    """Raise an InputError for an input that this model would leave unread."""
    for name, given in inputs.items():
        if given is not None:
            raise InputError(f"{name}: {why}; leave it out")


def _self_mask(x: Tensor, attention_mask: Tensor | None, *, causal: bool, past: int = 0) -> Tensor | None:
    return self_attention_mask(attention_mask, causal=causal, queries=x.shape[1], past=past, device=x.device)


def _put_insides(output: Output, seen: Seen) -> None:
    """Put what was captured under its name in `output`; an encoder's beside a decoder's says so in its name."""
    for prefix, last in (("encoder_", output.encoder_last_hidden_state), ("", output.last_hidden_state)):
        names = [name for name in seen if name.startswith("encoder.") == bool(prefix)]
        inputs = tuple(seen[name] for name in names if name.endswith(".hook_resid_pre"))
        if inputs and last is not None:
            setattr(output, f"{prefix}hidden_states", (*inputs, last))
        for attention in ("attn", "cross_attn"):
            weights = tuple(seen[name] for name in names if name.endswith(f".{attention}.hook_pattern"))
            if weights:
                setattr(output, f"{prefix}{'cross_' * (attention == 'cross_attn')}attentions", weights)
