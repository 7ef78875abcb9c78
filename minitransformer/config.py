"""What a Transformer is, as data. No weights, no torch: everything here can be printed, compared and checked.

A field is here because two checkpoints disagree about it. Which families need which is in CONTRIBUTING.md.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from minitransformer.errors import ConfigError

Activation = Literal["relu", "gelu", "gelu_tanh", "silu", "tanh"]
NormOrder = Literal["pre", "post"]
NormKind = Literal["layer", "rms"]
Biased = Literal["qkv", "o", "ffn"]
ACTIVATIONS: tuple[str, ...] = get_args(Activation)


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _check_choice(field: str, value: object, choices: tuple[str, ...]) -> None:
    _check(value in choices, f"{field}: got {value!r}, expected one of {', '.join(choices)}")


def _check_positive(**sizes: int) -> None:
    for field, size in sizes.items():
        whole = isinstance(size, int) and not isinstance(size, bool)
        _check(whole and size > 0, f"{field}: got {size!r}, expected a whole number above 0")


def _check_dropout(**probabilities: float) -> None:
    for field, p in probabilities.items():
        number = isinstance(p, int | float) and not isinstance(p, bool)
        _check(number and 0 <= p < 1, f"{field}: got {p!r}, expected a probability from 0 up to, not including, 1")


def _check_above_zero(**numbers: float) -> None:
    for field, x in numbers.items():
        number = isinstance(x, int | float) and not isinstance(x, bool)
        _check(number and 0 < x < float("inf"), f"{field}: got {x!r}, expected a number above 0")


@dataclass(frozen=True, kw_only=True)
class TokenEmbeddingConfig:
    """From token ids to vectors: tokens · scale (+ types) (+ positions), perhaps a LayerNorm, perhaps a projection."""

    vocab_size: int
    d_model: int
    positions: Literal["learned", "sinusoidal", "sinusoidal_halves"] | None  # None: the stack knows of positions
    max_positions: int | None  # rows of the learned table, or the longest text in training; None: there is no end
    d_embed: int | None = None  # width of the tables, where a projection brings it to d_model
    position_offset: int = 0  # the table's row for the first token
    skips_id: int | None = None  # tokens of this id (padding) take no position: all have the one before the first
    token_types: Literal["learned", "tokens"] | None = None  # "tokens": looked up in the token table, as GPT-2 does
    type_vocab_size: int = 0
    scale: float = 1.0
    norm_eps: float | None = None  # None: no LayerNorm here
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_positive(vocab_size=self.vocab_size, d_model=self.d_model)
        if self.positions is not None:
            _check_choice("positions", self.positions, ("learned", "sinusoidal", "sinusoidal_halves"))
        if self.positions == "learned":
            _check(self.max_positions is not None, "max_positions: got None, expected the rows of the learned table")
        if self.max_positions is not None:
            _check_positive(max_positions=self.max_positions)
            limit = self.max_positions
            _check(
                0 <= self.position_offset < limit,
                f"position_offset: got {self.position_offset}, expected a row of a table of {limit} positions",
            )
        _check(
            self.skips_id is None or self.position_offset > 0,
            f"position_offset: got {self.position_offset}, expected 1 or more: what is skipped has the row before it",
        )
        if self.d_embed is not None:
            _check_positive(d_embed=self.d_embed)
        if self.token_types is not None:
            _check_choice("token_types", self.token_types, ("learned", "tokens"))
        if self.token_types == "learned":
            _check_positive(type_vocab_size=self.type_vocab_size)
        _check_above_zero(scale=self.scale)
        if self.norm_eps is not None:
            _check_above_zero(norm_eps=self.norm_eps)
        _check_dropout(dropout=self.dropout)

    @property
    def d_table(self) -> int:
        """The width of the token table."""
        return self.d_embed or self.d_model

    @property
    def max_length(self) -> int | None:
        """How many tokens a text may have; None if there is no end."""
        return None if self.max_positions is None else self.max_positions - self.position_offset


@dataclass(frozen=True, kw_only=True)
class PatchEmbeddingConfig:
    """From pixels to vectors: an image cut into patches, special tokens before them, a learned position for each."""

    d_model: int
    image_size: tuple[int, int]  # height, width
    patch_size: tuple[int, int]
    channels: int
    special_tokens: int  # 1: the class token; 2: the distillation token behind it
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_positive(d_model=self.d_model, channels=self.channels)
        for size, patch in zip(self.image_size, self.patch_size, strict=True):
            _check_positive(image_size=size, patch_size=patch)
            _check(patch <= size, f"patch_size: got {patch} for an image of {size} pixels, expected at most that")
        _check(self.special_tokens in (1, 2), f"special_tokens: got {self.special_tokens!r}, expected 1 or 2")
        _check_dropout(dropout=self.dropout)

    @property
    def length(self) -> int:
        """How many vectors an image becomes."""
        rows, columns = (size // patch for size, patch in zip(self.image_size, self.patch_size, strict=True))
        return rows * columns + self.special_tokens


@dataclass(frozen=True, kw_only=True)
class RelativePositionsConfig:
    """A learned number for each head and each bucket of distances, added to the scores of self-attention."""

    buckets: int
    max_distance: int  # farther than this, all distances share a bucket

    def __post_init__(self) -> None:
        _check_positive(buckets=self.buckets, max_distance=self.max_distance)
        _check(self.buckets >= 4, f"buckets: got {self.buckets}, expected 4 or more")
        _check(
            self.max_distance > self.buckets // 2,
            f"max_distance: got {self.max_distance}, expected more than half of the {self.buckets} buckets",
        )


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """N equal blocks: self-attention, perhaps cross-attention, feed-forward."""

    layers: int
    d_model: int
    heads: int
    d_ffn: int
    norm_order: NormOrder  # "post": norm(x + f(x)), as in the paper; "pre": x + f(norm(x))
    norm_eps: float
    final_norm: bool  # a last norm after the last block
    activation: Activation
    causal: bool  # a query sees no later key
    norm: NormKind = "layer"
    layer_order: tuple[int, ...] | None = None  # which layer computes first, second, …; None: each once, in order
    cross_attention: bool = False  # queries also attend to the encoder's output
    kv_heads: int | None = None  # None: as many as heads; fewer: each serves a group of query heads
    head_width: int | None = None  # None: d_model / heads
    score_scale: float | None = None  # None: 1/√d_head, eq. 1 of the paper
    qk_norm: bool = False  # an RMSNorm on each head's queries and keys
    relative_positions: RelativePositionsConfig | None = None
    rotary_theta: float | None = None  # rotary positions with this base; None: no rotation
    window: int | None = None  # a query sees so many keys, itself included; None: all
    gated: bool = False  # the feed-forward's inner vector is activation(gate(x)) · up(x)
    biases: tuple[Biased, ...] = ("qkv", "o", "ffn")  # the projections that add one
    dropout: float = 0.0  # on the attention's output
    ffn_dropout: float = 0.0  # on the feed-forward's output
    attention_dropout: float = 0.0  # on the attention weights
    activation_dropout: float = 0.0  # on the feed-forward's inner vector
    final_dropout: float = 0.0  # on the stack's output

    def __post_init__(self) -> None:
        _check_positive(layers=self.layers, d_model=self.d_model, heads=self.heads, d_ffn=self.d_ffn)
        for name in ("kv_heads", "head_width", "window"):
            if getattr(self, name) is not None:
                _check_positive(**{name: getattr(self, name)})
        _check(
            self.head_width is not None or self.d_model % self.heads == 0,
            f"heads: got {self.heads} heads for d_model {self.d_model}, expected a divisor of d_model",
        )
        _check(self.window is None or self.causal, f"window: got {self.window}, but only a causal stack has one")
        _check(
            self.heads % (self.kv_heads or self.heads) == 0,
            f"kv_heads: got {self.kv_heads} for {self.heads} heads, expected a divisor of them",
        )
        if self.layer_order is not None:
            _check(
                set(self.layer_order) == set(range(self.layers)),
                f"layer_order: got {self.layer_order}, expected each of the layers 0 to {self.layers - 1} in it",
            )
        _check_choice("norm_order", self.norm_order, ("pre", "post"))
        _check_choice("norm", self.norm, ("layer", "rms"))
        _check_choice("activation", self.activation, ACTIVATIONS)
        _check_above_zero(norm_eps=self.norm_eps)
        if self.score_scale is not None:
            _check_above_zero(score_scale=self.score_scale)
        if self.rotary_theta is not None:
            _check_above_zero(rotary_theta=self.rotary_theta)
            _check(self.d_head % 2 == 0, f"d_head: got {self.d_head}, expected an even width for rotary positions")
        for part in self.biases:
            _check_choice("biases", part, ("qkv", "o", "ffn"))
        _check_dropout(
            dropout=self.dropout,
            ffn_dropout=self.ffn_dropout,
            attention_dropout=self.attention_dropout,
            activation_dropout=self.activation_dropout,
            final_dropout=self.final_dropout,
        )

    @property
    def d_head(self) -> int:
        """E, the width of one head."""
        return self.head_width or self.d_model // self.heads

    @property
    def order(self) -> tuple[int, ...]:
        """The layers in the order of the computation."""
        return self.layer_order or tuple(range(self.layers))


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """A logit for each token of the vocabulary: (transform, then) x · scale · tableᵀ (+ bias)."""

    task: Literal["masked-lm", "causal-lm", "seq2seq-lm"]
    tied: bool  # the table is the token embedding's own
    bias: Literal["learned", "fixed"] | None = None  # "fixed": stored, but not trained
    transform: Activation | None = None  # BERT: dense, this activation and a LayerNorm come first
    norm_eps: float = 1e-12  # of that LayerNorm
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_choice("task", self.task, ("masked-lm", "causal-lm", "seq2seq-lm"))
        if self.bias is not None:
            _check_choice("bias", self.bias, ("learned", "fixed"))
        if self.transform is not None:
            _check_choice("transform", self.transform, ACTIVATIONS)
        _check_above_zero(norm_eps=self.norm_eps, scale=self.scale)


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """Two pretraining heads: masked tokens, and how two sentences stand to each other, from the pooler."""

    task: ClassVar[str] = "pretraining"
    lm: LanguageModelConfig
    pairs: Literal["next_sentence", "sentence_order"]  # BERT: does B follow A; ALBERT: are A and B in order
    num_labels: int = 2
    dropout: float = 0.0  # before the second

    def __post_init__(self) -> None:
        _check_choice("pairs", self.pairs, ("next_sentence", "sentence_order"))
        _check_positive(num_labels=self.num_labels)
        _check_dropout(dropout=self.dropout)


@dataclass(frozen=True, kw_only=True)
class ReplacedTokensConfig:
    """ELECTRA's pretraining head: for each token, a logit for having been replaced."""

    task: ClassVar[str] = "pretraining"
    activation: Activation

    def __post_init__(self) -> None:
        _check_choice("activation", self.activation, ACTIVATIONS)


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig:
    """One set of logits for each text or image; multiple choice: one logit for each text."""

    task: Literal["sequence-classification", "multiple-choice", "next-sentence-prediction", "image-classification"]
    num_labels: int
    reads: Literal["pooler", "first_token", "last_token", "last_eos"]  # the vector that stands for the whole
    bias: bool = True
    transform: Activation | None = None  # a dense layer and this activation come first
    transform_dropout: float = 0.0  # before that dense layer
    dropout: float = 0.0  # before the last layer
    token_id: int | None = None  # "last_token": the last that is not this one; "last_eos": the last that is

    def __post_init__(self) -> None:
        tasks = ("sequence-classification", "multiple-choice", "next-sentence-prediction", "image-classification")
        _check_choice("task", self.task, tasks)
        _check_positive(num_labels=self.num_labels)
        _check_choice("reads", self.reads, ("pooler", "first_token", "last_token", "last_eos"))
        _check(self.reads != "last_eos" or self.token_id is not None, "token_id: got None, expected the end token's id")
        if self.transform is not None:
            _check_choice("transform", self.transform, ACTIVATIONS)
        _check_dropout(dropout=self.dropout, transform_dropout=self.transform_dropout)


@dataclass(frozen=True, kw_only=True)
class DoubleHeadsConfig:
    """A language model, and one logit for each choice from one of its tokens."""

    task: ClassVar[str] = "double-heads"
    lm: LanguageModelConfig
    dropout: float = 0.0  # before the second

    def __post_init__(self) -> None:
        _check_dropout(dropout=self.dropout)


@dataclass(frozen=True, kw_only=True)
class DistilledClassificationConfig:
    """DeiT's two classifiers, of the class token and of the distillation token: the logits are their mean."""

    task: ClassVar[str] = "image-classification-with-teacher"
    num_labels: int

    def __post_init__(self) -> None:
        _check_positive(num_labels=self.num_labels)


@dataclass(frozen=True, kw_only=True)
class TokenClassificationConfig:
    """One set of logits for each token."""

    task: ClassVar[str] = "token-classification"
    num_labels: int
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_positive(num_labels=self.num_labels)
        _check_dropout(dropout=self.dropout)


@dataclass(frozen=True, kw_only=True)
class QuestionAnsweringConfig:
    """For each token, a logit for being the first of the answer and one for being the last."""

    task: ClassVar[str] = "question-answering"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_dropout(dropout=self.dropout)


HeadConfig = (
    LanguageModelConfig
    | PretrainingConfig
    | ReplacedTokensConfig
    | ClassificationConfig
    | DoubleHeadsConfig
    | DistilledClassificationConfig
    | TokenClassificationConfig
    | QuestionAnsweringConfig
)


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A whole model. One stack or two: encoder, decoder, or an encoder whose output the decoder attends to."""

    embed: TokenEmbeddingConfig | PatchEmbeddingConfig
    encoder: StackConfig | None = None
    decoder: StackConfig | None = None
    head: HeadConfig | None = None
    target_embed: TokenEmbeddingConfig | None = None  # None: the decoder shares the encoder's embedding
    shared_tokens: bool = False  # a `target_embed` with positions of its own looks up tokens in the encoder's table
    pooler: bool = False  # tanh(W x₀ + b) of the first token, as in BERT
    decoder_start_id: int | None = None  # what a decoder reads first, where its input is a text shifted by one
    pad_id: int | None = None  # what it reads there for labels that are not judged

    def __post_init__(self) -> None:
        stacks = [stack for stack in (self.encoder, self.decoder) if stack is not None]
        _check(bool(stacks), "encoder, decoder: got neither, expected at least one stack")
        widths = {part.d_model for part in (self.embed, self.target_embed, *stacks) if part is not None}
        _check(len(widths) == 1, f"d_model: got {sorted(widths)} in one model, expected one width")
        two = len(stacks) == 2
        _check(not two or stacks[1].cross_attention, "cross_attention: a decoder behind an encoder has it")
        _check(self.encoder is None or not self.encoder.cross_attention, "cross_attention: an encoder has none")
        _check(self.target_embed is None or two, "target_embed: only a model of two stacks has one")
        _check(self.target_embed is not None or not self.shared_tokens, "shared_tokens: there is no target_embed")
        _check(two or self.decoder_start_id is None, "decoder_start_id: only a model of two stacks has one")
        patches = isinstance(self.embed, PatchEmbeddingConfig)
        _check(not patches or (self.encoder is not None and not two), "embed: patches are for a model of one encoder")
        _check(self.pooler or not self._reads_pooler, f"pooler: the head {self.task} reads it, but the model has none")

    @property
    def _reads_pooler(self) -> bool:
        reads = self.head.reads if isinstance(self.head, ClassificationConfig) else None
        return isinstance(self.head, PretrainingConfig) or reads == "pooler"

    @property
    def lm(self) -> LanguageModelConfig | None:
        """The part of the head that gives logits over the vocabulary."""
        part = self.head.lm if isinstance(self.head, PretrainingConfig | DoubleHeadsConfig) else self.head
        return part if isinstance(part, LanguageModelConfig) else None

    @property
    def task(self) -> str:
        """What the head is for, in transformers' words; "base" without one."""
        return "base" if self.head is None else self.head.task


def vaswani2017(
    *,
    vocab_size: int,
    layers: int = 6,
    d_model: int = 512,
    heads: int = 8,
    d_ffn: int = 2048,
    dropout: float = 0.1,
) -> TransformerConfig:
    """The paper's own model: encoder and decoder, post-norm, sinusoids, one table for source, target and output.

    The defaults are the paper's base model (table 3). Vaswani et al. 2017, "Attention Is All You Need".
    """

    def stack(*, causal: bool) -> StackConfig:
        return StackConfig(
            layers=layers,
            d_model=d_model,
            heads=heads,
            d_ffn=d_ffn,
            norm_order="post",
            norm_eps=1e-5,
            final_norm=False,
            activation="relu",
            causal=causal,
            cross_attention=causal,
            dropout=dropout,
            ffn_dropout=dropout,
        )

    return TransformerConfig(
        embed=TokenEmbeddingConfig(
            vocab_size=vocab_size,
            d_model=d_model,
            positions="sinusoidal",
            max_positions=None,
            scale=d_model**0.5,
            dropout=dropout,
        ),
        encoder=stack(causal=False),
        decoder=stack(causal=True),
        head=LanguageModelConfig(task="seq2seq-lm", tied=True),
    )
