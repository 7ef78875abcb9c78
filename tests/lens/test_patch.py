"""Patching: each place of a grid against transformers' model with that place exchanged by hand."""

import numpy as np
import pytest
import torch
import transformers
from lens_models import KINDS, folder, fresh, loaded

from minitransformer import lens
from minitransformer.errors import InputError
from minitransformer.lens import interventions
from minitransformer.lens.result import Result
from minitransformer.model.points import kinds_of_attention

CLEAN, CORRUPTED = "The cat was good", "The car was good"
ANSWER, FOIL = "a", "b"


def logits_with(model, batch, module, change):
    """transformers' logits, where `change` acts on what enters ("in") or leaves ("out") a module."""
    kind, place = module

    def enter(_, args, kwargs):
        return ((change(args[0]), *args[1:]), kwargs)

    def leave(_, args, output):
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    if kind == "in":
        handle = place.register_forward_pre_hook(enter, with_kwargs=True)
    else:
        handle = place.register_forward_hook(leave)
    with torch.no_grad():
        logits = model(**batch).logits
    handle.remove()
    return logits


def kept(model, batch, module):
    found = []
    logits = logits_with(model, batch, module, lambda x: found.append(x.clone()) or x)
    return logits, found[0]


def places(at, model, layer):
    """Where it is in transformers' GPT-2, and how many columns a place has: None for positions."""
    block = model.transformer.h[layer]
    return {
        "resid_pre": (("in", block), None),
        "attn_out": (("out", block.attn), None),
        "mlp_out": (("out", block.mlp), None),
        "z": (("in", block.attn.c_proj), 0),
        "q": (("out", block.attn.c_attn), 0),
        "k": (("out", block.attn.c_attn), 1),
        "v": (("out", block.attn.c_attn), 2),
    }[at]


def exchange(x, clean, place, third, heads, width):
    x = x.clone()
    if third is None:
        x[:, place] = clean[:, place]
    else:
        d_head = width // heads
        columns = slice(third * width + place * d_head, third * width + (place + 1) * d_head)
        x[..., columns] = clean[..., columns]
    return x


@pytest.mark.parametrize("at", ["resid_pre", "attn_out", "mlp_out", "z", "q", "k", "v"])
def test_each_place_is_as_if_exchanged_by_hand(at):
    ours = loaded("gpt2")
    model = transformers.GPT2LMHeadModel.from_pretrained(folder("gpt2"), attn_implementation="eager").eval()
    tokenizer = ours.tokenizer
    clean, corrupted = ({"input_ids": tokenizer(text)["input_ids"]} for text in (CLEAN, CORRUPTED))
    right, wrong = (tokenizer.encode(word)[0] for word in (ANSWER, FOIL))
    grid = lens.patch(ours, CLEAN, CORRUPTED, at=at, answer=ANSWER, foil=FOIL)

    def metric(logits):
        return (logits[0, -1, right] - logits[0, -1, wrong]).item()

    config = model.config
    expected = torch.zeros_like(grid.scores)
    assert expected.shape == (config.n_layer, clean["input_ids"].shape[1] if places(at, model, 0)[1] is None else 5)
    with torch.no_grad():
        low = metric(model(**corrupted).logits)
    for layer in range(config.n_layer):
        module, third = places(at, model, layer)
        logits, value = kept(model, clean, module)
        high = metric(logits)
        for place in range(expected.shape[1]):
            changed = logits_with(
                model,
                corrupted,
                module,
                lambda x, place=place, value=value, third=third: exchange(
                    x, value, place, third, config.n_head, config.n_embd
                ),
            )
            expected[layer, place] = (metric(changed) - low) / (high - low)
    assert (grid.clean, grid.corrupted) == pytest.approx((high, low), abs=1e-5)
    torch.testing.assert_close(grid.scores, expected, atol=2e-3, rtol=2e-3)  # quotients of small differences
    assert grid.scores.abs().max() > 0.01


def test_a_pattern_that_is_exchanged_weighs_the_old_values():
    model = loaded("gpt2")
    grid = lens.patch(model, CLEAN, CORRUPTED, at="pattern", answer=ANSWER)
    _, clean = model.run_with_cache(CLEAN)
    _, cache = model.run_with_cache(CORRUPTED)
    token = model.tokenizer.encode(ANSWER)[0]
    for layer in range(3):
        for head in range(5):

            def change(z, hook, layer=layer, head=head):
                z = z.clone()
                z[0, :, head] = clean["pattern", layer][0, head] @ cache["v", layer][0, :, head]
                return z

            with torch.no_grad():
                output = model.run_with_hooks(CORRUPTED, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", change)])
            score = (float(output.logits[0, -1, token]) - grid.corrupted) / (grid.clean - grid.corrupted)
            assert grid.scores[layer, head].item() == pytest.approx(score, abs=2e-3)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert", "albert", "classifier"])
def test_all_positions_at_once_restore_the_clean_run(kind):
    model = loaded(kind)
    texts = ("x was good", "y was good") if "bert" in KINDS[kind][0] else (CLEAN, CORRUPTED)
    clean, corrupted = (model.read(text).batch for text in texts)
    output, cache = model.run_with_cache(clean, names="*.hook_resid_pre")

    def metric(output):
        return output.logits.flatten(0, -2)[-1].square().sum()

    for name, value in cache.items():
        with torch.no_grad():
            values = interventions.changed_values(
                model.transformer, corrupted, metric, name, [lambda x, value=value: value, lambda x: x]
            )
        restored, as_before = values.tolist()
        assert restored == pytest.approx(float(metric(output)), rel=1e-6)
        assert as_before == pytest.approx(float(metric(model(**corrupted)).detach()), rel=1e-6)
        assert restored != pytest.approx(as_before, rel=1e-4)


def test_the_only_position_restores_all():
    grid = lens.patch(loaded("gpt2"), "a", "b", answer="a", foil="b")
    torch.testing.assert_close(grid.scores, torch.ones(3, 1, dtype=torch.float64), atol=1e-5, rtol=0)


def test_a_causal_model_sees_no_change_behind_the_answer():
    grid = lens.patch(loaded("gpt2"), CLEAN, CORRUPTED, answer=ANSWER, position=3)
    assert torch.equal(grid.scores[:, 4:], torch.zeros(3, 4, dtype=torch.float64))
    assert grid.scores[0, 2].item() == pytest.approx(1, abs=1e-5)  # the only token that differs, before all else


def test_without_an_answer_it_is_that_of_either_run():
    model = loaded("gpt2")
    first, second = (model(**model.tokenizer(text)).logits[0, -1].detach() for text in ("The cat", "The car"))
    right, wrong = first.argmax(), second.argmax()
    assert right != wrong
    grid = lens.patch(model, "The cat", "The car")
    assert grid.clean == pytest.approx(float(first[right] - first[wrong]), abs=1e-5)
    assert grid.corrupted == pytest.approx(float(second[right] - second[wrong]), abs=1e-5)


@pytest.mark.parametrize("kind", ["bert", "classifier", "albert", "roberta"])
def test_encoders(kind):
    model = loaded(kind)
    mask = model.tokenizer.special["mask_token"] if kind != "classifier" else "film"
    texts = [f"The {word} was a {mask}." for word in (("cat", "car") if kind == "roberta" else "xy")]
    grid = lens.patch(model, *texts, answer="a" if kind == "bert" else None)
    differing = [a != b for a, b in zip(grid.tokens, grid.corrupted_tokens, strict=True)]
    assert any(differing)
    assert grid.scores[0][~torch.tensor(differing)].abs().max() < 1e-3
    if sum(differing) == 1:  # the only one that differs, before all else
        assert grid.scores[0][torch.tensor(differing)].item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", ["t5", "t5-base", "bart", "bart-classifier"])
@pytest.mark.parametrize("at", ["resid_pre", "attn_out", "mlp_out", "z", "pattern"])
def test_models_of_two_stacks(kind, at):
    model = loaded(kind)
    target = {} if kind == "bart-classifier" else {"target": "It was a cat."}
    for attention in ("encoder", "decoder", "cross"):
        grid = lens.patch(model, CLEAN, CORRUPTED, at=at, attention=attention, **target)
        heads = kinds_of_attention(model)[attention]
        columns = len(grid.tokens) if at in ("resid_pre", "attn_out", "mlp_out") else heads.stack.config.heads
        assert grid.scores.shape == (heads.layers, columns)
        assert grid.scores.isfinite().all()
        assert attention == "decoder" or grid.scores.abs().max() > 1e-3
        first, second = (model.read(text, **target) for text in (CLEAN, CORRUPTED))
        side = "tokens" if attention == "encoder" else "decoder_tokens"
        assert (grid.tokens, grid.corrupted_tokens) == (getattr(first, side), getattr(second, side))
        if (attention, at) == ("encoder", "resid_pre"):
            differ = torch.tensor([a != b for a, b in zip(first.tokens, second.tokens, strict=True)])
            assert grid.scores[0][~differ].abs().max() < 1e-3


def test_what_a_model_writes_for_the_clean_text_is_read_in_both_runs():
    model = loaded("t5")
    clean, corrupted = (model.read(text) for text in ("It", "a"))
    assert clean.decoder_tokens != corrupted.decoder_tokens

    def metric(output):
        return output.logits.square().mean()

    grid = lens.patch(model, "It", "a", attention="cross", at="z", metric=metric)
    same = {**corrupted.batch, "decoder_input_ids": clean.batch["decoder_input_ids"]}
    with torch.no_grad():
        assert grid.clean == pytest.approx(float(metric(model(**clean.batch))), rel=1e-6)
        assert grid.corrupted == pytest.approx(float(metric(model(**same))), rel=1e-6)
    assert grid.tokens == grid.corrupted_tokens == clean.decoder_tokens


@pytest.mark.parametrize(
    ("attention", "at", "point"),
    [
        ("encoder", "attn_out", "encoder.0.hook_attn_out"),
        ("decoder", "attn_out", "decoder.0.hook_attn_out"),
        ("cross", "attn_out", "decoder.0.hook_cross_attn_out"),
        ("cross", "mlp_out", "decoder.0.hook_mlp_out"),
    ],
)
def test_points_of_two_stacks(attention, at, point):
    model = fresh("t5-base")
    model.transformer.double()
    texts = {"target": "It was good."}

    def metric(output):
        return output.last_hidden_state[0, -1, 0]

    grid = lens.patch(model, CLEAN, CORRUPTED, attention=attention, at=at, metric=metric, **texts)
    _, clean = model.run_with_cache(CLEAN, names=point, **texts)
    for place in (0, len(grid.tokens) - 1):

        def change(x, hook, place=place):
            x = x.clone()
            x[:, place] = clean[point][:, place]
            return x

        with torch.no_grad():
            output = model.run_with_hooks(CORRUPTED, fwd_hooks=[(point, change)], **texts)
        score = (float(metric(output)) - grid.corrupted) / (grid.clean - grid.corrupted)
        assert abs(score) > 1e-4 or attention == "decoder"  # which has not looked at the text yet
        assert grid.scores[0, place].item() == pytest.approx(score, abs=1e-6)


def test_noise_is_no_difference():
    numbers = iter([1.0, 1 + 1e-8])
    with pytest.raises(InputError, match="nothing to restore"):
        lens.patch(loaded("gpt2"), CLEAN, CORRUPTED, metric=lambda output: next(numbers))


def test_without_a_head_it_is_the_distance():
    model = loaded("t5-base")
    texts = {"target": "It was."}
    grid = lens.patch(model, CLEAN, CORRUPTED, attention="encoder", **texts)
    clean, corrupted = (
        model(**model.read(text, **texts).batch).last_hidden_state.detach() for text in (CLEAN, CORRUPTED)
    )
    assert grid.clean == 0
    assert grid.corrupted == pytest.approx(np.linalg.norm((clean - corrupted)[0].numpy(), axis=-1).mean(), rel=1e-4)


def test_small_passes_give_the_same(monkeypatch):
    whole = lens.patch(loaded("gpt2"), CLEAN, CORRUPTED, answer=ANSWER).scores
    monkeypatch.setattr(interventions, "MOST_TOKENS", 1)
    torch.testing.assert_close(
        lens.patch(loaded("gpt2"), CLEAN, CORRUPTED, answer=ANSWER).scores, whole, atol=1e-4, rtol=0
    )


def is_evaluating(model):
    """A metric that looks whether dropout is off."""

    def metric(output):
        assert not any(module.training for module in model.transformer.modules())
        return output.last_hidden_state.square().mean()

    return metric


def test_the_model_is_as_before():
    model = fresh("gpt2").train()
    batch, before = model.tokenizer(CLEAN), {name: x.clone() for name, x in model.named_parameters()}
    with pytest.raises(ZeroDivisionError):
        lens.patch(model, CLEAN, CORRUPTED, metric=lambda output: 1 / 0)
    lens.patch(model, CLEAN, CORRUPTED, at="pattern", metric=is_evaluating(model))
    assert all(module.training for module in model.transformer.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.transformer.modules())
    assert all(torch.equal(x, before[name]) and x.grad is None for name, x in model.named_parameters())
    assert torch.equal(model.eval()(**batch).logits, loaded("gpt2")(**batch).logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corrupted": "The film was good"}, r"got 8 and 7 tokens, expected as many; from 1 on .*'Ġc', 'at'.*'Ġfilm'"),
        ({"corrupted": CLEAN}, "nothing to restore"),
        ({"metric": lambda output: 1.0}, "the metric is 1 and 1: there is nothing to restore"),
        ({"metric": lambda output: float("nan")}, "nothing to restore"),
        ({"answer": "a", "position": 1}, "nothing to restore"),  # before the token that differs
        ({"metric": lambda output: output.logits}, r"metric: it returned a tensor of shape \[1, 8, \d+\]"),
        ({"metric": lambda output: 1.0, "answer": "a"}, "give either"),
        ({"at": "hook_z"}, "expected one of resid_pre, attn_out"),
        ({"attention": "cross"}, "cross"),
        ({"answer": "good film"}, "expected one token"),
        ({"position": 99, "answer": "a"}, "expected 0 to 7"),
        ({"corrupted": ""}, "no token"),
        ({"target": "x"}, "one stack"),
    ],
)
def test_what_cannot_be_patched(options, message):
    with pytest.raises(InputError, match=message):
        lens.patch(**{"model": loaded("gpt2"), "clean": CLEAN, "corrupted": CORRUPTED, **options})


def test_of_several_kinds_of_attention_one_is_named():
    with pytest.raises(InputError, match="encoder, decoder, cross"):
        lens.patch(loaded("bart"), CLEAN, CORRUPTED)


def test_the_result(tmp_path):
    grid = lens.patch(loaded("gpt2"), CLEAN, CORRUPTED, answer=ANSWER)
    assert isinstance(grid, Result)
    assert grid.labels[2] == "at|ar"
    table = grid.table()
    assert table.columns == ("position", "token", "layer 0", "layer 1", "layer 2")
    assert [row[2:] for row in table.rows] == [tuple(column) for column in grid.scores.T.tolist()]
    by_head = lens.patch(loaded("gpt2"), CLEAN, CORRUPTED, answer=ANSWER, at="z")
    assert by_head.table().columns == ("head", "layer 0", "layer 1", "layer 2")
    (tab,) = by_head.tabs()
    assert (tab.selects, tab.signed, tab.column_name) == ("attention", True, "head")
    assert grid.to_dict()["clean"] == grid.clean
    assert f"{grid.clean:.4g} clean" in str(grid)
    for suffix in ("svg", "json", "csv", "html"):
        assert grid.save(tmp_path / f"a.{suffix}").stat().st_size > 100
    assert ">at|ar</text>" in (tmp_path / "a.svg").read_text()
