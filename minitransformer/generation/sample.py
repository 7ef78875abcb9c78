"""Token after token: the most probable one (greedy), or one drawn by its probability (sampling)."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.generation.decoder import Decoder
from minitransformer.generation.processors import Processor, process
from minitransformer.generation.stopping import Stopping

FORBIDDEN = "generate: no token is left to choose: the settings forbid every one, or the model's logits are not finite"


@torch.inference_mode()
def tokens(
    decoder: Decoder,
    ids: Tensor,
    *,
    processors: Sequence[Processor],
    stopping: Stopping,
    draw: bool,
    generator: torch.Generator | None,
    padding: int,
    copies: int = 1,
) -> Iterator[Tensor]:
    """The next token of each text until all have ended, then `padding` for those that have. ids [B T], yields [R 1].

    R = B · copies: with several, each prompt goes on as often as that.
    """
    logits = decoder.read(ids)  # [B V]
    if copies > 1:
        decoder.repeat(copies)
        ids, logits = ids.repeat_interleave(copies, dim=0), logits.repeat_interleave(copies, dim=0)  # [R T], [R V]
    ended = [False] * len(ids)
    while True:
        scores = process(processors, ids, logits)  # [R V]
        chosen = sampled(scores, 1, generator) if draw else scores.argmax(-1, keepdim=True)  # [R 1]
        if not draw:
            check_allowed(scores.gather(1, chosen)[:, 0], ended)
        if any(ended):
            chosen = chosen.masked_fill(torch.tensor(ended, device=chosen.device)[:, None], padding)
        ids = torch.cat((ids, chosen), dim=1)  # [R T+1]
        ended = [before or now for before, now in zip(ended, stopping(ids), strict=True)]
        yield chosen
        if all(ended):
            return
        logits = decoder.read(chosen)  # [R V]


def check_allowed(scores: Tensor, ended: Sequence[bool]) -> None:
    """Raise an InputError if a text that goes on has nothing to go on with: its best score, of [R], is -∞ or NaN."""
    if any(not math.isfinite(score) and not done for score, done in zip(scores.tolist(), ended, strict=True)):
        raise InputError(FORBIDDEN)


def sampled(scores: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """`count` different columns of each row, drawn with the probabilities softmax(scores). [R V] -> int [R count]."""
    try:
        return torch.multinomial(scores.softmax(-1), count, generator=generator)
    except RuntimeError as error:
        raise InputError(FORBIDDEN) from error
