"""The whole model: embeddings, one stack or two, a head."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minitransformer.config import (
    ClassificationConfig,
    LanguageModelConfig,
    PatchEmbeddingConfig,
    QuestionAnsweringConfig,
    TransformerConfig,
)
from minitransformer.errors import InputError, refuse
from minitransformer.model.capture import Seen, capture, hooks
from minitransformer.model.heads import IGNORED, CrossEntropy, States, SumAndCount, head
from minitransformer.model.initialise import initialise
from minitransformer.model.muting import head_mask_hooks
from minitransformer.model.stack import Stack
from minitransformer.modules import KVCache, PatchEmbedding, TokenEmbedding
from minitransformer.modules.embeddings import check_ids
from minitransformer.modules.masks import check_attention_mask, padding_mask, self_attention_mask
from minitransformer.ops import BOOKS

TWICE_READ = (ClassificationConfig, QuestionAnsweringConfig)  # heads for which encoder and decoder read one text


class Inputs(NamedTuple):
    """What one stack reads. All int [B T]."""

    input_ids: Tensor  # of a model of images: pixel values, float [B C height width]
    attention_mask: Tensor | None = None
    token_type_ids: Tensor | None = None
    position_ids: Tensor | None = None


TARGETS = ("labels", "next_sentence_label", "sentence_order_label", "mc_labels", "start_positions", "end_positions")


@dataclass(kw_only=True)
class Output:
    """What a forward pass gives. What was not asked for, or does not exist in this model, is None.

    Sizes: B batch, T tokens (of the decoder, where there are two stacks), S tokens of the encoder, H heads.
    """

    loss: Tensor | None = None  # the head's sum / count
    logits: Tensor | None = None  # [B T V], [B T labels], [B labels] or [B choices]: the head says which
    prediction_logits: Tensor | None = None  # [B T V] (pretraining)
    seq_relationship_logits: Tensor | None = None  # [B 2] (pretraining on pairs: does the second follow)
    sop_logits: Tensor | None = None  # [B 2] (pretraining on pairs: are they in order)
    start_logits: Tensor | None = None  # [B T] (question answering)
    end_logits: Tensor | None = None  # [B T]
    mc_logits: Tensor | None = None  # [B choices] (double heads)
    cls_logits: Tensor | None = None  # [B labels] (image classification with a teacher)
    distillation_logits: Tensor | None = None  # [B labels]
    last_hidden_state: Tensor | None = None  # [B T D], after the final norm
    pooler_output: Tensor | None = None  # [B D]
    encoder_last_hidden_state: Tensor | None = None  # [B S D] (two stacks)
    hidden_states: tuple[Tensor, ...] | None = None  # each block's input, then last_hidden_state: N + 1 × [B T D]
    attentions: tuple[Tensor, ...] | None = None  # each block's weights: N × [B H T T]
    encoder_hidden_states: tuple[Tensor, ...] | None = None  # of two stacks, the same by the stack's name
    encoder_attentions: tuple[Tensor, ...] | None = None  # N × [B H S S]
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None  # N × [B H T T]
    cross_attentions: tuple[Tensor, ...] | None = None  # N × [B H T S]


LOGITS = tuple(field.name for field in fields(Output) if field.name.endswith("logits"))


class Transformer(nn.Module):
    """Vaswani et al. 2017, figure 1, or the half of it that a checkpoint is."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed: TokenEmbedding | PatchEmbedding
        shared = None
        if isinstance(config.embed, PatchEmbeddingConfig):
            self.embed = PatchEmbedding(config.embed)
        else:
            self.embed = TokenEmbedding(config.embed)
            shared = self.embed.tokens if config.shared_tokens else None
        self.target_embed = TokenEmbedding(config.target_embed, shared) if config.target_embed else None
        self.encoder = Stack(config.encoder) if config.encoder else None
        self.decoder = Stack(config.decoder) if config.decoder else None
        self.pooler = nn.Linear(config.embed.d_model, config.embed.d_model) if config.pooler else None
        self.head = head(config.head, config) if config.head else None

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        sentence_order_label: Tensor | None = None,
        mc_token_ids: Tensor | None = None,
        mc_labels: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        cache: KVCache | None = None,
        head_mask: Tensor | None = None,
        decoder_head_mask: Tensor | None = None,
        cross_attn_head_mask: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> Output:
        """All ids int [B T], masks [B S] with 1 for a token and 0 for padding; multiple choice takes [B choices T].

        Double heads do, too; `mc_token_ids` [B choices] says which token a choice is read from, if not the last.
        A model of images takes `pixel_values`, float [B C height width], and nothing else. With two stacks, `input_ids`
        go to the encoder; what the decoder reads may be left out where it is another input shifted right by one: the
        labels, for a language model; the `input_ids`, for other heads. A `cache` is written to. Labels and positions
        give a loss.

        Head masks, float [H] or [layers H], multiply what each head gives: 1 keeps it, 0 mutes it. Of two stacks,
        `head_mask` is the encoder's. The weights in `attentions` are those before the mask.
        """
        source = self._source(pixel_values, input_ids, attention_mask, token_type_ids, position_ids)
        if decoder_input_ids is None:
            decoder_input_ids = self._shifted(source.input_ids, labels)
        choices = None
        if source.input_ids.ndim == 3 and self.config.task in ("multiple-choice", "double-heads"):
            choices, source = source.input_ids.shape[1], _one_text_a_row(source)  # [B·choices T]
        read = self._read_by_last_stack(source, decoder_input_ids, decoder_attention_mask, cache)
        points = ["*.hook_resid_pre"] if output_hidden_states else []
        points += ["*attn.hook_pattern"] if output_attentions else []
        masks = self._head_masks(head_mask, decoder_head_mask, cross_attn_head_mask)
        with capture(self, points) as seen, hooks(self, head_mask_hooks(self, masks)):
            hidden, memory = self._through_stacks(source, read, cache)  # [B T D], [B S D]
        pooled = None if self.pooler is None else torch.tanh(self.pooler(hidden[:, 0]))  # [B D]

        output = Output(last_hidden_state=hidden, pooler_output=pooled, encoder_last_hidden_state=memory)
        _put_insides(output, seen)
        targets = {
            "labels": labels,
            "next_sentence_label": next_sentence_label,
            "sentence_order_label": sentence_order_label,
            "mc_labels": mc_labels,
            "start_positions": start_positions,
            "end_positions": end_positions,
        }
        states = States(hidden, pooled, self.table(), *self._ids_of_head(source, read), choices, mc_token_ids)
        self._read_head(output, states, {name: x for name, x in targets.items() if x is not None})
        return output

    def loss(self, batch: Mapping[str, Tensor], cross_entropy: CrossEntropy | None = None) -> SumAndCount:
        """The head's loss over a batch with labels, as (sum, count); `forward` gives their quotient.

        `cross_entropy`: in place of the book's own, where classes have weights or labels are smoothed.
        """
        inputs = {name: x for name, x in batch.items() if name not in TARGETS}
        if self.head is None:
            raise InputError("loss: this model has no head and no loss; load it with head=...")
        if "decoder_input_ids" not in inputs and "input_ids" in inputs:
            read = self._shifted(batch["input_ids"], batch.get("labels"))
            inputs |= {} if read is None else {"decoder_input_ids": read}
        output = self(**inputs)
        logits = {name: getattr(output, name) for name in LOGITS if getattr(output, name) is not None}
        logits = {name: x.to(torch.promote_types(x.dtype, torch.float32)) for name, x in logits.items()}
        read_by_loss = {name: batch[name] for name in (*TARGETS, "attention_mask") if name in batch}
        return self.head.loss(logits, read_by_loss, cross_entropy)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """The encoder's last hidden state: ids [B S], or pixel values [B C height width], -> [B S D]."""
        if self.encoder is None:
            raise InputError("encode: this model has no encoder")
        if isinstance(self.embed, PatchEmbedding):
            return self.encoder(self.embed(input_ids))
        _check_positions_are_read(position_ids, self.embed, self.encoder)
        x = self.embed(input_ids, token_type_ids, position_ids)  # [B S D]
        check_attention_mask("attention_mask", attention_mask, batch=x.shape[0], keys=x.shape[1])
        return self.encoder(x, mask=_self_mask(x, attention_mask, self.encoder), position_ids=position_ids)

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
            refuse("this decoder has no cross-attention", memory=memory, memory_mask=memory_mask)
        elif memory is None and self.encoder is not None:
            raise InputError("memory: got none; this decoder attends to the encoder's output, encode(input_ids)")
        past = 0 if cache is None else cache.length
        embed = self.embed if self.target_embed is None else self.target_embed
        _check_positions_are_read(position_ids, embed, self.decoder)
        x = embed(input_ids, token_type_ids, position_ids, past=past)  # [B T D]
        check_attention_mask("attention_mask", attention_mask, batch=x.shape[0], keys=past + x.shape[1])
        if cache is not None:
            cache.check(layers=len(self.decoder.blocks), batch=x.shape[0])
        if memory is not None:
            check_attention_mask("memory_mask", memory_mask, batch=memory.shape[0], keys=memory.shape[1])
        return self.decoder(
            x,
            mask=_self_mask(x, attention_mask, self.decoder, past=past),
            position_ids=position_ids,
            memory=memory,
            memory_mask=padding_mask(memory_mask),
            cache=cache,
        )

    def token_logits(self, hidden: Tensor) -> Tensor:
        """The language model's logits for what the last stack gave: [B T D] -> [B T V]."""
        return self.projection()(hidden, self.table())

    def projection(self) -> nn.Module:
        """The part of the head that gives logits over tokens, from hidden states and the table of tokens."""
        projection = getattr(self.head, "lm", None)
        if projection is None:
            raise InputError(f"this model has the head {self.config.task} and gives no logits over tokens")
        return projection

    def use(self, book: str) -> "Transformer":
        """Compute with the formulas "by_hand" or "fused" from now on. Returns the model."""
        if book not in BOOKS:
            raise InputError(f"book: got {book!r}, expected one of {', '.join(BOOKS)}")
        for module in self.modules():
            if hasattr(module, "book"):
                module.book = BOOKS[book]  # type: ignore[assignment]
        return self

    def _source(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
    ) -> Inputs:
        """What the first stack reads. An InputError for inputs that this model would leave unread, and for none."""
        if isinstance(self.embed, PatchEmbedding):
            why = "this model reads images, given as pixel_values"
            refuse(why, input_ids=input_ids, attention_mask=attention_mask)
            refuse(why, token_type_ids=token_type_ids, position_ids=position_ids)
            if pixel_values is None:
                raise InputError("pixel_values: got none; model.image_processor(image) gives them")
            return Inputs(pixel_values)
        refuse("this model reads text", pixel_values=pixel_values)
        if input_ids is None:
            raise InputError("input_ids: got none; model.tokenizer(text) gives them")
        return Inputs(input_ids, attention_mask, token_type_ids, position_ids)

    def _shifted(self, input_ids: Tensor, labels: Tensor | None) -> Tensor | None:
        """What the decoder reads where that is not given: the labels, or the text itself, shifted right by one."""
        start, head = self.config.decoder_start_id, self.config.head
        by_labels = isinstance(head, LanguageModelConfig)
        read = labels if by_labels else input_ids
        if start is None or read is None or not (by_labels or isinstance(head, TWICE_READ)):
            return None
        read = torch.where(read == IGNORED, self.config.pad_id or 0, read)
        embed = self.target_embed or self.embed
        if isinstance(embed, TokenEmbedding):
            check_ids("labels" if by_labels else "input_ids", read, embed.config.vocab_size)
        return nn.functional.pad(read, (1, -1), value=start)  # [B T], moved on by one

    def _head_masks(
        self, of_first: Tensor | None, of_decoder: Tensor | None, of_cross: Tensor | None
    ) -> dict[str, Tensor | None]:
        """The masks by the kind of attention. An InputError for those of an attention that is not there."""
        if self.encoder is not None and self.decoder is not None:
            return {"encoder": of_first, "decoder": of_decoder, "cross": of_cross}
        one_stack = "this model has one stack, to whose heads head_mask belongs"
        refuse(one_stack, decoder_head_mask=of_decoder, cross_attn_head_mask=of_cross)
        return {"decoder" if self.encoder is None else "encoder": of_first}

    def _read_by_last_stack(
        self,
        source: Inputs,
        decoder_input_ids: Tensor | None,
        decoder_attention_mask: Tensor | None,
        cache: KVCache | None,
    ) -> Inputs:
        """The inputs of the stack that the head stands on. An InputError for those that no stack would read."""
        if self.decoder is None:
            refuse("this model has no decoder", cache=cache)
        if self.encoder is None or self.decoder is None:
            one_stack = "this model has one stack, which reads input_ids"
            refuse(one_stack, decoder_input_ids=decoder_input_ids, decoder_attention_mask=decoder_attention_mask)
            return source
        if decoder_input_ids is None:
            reads_labels = self.config.decoder_start_id is not None and isinstance(
                self.config.head, LanguageModelConfig
            )
            labels = " (or labels, which it then reads shifted by one)" if reads_labels else ""
            raise InputError(f"decoder_input_ids: got none; a decoder behind an encoder needs what it reads{labels}")
        return Inputs(decoder_input_ids, decoder_attention_mask)

    def _through_stacks(self, source: Inputs, read: Inputs, cache: KVCache | None) -> tuple[Tensor, Tensor | None]:
        """The last stack's output [B T D] and, where an encoder's output was attended to, that: [B S D]."""
        if self.encoder is None:
            return self.decode(*read, cache=cache), None
        memory = self.encode(*source)
        if self.decoder is None:
            return memory, None
        return self.decode(*read, memory=memory, memory_mask=source.attention_mask, cache=cache), memory

    def table(self) -> Tensor | None:
        """The embedding of the tokens that a language model gives logits for: [V D]."""
        embed = self.embed if self.target_embed is None else self.target_embed
        return embed.tokens.weight if isinstance(embed, TokenEmbedding) else None

    def _ids_of_head(self, source: Inputs, read: Inputs) -> tuple[Tensor | None, Tensor | None]:
        """The tokens that the head's input stands for, and their mask. A text that is read twice is the encoder's."""
        if isinstance(self.embed, PatchEmbedding):
            return None, None
        inputs = source if isinstance(self.config.head, TWICE_READ) else read
        return inputs.input_ids, inputs.attention_mask

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
            masked = {} if states.attention_mask is None else {"attention_mask": states.attention_mask}
            total, count = self.head.loss(logits, {**targets, **masked})
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
    return Inputs(ids.flatten(0, 1), mask, types, positions)


def _check_positions_are_read(position_ids: Tensor | None, embed: nn.Module, stack: Stack) -> None:
    if embed.positions is None and stack.config.rotary_theta is None:
        refuse("this model knows distances, no positions", position_ids=position_ids)


def _self_mask(x: Tensor, attention_mask: Tensor | None, stack: Stack, past: int = 0) -> Tensor | None:
    return self_attention_mask(
        attention_mask,
        causal=stack.config.causal,
        window=stack.config.window,
        queries=x.shape[1],
        past=past,
        device=x.device,
    )


def _put_insides(output: Output, seen: Seen) -> None:
    """Put what was captured under its name in `output`; of two stacks, each value says in its name whose it is."""
    last = {"blocks": output.last_hidden_state}
    if output.encoder_last_hidden_state is not None:
        last = {"encoder": output.encoder_last_hidden_state, "decoder": output.last_hidden_state}
    for stack, state in last.items():
        prefix = "" if stack == "blocks" else f"{stack}_"
        names = [name for name in seen if name.startswith(f"{stack}.")]
        inputs = tuple(seen[name] for name in names if name.endswith(".hook_resid_pre"))
        if inputs and state is not None:
            setattr(output, f"{prefix}hidden_states", (*inputs, state))
        for kind, field in (("attn", f"{prefix}attentions"), ("cross_attn", "cross_attentions")):
            weights = tuple(seen[name] for name in names if name.endswith(f".{kind}.hook_pattern"))
            if weights:
                setattr(output, field, weights)
