"""A model that writes, with its tokenizer and its checkpoint's settings: what stands behind `model.generate`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.generation.chat import Chat
from minitransformer.generation.generate import go_on
from minitransformer.generation.look_back import Generation, look_back
from minitransformer.generation.perplexity import Perplexity, perplexity
from minitransformer.generation.prompt import prepare
from minitransformer.generation.settings import GenerationConfig, settings
from minitransformer.generation.texts import decode, encode, pieces, task_fields
from minitransformer.model import Transformer
from minitransformer.text import Tokenizer

Inputs = str | Sequence[str] | Tensor


@dataclass(frozen=True)
class Request:
    """Prompts as token ids, with the texts that they were, and how to go on with them."""

    config: GenerationConfig
    batch: Mapping[str, Tensor]  # input_ids, perhaps attention_mask
    texts: tuple[str, ...] | None = None
    single: bool = False  # one text was given, not a list


@dataclass(frozen=True)
class Writer:
    """See `Pretrained.generate`, `stream`, `chat` and `perplexity`, which hand on to here."""

    model: Transformer  # in evaluation
    tokenizer: Tokenizer | None
    files: Mapping[str, Any]  # generation_config.json, or what an old config.json says
    raw_config: Mapping[str, Any]
    source: str  # which of the checkpoint's files `files` is

    def generate(
        self,
        inputs: Inputs | None = None,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        task: str | None = None,
        seed: int | None = None,
        output_scores: bool = False,
        output_attentions: bool = False,
        **given: Any,
    ) -> str | list[str] | Tensor | Generation:
        """Texts for texts, ids for ids; a `Generation` if scores or attentions are asked for."""
        check_seed(seed)
        request = self.request(inputs, input_ids, attention_mask, task, given)
        ids, mask = request.batch["input_ids"], request.batch.get("attention_mask")
        prompt = prepare(self.model, ids, mask, config=request.config, decoder_input_ids=decoder_input_ids)
        sequences = go_on(self.model, prompt, config=request.config, tokenizer=self.tokenizer, seed=seed)
        texts = None
        if request.texts is not None and self.tokenizer is not None and mask is not None:
            texts = decode(self.model, self.tokenizer, request.texts, mask, sequences)
        if output_scores or output_attentions:
            found = look_back(
                self.model,
                prompt,
                sequences,
                request.config,
                scores=output_scores,
                attentions=output_attentions,
                tokenizer=self.tokenizer,
            )
            return replace(found, texts=None if texts is None else tuple(texts))
        if texts is None:
            return sequences
        return texts[0] if request.single and len(texts) == 1 else texts

    def stream(
        self,
        inputs: Inputs | None = None,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        task: str | None = None,
        seed: int | None = None,
        **given: Any,
    ) -> Iterator[str]:
        """The new text, piece by piece. What is wrong with the request is said here, not at the first piece."""
        check_seed(seed)
        request = self.request(inputs, input_ids, attention_mask, task, given)
        tokenizer = self.needed_tokenizer()
        return pieces(self.model, tokenizer, request.batch, config=request.config, seed=seed)

    def chat(
        self,
        system: str | None = None,
        *,
        chat_template: str | None = None,
        seed: int | None = None,
        **given: Any,
    ) -> Chat:
        """A conversation."""
        check_seed(seed)
        tokenizer, config = self.needed_tokenizer(), settings(self.files, given, source=self.source)
        return Chat(self.model, tokenizer, config, system=system, chat_template=chat_template, seed=seed)

    def perplexity(self, text: str, *, window: int | None = None, stride: int | None = None) -> Perplexity:
        """How well the model predicts a text."""
        ids = torch.tensor(self.needed_tokenizer().encode(text), device=next(self.model.parameters()).device)
        return perplexity(self.model, ids, window=window, stride=stride)

    def request(
        self,
        inputs: Inputs | None,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        task: str | None,
        given: Mapping[str, Any],
    ) -> Request:
        """The prompts and the settings, brought together. An InputError says what does not fit."""
        of_task = task_fields(self.raw_config, task)
        prefix = str(of_task.pop("prefix", None) or "")
        config = settings({**self.files, **of_task}, given, source=self.source)
        if (inputs is None) == (input_ids is None):
            raise InputError("generate: expected a text, texts, or input_ids: one of them")
        if isinstance(inputs, Tensor):
            inputs, input_ids = None, inputs
        if input_ids is not None:
            if not isinstance(input_ids, Tensor):
                raise InputError(f"input_ids: got a {type(input_ids).__name__}, expected a tensor [batch, tokens]")
            batch = {"input_ids": input_ids} | ({} if attention_mask is None else {"attention_mask": attention_mask})
            return Request(config, batch)
        if attention_mask is not None:
            raise InputError("attention_mask: got one with a text, whose padding is known; leave it out")
        if not isinstance(inputs, str | list | tuple):
            raise InputError(f"generate: got a {type(inputs).__name__}, expected a text, texts, or a tensor of ids")
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        prompts = [prefix + text if isinstance(text, str) else text for text in texts]
        batch = encode(self.model, self.needed_tokenizer(), prompts, config)
        return Request(config, batch, tuple(prompts), isinstance(inputs, str))

    def needed_tokenizer(self) -> Tokenizer:
        """The tokenizer, for what needs one."""
        if self.tokenizer is None:
            raise InputError("this model has no tokenizer; give input_ids, and put tokenizer.json beside the weights")
        return self.tokenizer


def check_seed(seed: int | None) -> None:
    """Raise an InputError for what torch takes for no seed."""
    if seed is not None and not (isinstance(seed, int) and not isinstance(seed, bool) and -(2**63) <= seed < 2**64):
        raise InputError(f"seed: got {seed!r:.60}, expected a whole number of at most 64 bits, such as 0")
