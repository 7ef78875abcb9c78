"""One vector for each text: the model's vectors of its tokens, pooled, and what may follow."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.model import Transformer
from minitransformer.tasks.inference import inference, text_batches, token_limit
from minitransformer.text import Tokenizer
from minitransformer.text.rows import check_rows

# Below, `places` int [B S] numbers the tokens of each text from 1; what is not to be pooled has 0: padding, mostly.


def first(hidden: Tensor, places: Tensor) -> Tensor:
    """The first token's vector, of BERT's [CLS] for one. [B S D] -> [B D]."""
    return hidden[torch.arange(len(hidden), device=hidden.device), (places > 0).int().argmax(1)]


def last(hidden: Tensor, places: Tensor) -> Tensor:
    """The last token's vector. [B S D] -> [B D]."""
    return hidden[torch.arange(len(hidden), device=hidden.device), places.argmax(1)]


def largest(hidden: Tensor, places: Tensor) -> Tensor:
    """In each dimension the largest number. [B S D] -> [B D]."""
    return hidden.masked_fill(places[..., None] == 0, -torch.inf).amax(1)


def average(hidden: Tensor, weights: Tensor, power: float = 1.0) -> Tensor:
    """Σ w h / (Σ w) ** power. [B S D], [B S] -> [B D]."""
    total = (hidden * weights[..., None]).sum(1)  # [B D]
    return total / weights.sum(1, keepdim=True).clamp(min=1e-9) ** power


# The names are those of sentence-transformers, as is the order in which old folders put several side by side.
POOLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": first,
    "max": largest,
    "mean": lambda hidden, places: average(hidden, (places > 0).float()),
    "mean_sqrt_len_tokens": lambda hidden, places: average(hidden, (places > 0).float(), 0.5),
    "weightedmean": lambda hidden, places: average(hidden, places.float()),  # later tokens count more
    "lasttoken": last,
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.nn.modules.activation.Tanh": torch.tanh,
    "torch.nn.modules.activation.ReLU": torch.relu,
    "torch.nn.modules.activation.GELU": F.gelu,
    "torch.nn.modules.activation.SiLU": F.silu,
    "torch.nn.modules.activation.Sigmoid": torch.sigmoid,
    "torch.nn.modules.linear.Identity": lambda x: x,
}


@dataclass(frozen=True)
class Dense:
    """activation(W x + b). [B in] -> [B out]."""

    weight: Tensor  # [out in]
    bias: Tensor | None
    activation: str

    def __call__(self, x: Tensor) -> Tensor:
        """See the class."""
        bias = None if self.bias is None else self.bias.to(x)
        return ACTIVATIONS[self.activation](F.linear(x, self.weight.to(x), bias))


def normalize(x: Tensor) -> Tensor:
    """x / ‖x‖: vectors of length 1, whose dot product is their cosine. [B D] -> [B D]."""
    return F.normalize(x, dim=-1)


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """How the vectors of a text's tokens become one vector."""

    pooling: tuple[str, ...]  # the names of several give their vectors side by side
    steps: tuple[Callable[[Tensor], Tensor], ...] = ()  # after the pooling: Dense, normalize
    pools_prompt: bool = True  # False: a prompt is read, but its tokens are not pooled
    max_length: int | None = None  # tokens kept of each text, whatever the tokenizer's files say
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None  # the name of the prompt that is put before a text unasked

    def prompt(self, prompt: str | None, name: str | None) -> str:
        """What is put before each text: `prompt` itself, that of this name, or the default."""
        if prompt is not None and name is not None:
            raise InputError("prompt and prompt_name: got both, expected one of them")
        if prompt is not None:
            return prompt
        name = self.default_prompt if name is None else name
        if name is not None and name not in self.prompts:
            raise InputError(f"prompt_name: got {name!r}, expected one of {', '.join(self.prompts) or 'none'}")
        return "" if name is None else self.prompts[name]

    def pool(self, hidden: Tensor, attention_mask: Tensor, skip: int) -> Tensor:
        """One vector for each text, the first `skip` tokens left out. [B S D], [B S] -> [B D·poolings]."""
        places = attention_mask.cumsum(1) * attention_mask  # int [B S]
        places = places.masked_fill(places <= skip, 0)
        return torch.cat([POOLING[name](hidden, places) for name in self.pooling], dim=-1)


def embed(
    transformer: Transformer,
    tokenizer: Tokenizer,
    embedder: Embedder,
    texts: Sequence[str],
    *,
    prompt: str,
    batch_size: int,
) -> Tensor:
    """A vector for each text, in their order: float32 [B D]."""
    limit = token_limit(transformer, tokenizer, embedder.max_length)
    skip = 0 if embedder.pools_prompt or not prompt else prompt_length(tokenizer, prompt, limit)
    encode = transformer.encode if transformer.encoder is not None else transformer.decode
    device = next(transformer.parameters()).device
    found: dict[int, Tensor] = {}
    with inference(transformer):
        prompted = [prompt + text for text in check_rows(list(texts), "texts")]
        for places, batch in text_batches(tokenizer, prompted, max_length=limit, batch_size=batch_size):
            batch = batch.to(device)
            x = embedder.pool(encode(**batch).float(), batch["attention_mask"], skip)  # [B D]
            for step in embedder.steps:
                x = step(x)
            found.update(zip(places, x, strict=True))
    return torch.stack([found[i] for i in range(len(texts))])  # [B D]


def prompt_length(tokenizer: Tokenizer, prompt: str, max_length: int | None) -> int:
    """How many tokens of a text are the prompt's, with the special tokens before it, without those at the end."""
    ids = tokenizer([prompt], truncation=max_length is not None, max_length=max_length)["input_ids"][0]
    special = {tokenizer.backend.token_to_id(token) for token in tokenizer.special.values()}
    return len(ids) - (int(ids[-1]) in special)
