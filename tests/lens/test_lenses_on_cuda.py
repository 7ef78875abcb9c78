"""Every lens on a GPU gives what it gives on a CPU."""

import pytest
import torch
from lens_models import PAIR, TARGET, TEXT, fresh, loaded

from minitransformer import lens

pytestmark = pytest.mark.cuda
DEVICE = "cuda"
CLEAN, CORRUPTED = "The cat was good", "The car was good"
LENSES = {
    "attention": lambda model: lens.attention(model, TEXT).group().weights,
    "explain": lambda model: lens.explain(model, TEXT, 1, 1, 2).weights,
    "logit_lens": lambda model: lens.logit_lens(model, TEXT).final_probabilities,
    "logit_attribution": lambda model: torch.tensor(lens.logit_attribution(model, TEXT, ",").total),
    "patch": lambda model: lens.patch(model, CLEAN, CORRUPTED, at="z").scores,
    "ablate": lambda model: lens.ablate(model, [TEXT, PAIR], mode="mean").scores,
    "head_importance": lambda model: lens.head_importance(model, TEXT).scores,
    "head_types": lambda model: lens.head_types(model, TEXT).groups[0].scores,
    "rollout": lambda model: lens.rollout(model, TEXT).stacks[0].reached,
    "saliency": lambda model: lens.saliency(model, TEXT).values,
    "occlusion": lambda model: lens.saliency(model, TEXT, method="occlusion").values,
    "compare": lambda model: lens.compare(model, model, TEXT).divergence["attention"],
    "generate": lambda model: lens.generate(model, TEXT, max_new_tokens=3, seed=1, top_k=1).before,
}


@pytest.mark.parametrize("name", LENSES)
def test_a_lens(name):
    expected, found = LENSES[name](loaded("gpt2")), LENSES[name](fresh("gpt2").to(DEVICE))
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["bert", "t5", "bart"])
def test_a_page(kind):
    model = fresh(kind).to(DEVICE)
    target = {} if kind == "bert" else {"target": TARGET}
    assert lens.look(model, TEXT, **target).html().startswith("<!DOCTYPE html>")
    with model.muted(heads=[(0, 0)], **({} if kind == "bert" else {"attention": "cross"})):
        output, cache = model.run_with_cache(TEXT, names="*", **target)
    assert all(x.device.type == DEVICE for x in cache.values())
    assert output.logits.isfinite().all()
