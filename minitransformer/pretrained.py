"""The public face: `Pretrained`, a Transformer with its tokenizer and what people do with them."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minitransformer.checkpoint import Report, save_adapter, save_checkpoint
from minitransformer.config import PatchEmbeddingConfig
from minitransformer.errors import ConfigError, InputError, NotFoundError, TokenizerError
from minitransformer.families import Family
from minitransformer.generation import Chat, Perplexity, Writer
from minitransformer.generation.settings import from_config, settings
from minitransformer.images import Image, ImageProcessor, image_processor
from minitransformer.model import (
    ActivationCache,
    Output,
    Transformer,
    hooks,
    muted,
    run_with_cache,
    run_with_hooks,
)
from minitransformer.model.adapters import adapted_layers
from minitransformer.model.capture import Hook
from minitransformer.model.inside import Names, chosen_points
from minitransformer.model.memory import capture_bytes
from minitransformer.model.muting import Muting
from minitransformer.model.points import Point, points
from minitransformer.model.weights import Weights, weights
from minitransformer.modules.adapters import LoRALinear
from minitransformer.reading import Reading, read
from minitransformer.storage import atomic_folder
from minitransformer.storage.files import write_json
from minitransformer.tasks import TASKS, embed
from minitransformer.tasks.added_tokens import add_tokens
from minitransformer.tasks.inference import predict, token_limit
from minitransformer.tasks.labels import label_names
from minitransformer.tasks.make import make_task, task_of_head
from minitransformer.tasks.sentence_folder import SentenceFolder, embedder_of
from minitransformer.tasks.task import Task
from minitransformer.text import Tokenizer

PREPROCESSOR = "preprocessor_config.json"
GENERATION = "generation_config.json"
MOST_TOKENS = 512  # of a text, for a model that would read any number: its memory grows with their square
USUAL_TARGET = 128  # tokens that a model writes at most, unless its files say more or less


class Pretrained:
    """A Transformer, its tokenizer or image processor, the report of its loading, and what people do with them.

    Call it like the model: `model(**batch)`. The model itself, a plain torch module, is `.transformer`.
    """

    def __init__(
        self,
        transformer: Transformer,
        *,
        family: Family,
        raw_config: Mapping[str, Any],
        tokenizer: Tokenizer | None,
        report: Report,
        preprocessor: Mapping[str, Any] | None = None,
        sentences: SentenceFolder | ConfigError | None = None,
        generation_config: Mapping[str, Any] | None = None,
        base: str | None = None,
    ) -> None:
        self.transformer = transformer
        self.base = base or report.source  # the name that it was loaded by, which an adapter's files keep
        self.family = family
        self.raw_config = dict(raw_config)  # config.json as it was read
        self.report = report
        self._tokenizer = tokenizer
        self._preprocessor = preprocessor  # preprocessor_config.json as it was read
        self._sentences = sentences  # the error, where these files ask for what is not implemented
        self.generation_config = None if generation_config is None else dict(generation_config)  # as it was read
        self._added: tuple[str, ...] = ()  # tokens that the base does not have

    def __call__(self, *args: Any, **kwargs: Any) -> Output:
        """Run the model: see `Transformer.forward`."""
        return self.transformer(*args, **kwargs)

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer."""
        if self._tokenizer is None and isinstance(self.transformer.config.embed, PatchEmbeddingConfig):
            raise TokenizerError("this model reads images and has no tokenizer; see model.image_processor")
        if self._tokenizer is None:
            raise TokenizerError(
                f"{self.report.source}: no tokenizer files there; put tokenizer.json beside the weights"
            )
        return self._tokenizer

    @property
    def image_processor(self) -> ImageProcessor:
        """Images to pixel values, for a model that reads images: `model(**model.image_processor("cat.png"))`."""
        if not isinstance(self.transformer.config.embed, PatchEmbeddingConfig):
            raise InputError("this model reads texts and has no image processor; see model.tokenizer")
        if self._preprocessor is None:
            raise NotFoundError(f"{self.report.source}: no {PREPROCESSOR} there; put it beside the weights")
        return image_processor(self._preprocessor, self.family.image_processor)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the head's labels, in the order of its logits."""
        return label_names(self.raw_config)

    @property
    def max_length(self) -> int | None:
        """How many tokens the model takes; None if there is no end."""
        return token_limit(self.transformer, self._tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def parameters(self) -> Iterator[nn.Parameter]:
        """The weights, for an optimizer."""
        return self.transformer.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The weights with their names."""
        return self.transformer.named_parameters()

    def to(self, device: torch.device | str) -> "Pretrained":
        """Move the weights to a device. Returns self."""
        self.transformer.to(device)
        return self

    def train(self, mode: bool = True) -> "Pretrained":
        """Switch dropout on (or off). Returns self."""
        self.transformer.train(mode)
        return self

    def eval(self) -> "Pretrained":
        """Switch dropout off. Returns self."""
        return self.train(False)

    def use(self, book: str) -> "Pretrained":
        """Compute with the formulas "by_hand" or "fused". Returns self."""
        self.transformer.use(book)
        return self

    def read(self, text: str | Image, pair: str | None = None, *, target: str | None = None) -> Reading:
        """What the model reads of one text, a pair of texts, or an image: a batch of one, and its tokens.

        `target`: what a decoder behind an encoder is to write; without it, a language model writes up to 40 tokens.
        """
        images = isinstance(self.transformer.config.embed, PatchEmbeddingConfig)
        reader = self.image_processor if images else self.tokenizer
        fields = {} if images else self.generation_fields
        return read(self.transformer, reader, text, pair, target=target, max_length=self.max_length, generation=fields)

    def run_with_cache(
        self,
        inputs: Any,
        pair: str | None = None,
        *,
        target: str | None = None,
        names: Names | None = None,
        grad: bool = False,
    ) -> tuple[Output, ActivationCache]:
        """A forward pass, and what was inside: `output, cache = model.run_with_cache("A cat."); cache["pattern", 3]`.

        `inputs`: a text or an image as for `read`, or a batch. `names`: which points to keep, with stars
        ("*.hook_pattern") or a function of the name; without it all but hook_result. `grad`: record gradients.
        """
        return run_with_cache(self.transformer, self._batch(inputs, pair, target), names=names, grad=grad)

    def run_with_hooks(
        self,
        inputs: Any,
        pair: str | None = None,
        *,
        target: str | None = None,
        fwd_hooks: Sequence[Hook] = (),
        bwd_hooks: Sequence[Hook] = (),
    ) -> Output:
        """A forward pass that functions see, and may change: fwd_hooks=[("blocks.1.attn.hook_z", fn)].

        Each is called as fn(tensor, hook=point); what it returns takes the tensor's place, None changes nothing.
        `bwd_hooks` get gradients, when `.backward()` is called.
        """
        return run_with_hooks(self.transformer, self._batch(inputs, pair, target), fwd_hooks, bwd_hooks)

    def hooks(self, fwd_hooks: Sequence[Hook] = (), bwd_hooks: Sequence[Hook] = ()) -> AbstractContextManager[None]:
        """Within `with model.hooks(…):`, every pass, `generate` too, is changed as by `run_with_hooks`."""
        return hooks(self.transformer, fwd_hooks, bwd_hooks)

    def muted(
        self, heads: Collection[tuple[int, int]], mode: Muting = "zero", *, attention: str | None = None
    ) -> AbstractContextManager[None]:
        """Within `with model.muted(heads=[(layer, head)]):`, these heads are switched off. See `model.muting.muted`."""
        return muted(self.transformer, heads, mode, attention=attention)

    def hook_points(self) -> list[Point]:
        """Everything that can be seen and changed in this model: each has a name, a shape, a meaning."""
        return list(points(self.transformer).values())

    def capture_bytes(
        self, inputs: Any, pair: str | None = None, *, target: str | None = None, names: Names | None = None
    ) -> int:
        """The bytes that `run_with_cache` of the same will keep."""
        batch = self._batch(inputs, pair, target)
        return capture_bytes(self.transformer, chosen_points(self.transformer, names).values(), batch)

    def weights(self, attention: str | None = None) -> Weights:
        """The weights by layer and head, W_Q to W_O, and W_E and W_U; of "encoder", "decoder" or "cross"."""
        return weights(self.transformer, attention)

    def _batch(self, inputs: Any, pair: str | None, target: str | None) -> Mapping[str, Tensor]:
        """The tensors of a text or an image; a batch as it is."""
        if isinstance(inputs, Mapping):
            if pair is not None or target is not None:
                raise InputError("pair, target: got one beside a batch, which has its own tokens; leave it out")
            return inputs
        return self.read(inputs, pair, target=target).batch

    def predict(self, inputs: Any, *, batch_size: int = 32) -> list[Any]:
        """The model's answer to each input, as its head is made for: a label, the entities in a text, a place in one.

        An input is a text, or a tuple of two; an image (a path, a Pillow image, or an array or a tensor of uint8
        [height width 3]); or a dict of the columns that the task reads, such as question and context. Several are a
        list.
        """
        task = self.task()
        given = inputs if isinstance(inputs, list) else [inputs]
        return predict(self.transformer, task, [task.row(each) for each in given], batch_size=batch_size)

    def task(self, name: str | None = None, **options: Any) -> Task:
        """What the head is made for, or the task of that name; with the options of `tasks.make.make_task`."""
        if isinstance(self.transformer.config.embed, PatchEmbeddingConfig):
            return make_task(name or self.task_name, self.image_processor, self.labels, **options)
        name = name or self.task_name
        kept = self.raw_config if self.raw_config.get("finetuning_task") == name else {}
        length, stride = kept.get("finetuning_max_length"), kept.get("finetuning_stride")
        prefix = self.raw_config.get("prefix")
        usual = TASKS[name].kind.usual_length if name in TASKS else None
        most = [n for n in (self.max_length, length if type(length) is int else usual) if n is not None]
        options = {
            "max_length": min(most, default=MOST_TOKENS),
            "stride": stride if type(stride) is int else None,
            "prefix": prefix if isinstance(prefix, str) else "",
            "may_be_empty": self.raw_config.get("answers_may_be_empty") is not False,
            **(self._how_to_write() if self.transformer.config.task == "seq2seq-lm" else {}),
            **options,
        }
        positions = (self.transformer.config.target_embed or self.transformer.config.embed).max_length
        if positions is not None and "max_target_length" in options:
            options["max_target_length"] = min(options["max_target_length"], positions)
        return make_task(name, self.tokenizer, self.labels, **options)

    def _how_to_write(self) -> dict[str, Any]:
        """What the checkpoint says of that, as options of `make_task`."""
        config = settings(self.generation_fields, {}, source=self._writer.source)
        length = config.max_new_tokens or (config.max_length or USUAL_TARGET + 1) - 1  # that counts the start token
        return {"generation": config, "max_target_length": length}

    @property
    def task_name(self) -> str:
        """The name of the task that the head is made for."""
        return task_of_head(self.transformer.config, self.raw_config, self._tokenizer, self.labels)

    def add_tokens(self, tokens: Sequence[str]) -> tuple[str, ...]:
        """Make the tokenizer and the model know new special tokens. Returns those that were new."""
        new = add_tokens(self.transformer, self.tokenizer, self.raw_config, tokens)
        self._added += new
        return new

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        pooling: str | None = None,
        batch_size: int = 32,
    ) -> Tensor:
        """A vector for each text, as sentence-transformers gives it: float32 [B D].

        Its files beside the weights say how the tokens' vectors become one; where there are none, `pooling` does.
        `prompt`: put before each text; `prompt_name`: one of those in the files.
        """
        tokenizer = self.tokenizer  # a model without one has nothing to embed, whatever the pooling
        embedder = embedder_of(self._sentences, pooling)
        return embed.embed(
            self.transformer,
            tokenizer,
            embedder,
            [texts] if isinstance(texts, str) else list(texts),
            prompt=embedder.prompt(prompt, prompt_name),
            batch_size=batch_size,
        )

    def generate(
        self,
        inputs: str | Sequence[str] | Tensor | None = None,
        *,
        task: str | None = None,
        seed: int | None = None,
        output_scores: bool = False,
        output_attentions: bool = False,
        **settings: Any,
    ) -> Any:
        """The text that a decoder goes on with, or that it writes for what its encoder read.

        One text gives a text (or a list of num_return_sequences), several a list; token ids (`inputs`, or input_ids and
        attention_mask as a tokenizer gives them, perhaps decoder_input_ids) give token ids. A decoder alone repeats its
        prompt first. `task`: one that config.json names, with its prefix and settings (T5). `seed`: the same one draws
        the same tokens. `settings`: fields of `GenerationConfig`, such as max_new_tokens=40, do_sample=True,
        num_beams=4; where none is given, the checkpoint's generation_config.json counts. With output_scores or
        output_attentions, the answer is a `Generation`.
        """
        return self._writer.generate(
            inputs, task=task, seed=seed, output_scores=output_scores, output_attentions=output_attentions, **settings
        )

    def stream(
        self,
        inputs: str | Sequence[str] | Tensor | None = None,
        *,
        task: str | None = None,
        seed: int | None = None,
        **settings: Any,
    ) -> Iterator[str]:
        """The new text of `generate`, piece by piece, as soon as each is certain: for piece in model.stream("Once")."""
        return self._writer.stream(inputs, task=task, seed=seed, **settings)

    def chat(
        self,
        system: str | None = None,
        *,
        chat_template: str | None = None,
        seed: int | None = None,
        **settings: Any,
    ) -> Chat:
        """A conversation: `for piece in chat.say("Hello!")`. The template is the tokenizer's, if none is given."""
        return self._writer.chat(system, chat_template=chat_template, seed=seed, **settings)

    def perplexity(self, text: str, *, window: int | None = None, stride: int | None = None) -> Perplexity:
        """How well the model predicts a text; one longer than `window` tokens is read in steps of `stride`."""
        return self._writer.perplexity(text, window=window, stride=stride)

    @property
    def _writer(self) -> Writer:
        source = "config.json" if self.generation_config is None else GENERATION
        return Writer(self.transformer, self._tokenizer, self.generation_fields, self.raw_config, source)

    @property
    def generation_fields(self) -> dict[str, Any]:
        """What the checkpoint says of how to write: an old one in its config.json."""
        return from_config(self.raw_config) if self.generation_config is None else self.generation_config

    def save(self, folder: str | PathLike[str]) -> None:
        """Write a folder that `load` and transformers' from_pretrained read. All of it appears, or nothing."""
        if not os.fspath(folder):
            raise InputError("save: got an empty name, expected that of a folder")
        with atomic_folder(Path(folder)) as staging:
            self.write(staging)

    def save_adapter(self, folder: str | PathLike[str]) -> None:
        """Write the adapter and the head alone: a small folder that `load` and, of LoRA, peft read with their base."""
        with atomic_folder(Path(folder)) as staging:
            self._write_adapter(staging)

    def write(self, folder: Path) -> None:
        """Write the files of `save` into an existing folder. LoRA is merged; other adapters are files of their own."""
        if all(isinstance(layer, LoRALinear) for _, layer in adapted_layers(self.transformer)):
            save_checkpoint(self.transformer, self.family, self.raw_config, folder)
            self._write_readers(folder)
        else:
            self._write_adapter(folder)

    def _write_adapter(self, folder: Path) -> None:
        if self._added:
            raise InputError(
                f"{', '.join(self._added)}: added tokens are no part of an adapter; save the whole model, LoRA merged"
            )
        save_adapter(self.transformer, self.family, self.raw_config, self.base, folder)
        self._write_readers(folder)

    def _write_readers(self, folder: Path) -> None:
        """Write what reads inputs, and what says how to generate."""
        if self._tokenizer is not None:
            self._tokenizer.save(folder)
        if self.generation_config is not None:
            write_json(self.generation_config, folder / GENERATION)
        if self._preprocessor is not None:
            write_json(self._preprocessor, folder / PREPROCESSOR)
        if isinstance(self._sentences, SentenceFolder):
            self._sentences.write(folder)
