"""The exercises of lesson 8: fine-tune a model, and ask whether attention explains it."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from minitransformer.lens.answers import answer_of
from minitransformer.lens.gradients import Score, rows_read, score_of
from minitransformer.lens.gradients import integrated_gradients as by_the_library
from minitransformer.lens.occlusion import occlusion
from minitransformer.lessons.exercise import Cases, Exercise, Wrong, draw
from minitransformer.loading import load
from minitransformer.model import Output
from minitransformer.ops import by_hand

Function = Callable[[Tensor], Tensor]  # of rows [T D], a number
Slip = Literal[None, "piles up", "never moves", "after the step"]

# ------------------------------------------------------------------------------------------------------------ 8.1: loss


def logits_and_labels() -> Cases:
    """Small logits, some that are too large for exp, and some whose probability is too small for a number."""
    return {
        "3 texts and 2 labels": (draw(3, 2), torch.tensor([1, 0, 1])),
        "4 texts and 5 labels": (draw(4, 5, seed=1) * 2, torch.tensor([4, 0, 2, 1])),
        "logits around 1000": (draw(3, 4, seed=2) + 1000, torch.tensor([3, 1, 0])),
        "logits of 0 and 200, of which the first is the right label's": (torch.tensor([[0.0, 200]]), torch.tensor([0])),
    }


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The library's sum of losses, divided by how many there are. [B labels], int [B] -> []."""
    total, count = by_hand.cross_entropy(logits, labels)
    return total / count


def _of_label(x: Tensor, labels: Tensor) -> Tensor:
    """Of each row the number of its label. [B labels], int [B] -> [B]."""
    return x[torch.arange(len(labels)), labels]


# ------------------------------------------------------------------------------------------------------------ 8.2: loop


class Small(nn.Module):
    """A classifier of two matrices that is called as the library's are: model(**batch, labels=labels).loss."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Parameter(draw(3, 4) / 2), nn.Parameter(draw(4, 2, seed=1) / 2)

    def forward(self, inputs: Tensor, labels: Tensor) -> Output:
        """inputs [B 3], labels int [B]."""
        logits = (inputs @ self.inner).tanh() @ self.head  # [B 2]
        return Output(logits=logits, loss=mean_loss(logits, labels))


def to_train() -> Cases:
    """A model, an optimizer and four batches: plain gradient descent, and AdamW."""
    cases = {}
    for name, kind, rate in (("gradient descent", torch.optim.SGD, 0.5), ("AdamW", torch.optim.AdamW, 0.1)):
        model = Small()
        batches = [({"inputs": draw(6, 3, seed=2 + i)}, (draw(6, seed=9 + i) > 0).long()) for i in range(4)]
        cases[f"4 batches, {name}"] = (model, kind(model.parameters(), lr=rate), batches)
    return cases


Batches = Sequence[tuple[Mapping[str, Tensor], Tensor]]


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches, slip: Slip = None) -> list[float]:
    """The loss of each batch, before the step that it leads to; `slip`: what is done wrong."""
    losses = []
    for batch, labels in batches:
        loss = model(**batch, labels=labels).loss
        loss.backward()
        if slip != "never moves":
            optimizer.step()
        if slip != "piles up":
            optimizer.zero_grad()
        losses.append((model(**batch, labels=labels).loss if slip == "after the step" else loss).item())
    return losses


# ------------------------------------------------------------------------------------------------------- 8.3: occlusion

WORTH = {"the": 0.1, "not": 0.4, "good": 2.0, "dull": -1.5, "film": 0.3, "[MASK]": -0.2}


def judged(tokens: Sequence[str]) -> float:
    """A number for a list of tokens, in which words, places and neighbours count."""
    if isinstance(tokens, str):
        raise TypeError("score takes a list of tokens, not one text")
    unknown = [token for token in tokens if token not in WORTH]
    if unknown:
        raise ValueError(f"score got {unknown[0]!r:.40}, which is neither a word of the text nor '[MASK]'")
    score = sum(WORTH[token] * (1 + 0.1 * place) for place, token in enumerate(tokens))
    return score - 2.5 * sum(pair == ("not", "good") for pair in itertools.pairwise(tokens))


def to_occlude() -> Cases:
    """Two texts, the first with a word twice."""
    return {
        "the film the good": (judged, ["the", "film", "the", "good"]),
        "the dull film not good": (judged, ["the", "dull", "film", "not", "good"]),
    }


def drops(score: Callable[[list[str]], float], tokens: Sequence[str]) -> list[float]:
    """The library's occlusion; a row is the number of its word."""
    words = [*tokens, "[MASK]"]
    scores: Score = lambda rows: torch.tensor(
        [score([words[i] for i in row]) for row in rows["x"].tolist()], dtype=torch.float64
    )
    text = torch.arange(len(tokens))[None]
    return occlusion(scores, {"x": text}, {"x": torch.full_like(text, len(tokens))})["x"].tolist()


def _piling_up(score: Callable[[list[str]], float], tokens: Sequence[str]) -> list[float]:
    whole, masked, found = score([*tokens]), [*tokens], []
    for i in range(len(tokens)):
        masked[i] = "[MASK]"
        found.append(whole - score(masked))
    return found


def _all_but_one(score: Callable[[list[str]], float], tokens: Sequence[str]) -> list[float]:
    others = [["[MASK]"] * i + [token] + ["[MASK]"] * (len(tokens) - i - 1) for i, token in enumerate(tokens)]
    return [score([*tokens]) - score(each) for each in others]


# -------------------------------------------------------------------------------------------- 8.4: integrated gradients


def cubic(x: Tensor) -> Tensor:
    """A number for rows [T D]: cubes, and products of neighbouring rows."""
    return (x**3).sum() / 3 + (x[:-1] * x[1:]).sum()


@cache
def _real() -> tuple[Function, Tensor]:
    """The logit of the next token in builtin:shakespeare as a function of the tokens' rows, and those rows [T D]."""
    model = load("builtin:shakespeare")
    reading = model.read("ROMEO: I love")
    answer = answer_of(model, reading, model(**reading.batch), None, None)
    score = score_of(model.transformer, reading.batch, answer)
    (name, rows), *_ = rows_read(model.transformer, reading.batch).items()
    return lambda x: score({name: x[None].to(rows)})[0], rows[0].clone()


def to_attribute() -> Cases:
    """A function whose gradient is known, from zeros and from elsewhere; a logit of a real model."""
    real, rows = _real()
    return {
        "3 rows of width 2, from zeros": (cubic, draw(3, 2) + 0.5, torch.zeros(3, 2), 50),
        "4 rows of width 3, from ones": (cubic, draw(4, 3, seed=1), torch.ones(4, 3), 40),
        "a logit of builtin:shakespeare": (real, rows, torch.zeros_like(rows), 50),
    }


def integrated(f: Function, x: Tensor, baseline: Tensor, steps: int) -> Tensor:
    """The library's integrated gradients, which place their steps better. x, baseline [T D] -> [T]."""
    score: Score = lambda rows: torch.stack([f(each) for each in rows["x"]])
    return by_the_library(score, {"x": x[None]}, {"x": baseline[None]}, steps)["x"]


def _slope(f: Function, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(f(x), x)[0]


def _mean_slope(f: Function, x: Tensor, baseline: Tensor, shares: Tensor) -> Tensor:
    """The mean gradient at these shares of the way from the baseline to x. [T D] -> [T D]."""
    return torch.stack([_slope(f, baseline + share * (x - baseline)) for share in shares.tolist()]).mean(0)


def _middles(steps: int) -> Tensor:
    """The middles of equal pieces of the way from 0 to 1. -> [steps]."""
    return (torch.arange(steps) + 0.5) / steps


EXERCISES = (
    Exercise(
        number="8.1",
        asks="loss(logits, labels): the mean cross-entropy",
        cases=logits_and_labels,
        right=mean_loss,
        wrong=(
            Wrong(
                "You summed the losses of the texts; their mean is asked.",
                lambda logits, labels: by_hand.cross_entropy(logits, labels)[0],
            ),
            Wrong("The sign is wrong: a loss is never negative.", lambda *given: -mean_loss(*given)),
            Wrong(
                "There is no logarithm in it: that is how improbable the right label is, on average.",
                lambda logits, labels: 1 - _of_label(logits.softmax(-1), labels).mean(),
            ),
            Wrong(
                "There is no logarithm in it: that is the mean probability of the right label, with a minus.",
                lambda logits, labels: -_of_label(logits.softmax(-1), labels).mean(),
            ),
            Wrong(
                "Your softmax runs over the texts; each text shares out 1 among its labels.",
                lambda logits, labels: -_of_label(logits.log_softmax(0), labels).mean(),
            ),
            Wrong(
                "logits[:, labels] takes every label of the list for every text. Each text has one label of its own.",
                lambda logits, labels: -logits.log_softmax(-1)[:, labels].mean(),
            ),
            Wrong(
                "You took the mean over all labels; only the right one of each text counts.",
                lambda logits, labels: -logits.log_softmax(-1).mean(),
            ),
            Wrong(
                "You took the logarithm of the mean probability; each text has its own logarithm, then comes the mean.",
                lambda logits, labels: -_of_label(logits.softmax(-1), labels).mean().log(),
            ),
            Wrong(
                "You took the mean over texts and labels; divide by the number of texts alone.",
                lambda logits, labels: mean_loss(logits, labels) / logits.shape[-1],
            ),
            Wrong(
                "The softmax is missing: that is the mean logit of the right label, with a minus.",
                lambda logits, labels: -_of_label(logits, labels).mean(),
            ),
            Wrong(
                "Softmax twice: cross_entropy has one inside.",
                lambda logits, labels: mean_loss(logits.softmax(-1), labels),
            ),
            Wrong("That is the library's pair, a sum and a count: divide.", by_hand.cross_entropy),
            Wrong(
                "A very small probability rounds to 0, and its logarithm is −∞: use log_softmax.",
                lambda logits, labels: -_of_label(logits.softmax(-1), labels).log().mean(),
            ),
            Wrong(
                "Logits around 1000 give NaN, for exp(1000) is infinite: use log_softmax, or logsumexp.",
                lambda logits, labels: (
                    -_of_label(logits.exp() / logits.exp().sum(-1, keepdim=True), labels).log().mean()
                ),
            ),
        ),
        hints=(
            "Three steps: log softmax of each row, the number of the right label in each row, minus their mean.",
            "logits.log_softmax(-1), then x[rows, labels] with rows = torch.arange(len(labels)).",
            "-logits.log_softmax(-1)[torch.arange(len(labels)), labels].mean().",
        ),
        stands="ops/by_hand.py, cross_entropy (a sum and a count)",
    ),
    Exercise(
        number="8.2",
        asks="train(model, optimizer, batches): the training loop, and the loss of each batch",
        cases=to_train,
        right=trained,
        wrong=(
            Wrong(
                "Gradients pile up: backward() adds to what is there. They must be set to zero before the next batch.",
                lambda model, optimizer, batches: trained(model, optimizer, batches, slip="piles up"),
            ),
            Wrong(
                "The weights never move. Is there a step for each batch, and is the gradient still there by then?",
                lambda model, optimizer, batches: trained(model, optimizer, batches, slip="never moves"),
            ),
            Wrong(
                "You measured each loss again after its step; return the one that you differentiated.",
                lambda model, optimizer, batches: trained(model, optimizer, batches, slip="after the step"),
            ),
            Wrong(
                "That is the loss of the last batch alone; collect one for each.", lambda *given: trained(*given)[-1]
            ),
            Wrong(
                "Your list has the last loss only: make it once, before the loop.",
                lambda *given: trained(*given)[-1:],
            ),
            Wrong("That is the loss of the first batch alone.", lambda *given: trained(*given)[:1]),
            Wrong(
                "You return the mean; a list is asked, one loss for each batch.",
                lambda *given: sum(trained(*given)) / 4,
            ),
        ),
        hints=(
            "For each batch: the loss, backward, step, zero_grad.",
            "loss = model(**batch, labels=labels).loss is the first; collect loss.item() in a list.",
            "In the loop loss.backward(), optimizer.step(), optimizer.zero_grad(), in this order; return the list.",
        ),
        stands="finetune/loop.py, train",
        tolerance=1e-4,
    ),
    Exercise(
        number="8.3",
        asks="occlusion(score, tokens): how much the score drops when each token is masked",
        cases=to_occlude,
        right=drops,
        wrong=(
            Wrong(
                "The sign is wrong: a word that the score rests on has a positive drop.",
                lambda score, tokens: [-x for x in drops(score, tokens)],
            ),
            Wrong("The masks pile up: each word is to be masked alone. Copy the list each time.", _piling_up),
            Wrong(
                "All your drops are 0. `masked = tokens` makes no copy: it is a second name for the same list, which "
                "you compare with itself.",
                lambda score, tokens: [0.0] * len(tokens),
            ),
            Wrong(
                "You put [MASK] in, but left the word there, too: the list must not grow.",
                lambda score, tokens: [
                    score([*tokens]) - score([*tokens[:i], "[MASK]", *tokens[i:]]) for i in range(len(tokens))
                ],
            ),
            Wrong(
                "tokens.index finds the first place of a word, also where it occurs twice; count the places instead.",
                lambda score, tokens: [drops(score, tokens)[tokens.index(token)] for token in tokens],
            ),
            Wrong("You masked all words but one; mask one, and leave the others.", _all_but_one),
            Wrong(
                "You left the word out, so all later words move up a place. Put [MASK] where it stood.",
                lambda score, tokens: [
                    score([*tokens]) - score([*tokens[:i], *tokens[i + 1 :]]) for i in range(len(tokens))
                ],
            ),
            Wrong(
                "Those are the scores with a word masked; the drop is the score of the whole text less that.",
                lambda score, tokens: [score([*tokens]) - x for x in drops(score, tokens)],
            ),
            Wrong(
                "You dropped the signs: a word can speak against the answer, and then the score rises without it.",
                lambda score, tokens: [abs(x) for x in drops(score, tokens)],
            ),
            Wrong(
                "You divided by the score of the whole text; the difference itself is asked.",
                lambda score, tokens: [x / score([*tokens]) for x in drops(score, tokens)],
            ),
            Wrong(
                "Where a word occurs twice, you masked each of them; go by places, not by words.",
                lambda score, tokens: [
                    score([*tokens]) - score(["[MASK]" if other == token else other for other in tokens])
                    for token in tokens
                ],
            ),
        ),
        hints=(
            "For each place i: the score of all tokens, less the score of the list with [MASK] at place i.",
            'tokens[:i] + ["[MASK]"] + tokens[i + 1 :] is a new list with the mask at place i.',
            "One list comprehension over i in range(len(tokens)): score(tokens) - score(that list).",
        ),
        stands="lens/occlusion.py, occlusion",
    ),
    Exercise(
        number="8.4",
        asks="integrated_gradients(f, x, baseline, steps): (x - x') · the mean gradient on the way from x' to x",
        cases=to_attribute,
        right=integrated,
        wrong=(
            Wrong(
                "That is the mean gradient itself; the factor x - baseline is missing.",
                lambda f, x, x0, steps: _mean_slope(f, x, x0, _middles(steps)).sum(-1),
            ),
            Wrong(
                "You summed the gradients of all steps; their mean is asked.",
                lambda f, x, x0, steps: integrated(f, x, x0, steps) * steps,
            ),
            Wrong(
                "That is gradient × input: the gradient at x alone, without the way there.",
                lambda f, x, x0, steps: (_slope(f, x) * x).sum(-1),
            ),
            Wrong(
                "You took the gradient at x alone; take its mean over the way from the baseline to x.",
                lambda f, x, x0, steps: (_slope(f, x) * (x - x0)).sum(-1),
            ),
            Wrong(
                "You multiplied by x; it is the way, x - baseline, that counts.",
                lambda f, x, x0, steps: (_mean_slope(f, x, x0, _middles(steps)) * x).sum(-1),
            ),
            Wrong(
                "The sign is wrong: the way leads from the baseline to x, so the factor is x - baseline.",
                lambda *given: -integrated(*given),
            ),
            Wrong(
                "Your way starts at zero, whatever the baseline is: the points are baseline + share · (x - baseline).",
                lambda f, x, x0, steps: (_mean_slope(f, x, x * 0, _middles(steps)) * (x - x0)).sum(-1),
            ),
            Wrong(
                "You took the end of each piece of the way; its middle, at (i + 0.5) / steps, is much closer.",
                lambda f, x, x0, steps: (_mean_slope(f, x, x0, _middles(steps) + 0.5 / steps) * (x - x0)).sum(-1),
            ),
            Wrong(
                "You took the start of each piece of the way; its middle, at (i + 0.5) / steps, is much closer.",
                lambda f, x, x0, steps: (_mean_slope(f, x, x0, _middles(steps) - 0.5 / steps) * (x - x0)).sum(-1),
            ),
            Wrong(
                "i + 0.5 / steps divides the 0.5 only. It takes brackets: (i + 0.5) / steps.",
                lambda f, x, x0, steps: (_mean_slope(f, x, x0, torch.arange(steps) + 0.5 / steps) * (x - x0)).sum(-1),
            ),
            Wrong(
                "That is the gradient of the last step alone: add all of them up in the loop.",
                lambda f, x, x0, steps: (_mean_slope(f, x, x0, _middles(steps)[-1:]) * (x - x0)).sum(-1),
            ),
            Wrong(
                "You took the mean over the width; the sum is asked.",
                lambda f, x, x0, steps: integrated(f, x, x0, steps) / x.shape[-1],
            ),
            Wrong(
                "You have not summed over the width: one number for each row is asked.",
                lambda f, x, x0, steps: _mean_slope(f, x, x0, _middles(steps)) * (x - x0),
            ),
        ),
        hints=(
            "Cut the line from the baseline to x into equal pieces, and take f's gradient in the middle of each.",
            "point = (baseline + share * (x - baseline)).requires_grad_(), torch.autograd.grad(f(point), point)[0]. "
            "The [0] is needed: grad gives a tuple.",
            "share is (i + 0.5) / steps. The mean of these gradients, times (x - baseline), and .sum(-1).",
        ),
        stands="lens/gradients.py, integrated_gradients",
        tolerance=1e-3,
    ),
    Exercise(
        number="8.5",
        asks="prediction: where the most attended word stands between a blind choice and the best one",
        right=lambda: "c",
        wrong=(
            Wrong(
                "So one would think: what a model looks at is what it needs. In the table, compare attention with "
                "a blind choice.",
                lambda: "a",
            ),
            Wrong(
                "Attention does less well than that: look at its line, in the column *from 0 to 1* of the table.",
                lambda: "b",
            ),
            Wrong(
                "In our one sentence it was so. On average, words that speak for and against the answer cancel out.",
                lambda: "d",
            ),
        ),
        hints=(
            "A weight says how much of a value enters. Does it say what is in that value?",
            "A word that speaks for the answer can be looked at, and a word that speaks against it, too.",
            "Look at the column *from 0 to 1* of the table: which of 1, ½, 0 is the line of attention closest to?",
        ),
        stands="lens/attention.py, Attention.notes",
    ),
)
