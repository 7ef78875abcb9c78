"""The public face: `load` a model by name, and `Pretrained`, a Transformer with its tokenizer and its verbs."""

import os
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from minitransformer.checkpoint import Report, load_checkpoint, save_checkpoint
from minitransformer.config import PatchEmbeddingConfig, TokenEmbeddingConfig
from minitransformer.errors import ConfigError, InputError, NotFoundError, TokenizerError
from minitransformer.families import Family, family_of, head_of
from minitransformer.generation import Chat, Perplexity, Writer
from minitransformer.generation.settings import from_config
from minitransformer.images import Image, ImageProcessor, image_processor
from minitransformer.model import Output, Transformer
from minitransformer.storage import atomic_folder, read_json, resolve
from minitransformer.storage.files import write_json
from minitransformer.tasks import Prediction, classify, classify_images, embed
from minitransformer.tasks.inference import token_limit
from minitransformer.tasks.labels import label_fields, label_names
from minitransformer.tasks.sentence_folder import SentenceFolder, embedder_of, lower_case, read_sentence_folder
from minitransformer.text import Tokenizer, load_tokenizer

PREPROCESSOR = "preprocessor_config.json"
GENERATION = "generation_config.json"

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


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
    ) -> None:
        self.transformer = transformer
        self.family = family
        self.raw_config = dict(raw_config)  # config.json as it was read
        self.report = report
        self._tokenizer = tokenizer
        self._preprocessor = preprocessor  # preprocessor_config.json as it was read
        self._sentences = sentences  # the error, where these files ask for what is not implemented
        self.generation_config = None if generation_config is None else dict(generation_config)  # as it was read

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

    def predict(self, inputs: Image | Sequence[Image], *, batch_size: int = 32) -> list[Prediction]:
        """The most probable label of each text or, from a model that reads images, of each image; its probability.

        An image is a path, a Pillow image, or an array or a tensor of uint8 [height width 3].
        """
        task = self.transformer.config.task
        classify.check_head(task, self.labels, self.raw_config)
        given: list[Any] = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        if task != "sequence-classification":
            return classify_images.predict(
                self.transformer, self.image_processor, self.labels, given, batch_size=batch_size
            )
        return classify.predict(
            self.transformer, self.tokenizer, self.labels, given, max_length=self.max_length, batch_size=batch_size
        )

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
        if self.generation_config is None:
            files, source = from_config(self.raw_config), "config.json"
        else:
            files, source = self.generation_config, GENERATION
        return Writer(self.transformer, self._tokenizer, files, self.raw_config, source)

    def save(self, folder: str | PathLike[str]) -> None:
        """Write a folder that `load` and transformers' from_pretrained read. All of it appears, or nothing."""
        if not os.fspath(folder):
            raise InputError("save: got an empty name, expected that of a folder")
        with atomic_folder(Path(folder)) as staging:
            self.write(staging)

    def write(self, folder: Path) -> None:
        """Write the files of `save` into an existing folder."""
        save_checkpoint(self.transformer, self.family, self.raw_config, folder)
        if self._tokenizer is not None:
            self._tokenizer.save(folder)
        if self.generation_config is not None:
            write_json(self.generation_config, folder / GENERATION)
        if self._preprocessor is not None:
            write_json(self._preprocessor, folder / PREPROCESSOR)
        if isinstance(self._sentences, SentenceFolder):
            self._sentences.write(folder)


def load(
    name: str | PathLike[str],
    *,
    head: str | None = None,
    labels: Sequence[str] | int | None = None,
    new_head: bool = False,
    config: Mapping[str, Any] | None = None,
    revision: str | None = None,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    device: torch.device | str | None = None,
    strict: bool = True,
    check_finite: bool | None = None,
    allow_pickle: bool = False,
) -> Pretrained:
    """Load a model: a hub id, a folder, "package:NAME" (a folder inside an installed package), or "builtin:NAME".

    `head`: "base" or a task such as "sequence-classification"; by default the one that config.json names. A head that
    the file does not have gets new random weights, and the report says so. `labels`: their names, or how many.
    `new_head`: new weights for the head even if the file has one. `config`: fields that replace those of config.json.
    `revision`: a branch, tag or commit on the hub. `dtype`: what the weights become; "auto" keeps them as they are.
    `strict=False`: tensors that the model does not know are a warning. `check_finite`: look for NaN (by default in
    files of up to 1 GiB). `allow_pickle`: read pytorch_model.bin, without running code, where there is nothing better.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise InputError(f'dtype: got {dtype!r}, expected "auto" or one of {", ".join(map(str, DTYPES))}')
    _check_device(device)
    folder = resolve(name, revision=revision, allow_pickle=allow_pickle)
    raw = read_raw_config(folder, config)
    if labels is not None:
        raw.update(label_fields(labels))
        raw.pop("num_labels", None)  # old configs count them besides
    family = family_of(raw)
    chosen = head_of(raw, family) if head is None else head
    if chosen not in family.classes:
        raise ConfigError(f"head: got {chosen!r}, expected one of {', '.join(family.classes)} for {family.model_type}")
    tokenizer = _tokenizer(folder, family)
    if chosen == "sequence-classification" and head is not None and tokenizer is not None:
        _name_padding(raw, tokenizer)
    transformer, report = load_checkpoint(
        folder,
        family,
        raw,
        chosen,
        may_be_new=head is not None,
        new_head=new_head,
        dtype=dtype,
        strict=strict,
        check_finite=check_finite,
        allow_pickle=allow_pickle,
    )
    if device is not None:
        transformer.to(device)
    if tokenizer is not None:
        _check_vocabulary(folder, tokenizer, transformer)
    sentences = read_sentence_folder(folder, transformer.config.embed.d_model)
    if tokenizer is not None and isinstance(sentences, SentenceFolder) and sentences.lowers_case:
        lower_case(tokenizer)
    return Pretrained(
        transformer,
        family=family,
        raw_config=raw,
        tokenizer=tokenizer,
        report=report,
        preprocessor=read_json(folder / PREPROCESSOR) if (folder / PREPROCESSOR).exists() else None,
        sentences=sentences,
        generation_config=read_json(folder / GENERATION) if (folder / GENERATION).exists() else None,
    )


def read_raw_config(folder: Path, replacing: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The folder's config.json, with some fields replaced. With `replacing`, there need not be a config.json."""
    path = folder / "config.json"
    try:
        raw = {} if replacing and not path.exists() else read_json(path)
    except NotFoundError as error:
        raise NotFoundError(f"{error}; or give its fields: load(name, config={{'model_type': ...}})") from None
    return {**raw, **(replacing or {})}


def _tokenizer(folder: Path, family: Family) -> Tokenizer | None:
    """The tokenizer beside the weights, if there is one, and the family reads texts."""
    try:
        return load_tokenizer(folder, tokenizer_class=family.tokenizer) if family.tokenizer else None
    except NotFoundError:
        return None


def _check_device(device: torch.device | str | None) -> None:
    """Raise an InputError for a device that is not there, before anything is read."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"device: got {device!r}, which cannot be used ({str(error).splitlines()[0]})") from None


def _name_padding(raw: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Say in the config what padding is, where it does not: a classifier that reads the last token must know.

    That is the tokenizer's pad token, or else its end token. So GPT-2 becomes a classifier that transformers, too, can
    give several texts at once.
    """
    if raw.get("pad_token_id") is not None:
        return
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.special["pad_token"] = tokenizer.special["eos_token"]
    if tokenizer.pad_token_id is not None:
        raw["pad_token_id"] = tokenizer.pad_token_id


def _check_vocabulary(folder: Path, tokenizer: Tokenizer, transformer: Transformer) -> None:
    """Raise a TokenizerError if the tokenizer knows more tokens than the model."""
    embed = transformer.config.embed
    if isinstance(embed, TokenEmbeddingConfig) and len(tokenizer) > embed.vocab_size:
        raise TokenizerError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, but the model embeds {embed.vocab_size}; "
            f"the tokenizer belongs to another model"
        )
