"""Beam search: keep the K most probable texts, and lengthen all of them. Sutskever et al. 2014, section 3.2."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minitransformer.generation.decoder import Decoder
from minitransformer.generation.processors import Processor, process
from minitransformer.generation.sample import check_allowed, sampled
from minitransformer.generation.settings import GenerationConfig
from minitransformer.generation.stopping import Stopping

NEVER = -1e9  # added, times a mask, to scores of what must not be chosen; finite, for 0 · -∞ is not a number


@dataclass
class Finished:
    """The K best texts that have ended, of each prompt. Before there are K, some places hold none."""

    ids: Tensor  # [B K T]
    scores: Tensor  # [B K], descending
    lengths: Tensor  # [B K], tokens after the prompt; 0: none
    there: Tensor  # bool [B K]


@torch.inference_mode()
def beam_search(
    decoder: Decoder,
    ids: Tensor,
    *,
    config: GenerationConfig,
    processors: Sequence[Processor],
    stopping: Stopping,
    generator: torch.Generator | None,
    padding: int,
) -> Tensor:
    """The num_return_sequences best texts of each prompt, the best first. ids int [B T] -> [B · that, T'].

    A text's score is the sum of its log-probabilities after the processors, over its new tokens' number to the power
    of length_penalty. Wu et al. 2016, section 7, with another penalty. In the shapes, K is the number of beams and C
    that of the candidates to be among them.
    """
    batch, prompt = ids.shape
    beams = config.num_beams
    candidates = max(2, 1 + len(config.eos_token_id or ())) * beams  # so many that K of them have not ended
    first_of_text = torch.arange(batch, device=ids.device)[:, None] * beams  # [B 1]

    logits = decoder.read(ids).repeat_interleave(beams, dim=0)  # [B·K V]
    candidates = min(candidates, beams * logits.shape[1])
    decoder.repeat(beams)
    running = ids[:, None].expand(-1, beams, -1)  # [B K T]
    scores = torch.zeros(batch, beams, device=ids.device)  # [B K]
    scores[:, 1:] = NEVER  # the K beams are the same text still: only one of them may be lengthened
    finished = Finished(
        ids=running,
        scores=torch.full_like(scores, NEVER),
        lengths=torch.zeros_like(scores, dtype=torch.int64),
        there=torch.zeros_like(scores, dtype=torch.bool),
    )
    improvable = torch.ones(batch, 1, dtype=torch.bool, device=ids.device)
    while True:
        flat_ids = running.flatten(0, 1)  # [B·K T]
        log_probabilities = process(processors, flat_ids, logits.log_softmax(-1))  # [B·K V]
        sums = (log_probabilities.unflatten(0, (batch, beams)) + scores[..., None]).flatten(1)  # [B K·V]
        best = sampled(sums, candidates, generator) if config.do_sample else sums.topk(candidates)[1]  # [B C]
        best_sums = sums.gather(1, best)  # [B C]
        check_allowed(best_sums[:, 0], [False] * batch)
        parents, chosen = best // logits.shape[1], best % logits.shape[1]  # [B C]
        lengthened = torch.cat((_take(running, parents), chosen[..., None]), dim=2)  # [B C T+1]
        ended = torch.tensor(stopping(lengthened.flatten(0, 1)), device=ids.device).view(batch, -1)  # [B C]

        length = lengthened.shape[2] - prompt
        finished.ids = nn.functional.pad(finished.ids, (0, 1), value=padding)  # [B K T+1]
        finished = _update(finished, lengthened, best_sums, ended, improvable, config, length)
        scores, kept = (best_sums + ended * NEVER).topk(beams)  # [B K]
        running = _take(lengthened, kept)  # [B K T+1]

        # Can a text that goes on still become better than the worst of those that have ended?
        hoped = stopping.longest - prompt if config.early_stopping == "never" and config.length_penalty > 0 else length
        highest = scores[:, :1] / hoped**config.length_penalty  # [B 1]
        lowest = torch.where(finished.there, finished.scores.amin(1, keepdim=True), NEVER)  # [B K]
        improvable = improvable & (highest > lowest).any(1, keepdim=True)
        full = config.early_stopping is True and bool(finished.there.all())
        if full or bool(ended.all()) or not bool(improvable.any()):
            break
        decoder.reorder((parents.gather(1, kept) + first_of_text).flatten())
        logits = decoder.read(running[:, :, -1].reshape(-1, 1))  # [B·K V]

    returned = config.num_return_sequences
    width = prompt + int(finished.lengths[:, :returned].max())
    return finished.ids[:, :returned, :width].flatten(0, 1)  # [B · returned T']


def _update(
    finished: Finished,
    lengthened: Tensor,
    sums: Tensor,
    ended: Tensor,
    improvable: Tensor,
    config: GenerationConfig,
    length: int,
) -> Finished:
    """The K best of the texts that had ended and those that end now, if they are among the K best of all that go on."""
    beams = config.num_beams
    new = ended.clone()
    new[:, beams:] = False  # [B C]
    scores = sums / length**config.length_penalty  # [B C]
    full = finished.there.all(1, keepdim=True) & (config.early_stopping is True)  # [B 1]
    scores = scores + full * NEVER + ~improvable * NEVER + ~new * NEVER
    best = torch.cat((finished.scores, scores), dim=1).topk(beams)[1]  # [B K]
    return Finished(
        ids=_take(torch.cat((finished.ids, lengthened), dim=1), best),
        scores=torch.cat((finished.scores, scores), dim=1).gather(1, best),
        lengths=torch.cat((finished.lengths, torch.full_like(new, length, dtype=torch.int64)), dim=1).gather(1, best),
        there=torch.cat((finished.there, new), dim=1).gather(1, best),
    )


def _take(x: Tensor, places: Tensor) -> Tensor:
    """The rows `places`, int [B N], of each text's: [B M T] -> [B N T]."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[2]))
