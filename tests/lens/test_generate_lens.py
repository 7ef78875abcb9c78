"""Next-token probabilities: those that `generate` draws from, and what temperature, top-k and top-p make of them."""

import json

import pytest
import torch
from lens_models import TEXT, fresh, loaded

from minitransformer import lens
from minitransformer.errors import InputError, TokenizerError
from minitransformer.lens.generate import generate

PLAIN = {}
CUT = {"temperature": 0.3, "top_k": 20, "top_p": 0.8}
HOT = {"temperature": 3.0}


def theirs(kind, **options):
    return loaded(kind).generate(
        TEXT, do_sample=True, output_scores=True, max_new_tokens=8, **{"top_k": 0, "top_p": 1.0, "seed": 5, **options}
    )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *(("gpt2", options) for options in (PLAIN, CUT, HOT, {"top_p": 0.3}, {"top_k": 1})),
        *((kind, CUT) for kind in ("llama", "t5", "bart")),
    ],
)
def test_tokens_and_probabilities_are_those_of_generate(kind, options):
    found = generate(loaded(kind), TEXT, max_new_tokens=8, seed=5, **options)
    expected = theirs(kind, **options)
    count = expected.probabilities.shape[1]
    assert found.drawn_ids.tolist() == expected.sequences[0, -count:].tolist()
    assert torch.equal(found.after, expected.probabilities[0].gather(1, found.candidate_ids))
    torch.testing.assert_close(found.drawn_after.log(), expected.log_probabilities[0])
    assert found.written == expected.texts[0]
    assert found.kept.tolist() == (expected.probabilities[0] > 0).sum(1).tolist()


@pytest.mark.parametrize("kind", ["gpt2", "bart"])
def test_before_is_the_models_own(kind):
    found, model = generate(loaded(kind), TEXT, max_new_tokens=8, seed=5, **CUT), loaded(kind)
    ids = model.tokenizer(TEXT)["input_ids"]
    with torch.no_grad():
        if kind == "gpt2":
            logits = model(torch.cat((ids, found.drawn_ids[None]), 1)).logits[0, ids.shape[1] - 1 : -1]
        else:
            start = torch.tensor([[model.transformer.config.decoder_start_id, *found.drawn_ids[:-1].tolist()]])
            logits = model(input_ids=ids, decoder_input_ids=start).logits[0]
    own = logits.softmax(-1)
    values, places = own.topk(50)
    torch.testing.assert_close(found.before, values)
    assert found.candidate_ids.tolist() == places.tolist()
    torch.testing.assert_close(found.drawn_before, own.gather(1, found.drawn_ids[:, None])[:, 0])
    assert found.rank.tolist() == [1 + int((row > row[i]).sum()) for row, i in zip(own, found.drawn_ids, strict=True)]
    warm = (logits / CUT["temperature"]).softmax(-1)  # what is cut off, by the definitions of top-k and top-p
    for step, row in enumerate(warm[:-1]):  # BART's config forces the end at the last step
        best = row.sort(descending=True)[0][: CUT["top_k"]]
        within = best / best.sum()
        kept = int((within.cumsum(0) - within < CUT["top_p"]).sum())
        assert found.kept[step] == kept
        assert found.left_out[step].item() == pytest.approx(1 - best[:kept].sum().item(), abs=1e-5)


def test_without_a_cut_nothing_is_left_out():
    found = generate(loaded("gpt2"), TEXT, max_new_tokens=4)
    assert found.left_out.tolist() == [0] * 4
    assert torch.equal(found.before, found.after)
    assert generate(loaded("gpt2"), TEXT, max_new_tokens=4, top_k=1).rank.tolist() == [1] * 4


def test_the_seed_decides():
    drawn = [tuple(generate(loaded("gpt2"), TEXT, max_new_tokens=6, seed=seed).tokens) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_checkpoints_other_rules_count():
    """A rule of its generation_config.json changes what is drawn from, and is no part of what was cut off."""
    model = fresh("gpt2")
    model.generation_config = {**(model.generation_config or {}), "repetition_penalty": 5.0, "num_beams": 3, "top_k": 7}
    found = generate(model, TEXT, max_new_tokens=4)
    assert not torch.equal(found.before, found.after)
    assert found.left_out.tolist() == [0] * 4


def test_what_is_kept_and_shown(tmp_path):
    found = lens.generate(loaded("gpt2"), TEXT, max_new_tokens=3, keep_top=9, **CUT)
    assert found.before.shape == found.after.shape == (3, 9)
    assert len(found.candidates_table().rows) == 27
    assert generate(loaded("gpt2"), TEXT, max_new_tokens=1, keep_top=10**6).before.shape[1] == 420
    read = json.loads(found.save(tmp_path / "a.json").read_text())
    assert [row["token"] for row in read["rows"]] == list(found.tokens)
    assert [row["before"] for row in read["candidates"][:9]] == found.before[0].tolist()
    assert "before" in found.save(tmp_path / "a.svg").read_text()
    bars = [patch.get_width() for patch in found.figure(2).axes[0].patches]
    assert bars == [*found.before[2].tolist(), *found.after[2].tolist()]
    with pytest.raises(InputError, match="step: got 3, expected one of 0 to 2"):
        found.figure(3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature: got 0"),
        ({"top_p": 0}, "top_p: got 0"),
        ({"top_k": -1}, "top_k: got -1"),
        ({"max_new_tokens": 0}, "max_new_tokens: got 0"),
        ({"keep_top": 0}, "keep_top: got 0"),
        ({"seed": "x"}, "seed: got 'x'"),
        ({"max_new_tokens": 1000}, "max_new_tokens: got 1000 with a prompt of"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(InputError, match=message):
        generate(loaded("gpt2"), TEXT, **options)


def test_models_that_do_not_write():
    with pytest.raises(InputError, match="got an encoder"):
        generate(loaded("bert"), TEXT)
    with pytest.raises((InputError, TokenizerError)):
        generate(loaded("vit"), TEXT)
    with pytest.raises(InputError, match="with the head"):
        generate(loaded("t5-base"), TEXT)
    with pytest.raises(InputError, match="prompt: got a list, expected one text"):
        generate(loaded("gpt2"), [TEXT])
