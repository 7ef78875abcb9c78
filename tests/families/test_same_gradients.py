"""The same gradients as transformers in float64, carried over by the rules that carry the weights."""

import pytest
import torch
from oracle import CASES, checkpoint, make_batch, make_targets, theirs

import minitransformer as mt
from minitransformer.checkpoint import make_plan


def loss_of(case, model, batch, targets):
    """The head's own loss; without a head, a weighted sum of all that comes out at real tokens."""
    output = model(**batch, **targets)
    if case.head != "base":
        return output.loss
    weights = torch.randn(output.last_hidden_state.shape, generator=torch.Generator().manual_seed(3)).double()
    total = (output.last_hidden_state * weights * batch["attention_mask"][..., None]).sum()
    pooled = getattr(output, "pooler_output", None)
    return total if pooled is None else total + (pooled * weights[:, 0]).sum()


@pytest.mark.parametrize("book", ["by_hand", "fused"])
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients(case, padding, book, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x)  # transformers' losses turn float64 to float32
    if (case.family, case.head, padding) == ("gpt2", "question-answering", "left"):
        padding = "none"  # the answer's softmax is over padding, too, which sees no token at all
    reference = theirs(case, dtype=torch.float64)
    model = mt.load(checkpoint(case), dtype=torch.float64).use(book)
    batch = make_batch(case, padding)
    targets = make_targets(case, batch)
    targets = {name: x.double() if x.is_floating_point() else x for name, x in targets.items()}
    loss_of(case, reference, batch, targets).backward()
    loss_of(case, model, batch, targets).backward()

    gradients = {name: x.grad for name, x in reference.named_parameters()}
    prefix = "" if case.head == "base" else model.family.prefix
    plan = make_plan(model.family, model.transformer, prefix=prefix)
    expected = {}
    for entry in plan.entries:
        expected.update(entry.read(gradients[entry.file]))
    ours = {name: x.grad for name, x in model.named_parameters()}
    assert ours.keys() == expected.keys()
    largest = max(float(x.abs().max()) for x in expected.values())
    assert largest > 1e-3
    if case.family == "bert":  # whose padding row transformers never trains; here it is trained where it is read
        ours["embed.tokens.weight"][0] = expected["embed.tokens.weight"][0] = 0
    for name, gradient in ours.items():
        # Relative to the largest of all: a key's bias changes nothing, so that its gradient is rounding and no more.
        torch.testing.assert_close(
            gradient, expected[name], atol=1e-9 * largest, rtol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )
