"""The same gradients as transformers in float64, carried over by the rules that carry the weights."""

import re

import pytest
import torch
from oracle import CASES, DECODERS, IMAGES, ROTARY, checkpoint, make_batch, make_targets, their_targets, theirs

import minitransformer as mt
from minitransformer.checkpoint import make_plan
from minitransformer.families import Alias

ROUNDED = {"t5", "marian"} | IMAGES | ROTARY  # transformers computes parts of them in float32
CHECKED = [case for case in CASES if case.variant in ("plain", "odd", "decoder", "window", "biased", "unshared")]


def loss_of(case, model, batch, targets):
    """The head's own loss; without a loss, a weighted sum of all that comes out at real tokens."""
    output = model(**batch, **targets)
    if targets:
        return output.loss
    state = output.logits if getattr(output, "logits", None) is not None else output.last_hidden_state
    weights = torch.randn(state.shape, generator=torch.Generator().manual_seed(3)).double()
    mask = batch.get("decoder_attention_mask", batch.get("attention_mask"))
    if mask is not None:
        weights = weights * mask[..., None]
    total = (state * weights).sum()
    pooled = getattr(output, "pooler_output", None)
    return total if pooled is None else total + (pooled * weights[:, 0]).sum()


def in_double(tensors):
    return {name: x.double() if x.is_floating_point() else x for name, x in tensors.items()}


def without_padding(model, plan, tensors):
    """transformers never trains an embedding's padding row; here it is trained where it is read."""
    for name, module in model.named_modules():
        row = getattr(module, "padding_idx", None)
        if row is not None and f"{name}.weight" in plan.files:
            tensors[plan.files[f"{name}.weight"].ours[0]][row] = 0


@pytest.mark.parametrize(("padding", "book"), [("right", "by_hand"), ("left", "fused")])
@pytest.mark.parametrize("case", CHECKED, ids=str)
def test_gradients(case, padding, book, monkeypatch):
    # transformers' losses turn float64 to float32
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else x.to(torch.float32))
    if case.family in DECODERS and case.head == "question-answering":
        padding = "none"  # the answer's softmax is over padding, too, which sees no token at all on the left
    if case.family in ROTARY and (padding == "left" or case.variant == "window"):
        padding = "none"  # where a token sees none, transformers' weights are NaN in float64
    reference = theirs(case, dtype=torch.float64)
    model = mt.load(checkpoint(case), dtype=torch.float64).use(book)
    batch = make_batch(case, padding)
    targets = {} if case.head == "image-classification-with-teacher" else make_targets(case, batch)
    batch, targets = (
        {name: x.double() if x.is_floating_point() else x for name, x in tensors.items()}
        for tensors in (batch, targets)
    )
    loss_of(case, reference, batch, their_targets(case, targets)).backward()
    loss_of(case, model, batch, targets).backward()

    gradients = {name: x.grad for name, x in reference.named_parameters(remove_duplicate=False) if x.grad is not None}
    in_file = {name: name for name in gradients}
    aliases = [rule for rule in model.family.rules(model.transformer.config) if isinstance(rule, Alias)]
    for name in in_file:
        for alias in aliases:  # transformers' names in memory may not be those of its files
            in_file[name] = re.sub(alias.pattern, alias.replacement, in_file[name])
    gradients = {in_file[name]: x for name, x in gradients.items()}
    plan = make_plan(model.family, model.transformer, prefix=prefix_of(case, model))
    expected = {}
    for entry in plan.entries:
        if entry.file in gradients:
            expected.update(entry.read(gradients[entry.file]))
    ours = {name: x.grad for name, x in model.named_parameters() if x.grad is not None}
    assert ours.keys() == expected.keys()
    largest = max(float(x.abs().max()) for x in expected.values())
    assert largest > 1e-3
    for tensors in (ours, expected):
        without_padding(reference, plan, tensors)
    tolerance = 1e-5 if case.family in ROUNDED else 1e-9
    for name, gradient in ours.items():
        # Relative to the largest of all: a key's bias changes nothing, so that its gradient is rounding and no more.
        torch.testing.assert_close(
            gradient,
            expected[name],
            atol=tolerance * largest,
            rtol=tolerance,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def prefix_of(case, model):
    """What transformers writes before its parameters' names: nothing where the class is the base itself."""
    return "" if model.transformer.config.head is None else model.family.prefix_of(case.head)
