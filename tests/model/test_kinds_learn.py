"""Each kind of model learns: a few steps lower its loss on one batch, and every weight that it reads takes part."""

import dataclasses

import pytest
import torch
from small_models import albert, bart, electra, ids, inputs, llama, marian, noisy, qwen, roberta, t5, vit

from minitransformer.model import build

TEXT, TARGET = ids(4, 6, seed=1), ids(4, 5, seed=2)
WHOLE = {"labels": torch.tensor([0, 1, 2, 3])}
CASES = {  # name -> (config, what it is trained on)
    "t5": (t5(), {"input_ids": TEXT, "labels": TARGET}),
    "llama": (llama(), {"input_ids": TEXT, "labels": TEXT}),
    "qwen": (qwen(), {"input_ids": TEXT, "labels": TEXT}),
    "vit": (vit(), inputs(vit(), 4) | WHOLE),
    "bart": (bart(), {"input_ids": TEXT, "labels": TARGET}),
    "marian": (marian(), {"input_ids": TEXT, "labels": TARGET}),
    "roberta": (roberta(), {"input_ids": TEXT} | WHOLE),
    "electra": (electra(), {"input_ids": TEXT, "labels": TEXT % 2}),
    "albert": (albert(), {"input_ids": TEXT, "labels": TEXT, "sentence_order_label": torch.tensor([0, 1, 0, 1])}),
}
books = pytest.mark.parametrize("book", ["fused", "by_hand"])


@books
@pytest.mark.parametrize("name", CASES)
def test_a_few_steps_lower_the_loss(name, book):
    config, batch = CASES[name]
    model = build(config).use(book).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@books
@pytest.mark.parametrize("name", CASES)
def test_every_weight_has_a_gradient(name, book):
    config, batch = CASES[name]
    model = noisy(config, book, torch.float64)
    model(**batch).loss.backward()
    without = {key for key, parameter in model.named_parameters() if parameter.grad is None}
    assert without == set()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    zero = {key for key, parameter in model.named_parameters() if parameter.grad.abs().max() < 1e-12}
    assert zero == {key for key in zero if key.endswith("attn.k.bias")}  # the same number on all scores of a query


@pytest.mark.parametrize("name", CASES)
def test_both_books_have_the_same_gradients(name):
    config, batch = CASES[name]
    gradients = []
    for book in ("fused", "by_hand"):
        model = noisy(config, book)
        model(**batch).loss.backward()
        gradients.append({key: parameter.grad for key, parameter in model.named_parameters()})
    for key, expected in gradients[1].items():
        near = {"rtol": 1e-9, "atol": 1e-11, "msg": lambda m, key=key: f"{key}: {m}"}
        torch.testing.assert_close(gradients[0][key], expected, **near)


def test_shared_tokens_learn_from_both_sides():
    """One table for source, target and logits: its gradient is the sum of what three tables would get."""
    tied = noisy(bart())
    separate_config = dataclasses.replace(
        bart(), shared_tokens=False, head=dataclasses.replace(bart().head, tied=False)
    )
    separate, weights = noisy(separate_config), tied.state_dict()
    table = weights["embed.tokens.weight"]
    separate.load_state_dict(weights | {"target_embed.tokens.weight": table, "head.lm.weight": table})
    for model in (tied, separate):
        model(TEXT, labels=TARGET).loss.backward()
    parts = (separate.embed.tokens.weight, separate.target_embed.tokens.weight, separate.head.lm.weight)
    total = sum(part.grad for part in parts)
    torch.testing.assert_close(tied.embed.tokens.weight.grad, total, rtol=1e-11, atol=1e-11)
