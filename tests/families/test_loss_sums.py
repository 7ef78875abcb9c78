"""The loss as (sum, count), by which parts of a batch add up: the quotient is the model's loss, and transformers'."""

import pytest
import torch
from oracle import PLAIN, both_models, make_batch, make_targets, their_targets

TAUGHT = ("base", "encoder", "image-classification-with-teacher")  # heads without a loss
CHECKED = [case for case in PLAIN if case.head not in TAUGHT]


@pytest.mark.parametrize("case", CHECKED, ids=str)
def test_sum_and_count(case):
    """With two stacks, the decoder reads what is made from the labels."""
    reference, model = both_models(case)
    batch = make_batch(case)
    targets = make_targets(case, batch)
    if case.two_stacks and case.head == "seq2seq-lm":
        del batch["decoder_input_ids"], batch["decoder_attention_mask"]
    with torch.no_grad():
        total, count = model.transformer.loss({**batch, **targets})
        ours = model(**batch, **targets)
        expected = reference(**batch, **their_targets(case, targets)).loss
    assert not count.is_floating_point()
    torch.testing.assert_close(total / count, ours.loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(total / count, expected, rtol=1e-5, atol=1e-5)
