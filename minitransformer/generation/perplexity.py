"""How well a model predicts a text."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.generation.prompt import check_model
from minitransformer.model import Transformer
from minitransformer.model.evaluation import evaluation
from minitransformer.modules import TokenEmbedding
from minitransformer.ops import BOOKS


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-probability of a text's tokens: Jelinek et al. 1977.

    A text longer than `window` tokens is read in windows, `stride` further each time. Each token is predicted once, in
    the first window that holds it; after the first window it has at least `window` - `stride` tokens before it. The
    text's first token is not predicted; where stride = window, nor is that of any window.
    """

    perplexity: float
    loss: float  # the mean, in nats for each token
    tokens: int  # that were predicted
    window: int
    stride: int


@torch.no_grad()
def perplexity(model: Transformer, ids: Tensor, *, window: int | None = None, stride: int | None = None) -> Perplexity:
    """The perplexity of one text's token ids, int [T], under a decoder alone.

    window: tokens read at once, by default as many as the model takes, or all; stride: half of it by default.
    """
    check_model(model)
    if model.encoder is not None or not isinstance(model.embed, TokenEmbedding):
        raise InputError("perplexity: got an encoder and a decoder, whose text depends on a source; try a GPT-2")
    if len(ids) < 2:
        raise InputError(f"perplexity: got {len(ids)} token(s), expected two or more: the first one is not predicted")
    for name, given in (("window", window), ("stride", stride)):
        if given is not None and not isinstance(given, int):
            raise InputError(f"{name}: got {given!r}, expected a whole number of tokens")
    sizes = (window, model.embed.config.max_length, len(ids))
    window = min(size for size in sizes if size is not None)
    stride = max(1, window // 2) if stride is None else stride
    if window < 2 or not 0 < stride <= window:
        raise InputError(
            f"perplexity: got a window of {window} and a stride of {stride}, expected a window of 2 or more, and a "
            f"stride from 1 to it"
        )
    total, counted, read = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        labels = ids[begin:end].clone()
        labels[: read - begin] = -100  # counted in the window before
        with evaluation(model):
            logits = model(ids[None, begin:end]).logits[0].float()  # [W V]
        loss, count = BOOKS["fused"].cross_entropy(logits[:-1], labels[1:])
        total, counted, read = total + loss.item(), counted + int(count), end
        if end == len(ids):
            break
    mean = total / counted
    return Perplexity(
        perplexity=math.exp(mean) if mean < 700 else math.inf, loss=mean, tokens=counted, window=window, stride=stride
    )
