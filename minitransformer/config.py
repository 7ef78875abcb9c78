"""What a Transformer is, as data. No weights, no torch: everything here can be printed, compared and checked.

A field is here because two checkpoints disagree about it. Which families need which is in CONTRIBUTING.md.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from minitransformer.errors import ConfigError

Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]
NormOrder = Literal["pre", "post"]
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
    """From token ids to vectors: tokens · scale (+ types) + positions, then perhaps a LayerNorm."""

    vocab_size: int
    d_model: int
    positions: Literal["learned", "sinusoidal"]
    max_positions: int | None  # None: sinusoids have no end
    token_types: Literal["learned", "tokens"] | None = None  # "tokens": looked up in the token table, as GPT-2 does
    type_vocab_size: int = 0
    scale: float = 1.0
    norm_eps: float | None = None  # None: no LayerNorm here
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_positive(vocab_size=self.vocab_size, d_model=self.d_model)
        _check_choice("positions", self.positions, ("learned", "sinusoidal"))
        if self.positions == "learned":
            _check(self.max_positions is not None, "max_positions: got None, expected the rows of the learned table")
        if self.max_positions is not None:
            _check_positive(max_positions=self.max_positions)
        if self.token_types is not None:
            _check_choice("token_types", self.token_types, ("learned", "tokens"))
        if self.token_types == "learned":
            _check_positive(type_vocab_size=self.type_vocab_size)
        _check_above_zero(scale=self.scale)
        if self.norm_eps is not None:
            _check_above_zero(norm_eps=self.norm_eps)
        _check_dropout(dropout=self.dropout)


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """N equal blocks: self-attention, perhaps cross-attention, feed-forward."""

    layers: int
    d_model: int
    heads: int
    d_ffn: int
    norm_order: NormOrder  # "post": norm(x + f(x)), as in the paper; "pre": x + f(norm(x))
    norm_eps: float
    final_norm: bool  # a last LayerNorm after the last block
    activation: Activation
    causal: bool  # a query sees no later key
    cross_attention: bool = False  # queries also attend to the encoder's output
    score_scale: float | None = None  # None: 1/√d_head, eq. 1 of the paper
    dropout: float = 0.0  # on each sub-layer's output
    attention_dropout: float = 0.0  # on the attention weights

    def __post_init__(self) -> None:
        _check_positive(layers=self.layers, d_model=self.d_model, heads=self.heads, d_ffn=self.d_ffn)
        _check(
            self.d_model % self.heads == 0,
            f"heads: got {self.heads} heads for d_model {self.d_model}, expected a divisor of d_model",
        )
        _check_choice("norm_order", self.norm_order, ("pre", "post"))
        _check_choice("activation", self.activation, ACTIVATIONS)
        _check_above_zero(norm_eps=self.norm_eps)
        if self.score_scale is not None:
            _check_above_zero(score_scale=self.score_scale)
        _check_dropout(dropout=self.dropout, attention_dropout=self.attention_dropout)

    @property
    def d_head(self) -> int:
        """E, the width of one head."""
        return self.d_model // self.heads


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """A logit for each token of the vocabulary: (transform, then) x · tableᵀ (+ bias)."""

    task: Literal["masked-lm", "causal-lm", "seq2seq-lm"]
    tied: bool  # the table is the token embedding's own
    bias: bool = False
    transform: Activation | None = None  # BERT: dense, this activation and a LayerNorm come first
    norm_eps: float = 1e-12  # of that LayerNorm

    def __post_init__(self) -> None:
        _check_choice("task", self.task, ("masked-lm", "causal-lm", "seq2seq-lm"))
        if self.transform is not None:
            _check_choice("transform", self.transform, ACTIVATIONS)
        _check_above_zero(norm_eps=self.norm_eps)


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """BERT's two pretraining heads: masked tokens, and whether the second sentence follows the first."""

    task: ClassVar[str] = "pretraining"
    lm: LanguageModelConfig


@dataclass(frozen=True, kw_only=True)
class SequenceClassificationConfig:
    """One set of logits for each text, from the pooler or from the last token."""

    task: ClassVar[str] = "sequence-classification"
    num_labels: int
    reads: Literal["pooler", "last_token"]
    bias: bool
    dropout: float = 0.0
    pad_id: int | None = None  # "last_token": the last that is not this one

    def __post_init__(self) -> None:
        _check_positive(num_labels=self.num_labels)
        _check_choice("reads", self.reads, ("pooler", "last_token"))
        _check_dropout(dropout=self.dropout)


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


@dataclass(frozen=True, kw_only=True)
class MultipleChoiceConfig:
    """One logit for each choice, from the pooler."""

    task: ClassVar[str] = "multiple-choice"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_dropout(dropout=self.dropout)


HeadConfig = (
    LanguageModelConfig
    | PretrainingConfig
    | SequenceClassificationConfig
    | TokenClassificationConfig
    | QuestionAnsweringConfig
    | MultipleChoiceConfig
)


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A whole model. One stack or two: encoder, decoder, or an encoder whose output the decoder attends to."""

    embed: TokenEmbeddingConfig
    encoder: StackConfig | None = None
    decoder: StackConfig | None = None
    head: HeadConfig | None = None
    target_embed: TokenEmbeddingConfig | None = None  # None: the decoder shares the encoder's embedding
    pooler: bool = False  # tanh(W x₀ + b) of the first token, as in BERT

    def __post_init__(self) -> None:
        stacks = [stack for stack in (self.encoder, self.decoder) if stack is not None]
        _check(bool(stacks), "encoder, decoder: got neither, expected at least one stack")
        widths = {part.d_model for part in (self.embed, self.target_embed, *stacks) if part is not None}
        _check(len(widths) == 1, f"d_model: got {sorted(widths)} in one model, expected one width")
        crosses = self.decoder is not None and self.decoder.cross_attention
        _check(crosses == (len(stacks) == 2), "cross_attention: a decoder has it just when there is an encoder")
        _check(self.encoder is None or not self.encoder.cross_attention, "cross_attention: an encoder has none")
        _check(self.target_embed is None or len(stacks) == 2, "target_embed: only a model of two stacks has one")
        reads_pooler = isinstance(self.head, MultipleChoiceConfig | PretrainingConfig) or (
            isinstance(self.head, SequenceClassificationConfig) and self.head.reads == "pooler"
        )
        _check(self.pooler or not reads_pooler, f"pooler: the head {self.task} reads it, but the model has none")

    @property
    def lm(self) -> LanguageModelConfig | None:
        """The part of the head that gives logits over the vocabulary."""
        part = self.head.lm if isinstance(self.head, PretrainingConfig) else self.head
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
