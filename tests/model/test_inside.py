"""Changing what is inside, muting heads, and keeping what was asked for."""

import dataclasses

import pytest
import torch
from plain_transformer import embed, run_stack
from small_models import albert, bart, bert, gpt2, ids, inputs, kinds, llama, noisy, padding, paper, qwen, t5, vit
from test_capture_points import state

from minitransformer.errors import InputError
from minitransformer.generation import GenerationConfig, generate
from minitransformer.model import capture, hooks, muted, run_with_cache, run_with_hooks
from minitransformer.model.adapters import add_adapters, add_lora
from minitransformer.model.inside import chosen_points
from minitransformer.model.memory import capture_bytes, check_memory
from minitransformer.model.points import points
from minitransformer.model.weights import weights

SOURCE, MASK = ids(3, 5, seed=1), padding([5, 2, 4], 5)
TARGET = ids(3, 4, seed=2)
BATCH = {"input_ids": SOURCE, "attention_mask": MASK}
TWO = {**BATCH, "decoder_input_ids": TARGET}
KINDS = kinds()
MODELS = pytest.mark.parametrize("kind", KINDS)


def batch_of(config):
    return {name: x.double() if x.is_floating_point() else x for name, x in inputs(config).items()}


def hidden(model, batch):
    return model(**batch).last_hidden_state


def near(x, y):
    return torch.allclose(x, y, rtol=1e-10, atol=1e-10)


# ------------------------------------------------------------------------------------------------------------- changing


@MODELS
def test_every_point_can_be_changed(kind):
    """What is put there reaches the output: no point is a copy beside the computation."""
    model = noisy(KINDS[kind])
    batch = batch_of(model.config)
    plain = model(**batch)
    for name in points(model):
        with hooks(model, [(name, lambda x, hook: x + torch.arange(x.numel()).view(x.shape).sin())]):
            changed = model(**batch)
        assert any(not near(x, vars(plain)[field]) for field, x in vars(changed).items() if x is not None), name


@MODELS
def test_every_point_put_back_as_it_was_changes_nothing(kind):
    model = noisy(KINDS[kind])
    batch = batch_of(model.config)
    with capture(model, "*") as seen:
        plain = hidden(model, batch)
    for name, x in seen.items():
        with hooks(model, [(name, lambda _, hook, x=x: x.clone())]):
            assert near(hidden(model, batch), plain), name


def test_what_is_changed_is_what_the_formula_gives():
    """The stream between the sub-layers of a pre-norm block: a part of the sum, not only of the norm's input."""
    model = noisy(gpt2())
    weights, config, added = model.state_dict(), model.config.decoder, torch.randn(3, 5, 12).double()
    with hooks(model, [("blocks.0.hook_resid_mid", lambda x, hook: x + added)]):
        changed = hidden(model, BATCH)
    x, _ = embed(model.config.embed, weights, SOURCE)
    one = dataclasses.replace(config, layers=1, final_norm=False)
    _, seen = run_stack(one, weights, "decoder", "blocks", x, MASK)
    mid = seen["blocks.0.hook_resid_mid"] + added
    h = torch.nn.functional.layer_norm(
        mid, (12,), weights["decoder.layers.0.ffn_norm.weight"], weights["decoder.layers.0.ffn_norm.bias"], 1e-3
    )
    up = torch.nn.functional.gelu(
        h @ weights["decoder.layers.0.ffn.up.weight"].T + weights["decoder.layers.0.ffn.up.bias"], approximate="tanh"
    )
    post = mid + up @ weights["decoder.layers.0.ffn.down.weight"].T + weights["decoder.layers.0.ffn.down.bias"]
    rest = {name.replace("layers.1", "layers.0"): w for name, w in weights.items()}
    last = dataclasses.replace(config, layers=1)
    expected, _ = run_stack(last, rest, "decoder", "blocks", post, MASK)
    torch.testing.assert_close(changed, expected, rtol=1e-9, atol=1e-9)


def test_the_stream_adds_up():
    """Pre-norm: each part of the stream is the sum of what the sub-layers wrote."""
    model = noisy(t5())
    with capture(model, "*") as seen:
        model(**TWO)
    for side in ("encoder", "decoder"):
        for i in range(2):
            at = f"{side}.{i}.hook_"
            mid = seen[f"{at}resid_pre"] + seen[f"{at}attn_out"]
            assert near(mid, seen[f"{at}resid_mid"])
            mid = mid + seen[f"{at}cross_attn_out"] if side == "decoder" else mid
            assert near(mid + seen[f"{at}mlp_out"], seen[f"{at}resid_post"])
            assert near(seen[f"{side}.{i}.attn.hook_result"].sum(2), seen[f"{at}attn_out"])  # T5 has no biases


def test_hooks_see_the_point_and_act_in_their_order():
    model, told = noisy(gpt2()), []

    def double(x, hook):
        told.append((hook.name, hook.layer()))
        return 2 * x

    def look(x, hook):
        told.append(x)

    name = "blocks.1.attn.hook_z"
    with capture(model, name) as seen:
        model(**BATCH)
    run_with_hooks(model, BATCH, [(name, double), (name, look)])
    assert told[0] == (name, 1)
    torch.testing.assert_close(told[1], 2 * seen[name])


@pytest.mark.parametrize("name", ["blocks.1.hook_resid_pre", "blocks.0.attn.hook_z", "blocks.1.attn.hook_pattern"])
def test_gradients_by_bwd_hooks(name):
    model, seen = noisy(gpt2()), {}
    run_with_hooks(
        model, BATCH, bwd_hooks=[(name, lambda x, hook: seen.update({hook.name: x}))]
    ).logits.sum().backward()
    _, cache = run_with_cache(model, BATCH, names=name, grad=True)
    output, cache = run_with_cache(model, BATCH, names=name, grad=True)
    (expected,) = torch.autograd.grad(output.logits.sum(), [cache[name]])
    torch.testing.assert_close(seen[name], expected)


def test_a_changed_gradient_flows_on():
    model = noisy(gpt2())
    run_with_hooks(model, BATCH, bwd_hooks=[("hook_embed", lambda x, hook: x * 0)]).last_hidden_state.sum().backward()
    assert not model.embed.tokens.weight.grad.any()  # the head's own use of the table is not in this number
    assert model.embed.positions.weight.grad.any()


def test_gradients_of_each_point():
    model = noisy(llama())
    output, cache = run_with_cache(model, BATCH, names="blocks.*", grad=True)
    for name, gradient in zip(
        cache, torch.autograd.grad(output.logits.square().sum(), list(cache.values()), allow_unused=True), strict=True
    ):
        assert gradient is not None, name
        assert gradient.any(), name


@pytest.mark.parametrize(
    ("answer", "got"), [(torch.zeros(1), r"\[1\]"), (3.0, "float"), (torch.zeros(3, 5, 3, 5), r"\[3, 5, 3, 5\]")]
)
def test_an_answer_that_cannot_take_the_place(answer, got):
    model = noisy(gpt2())
    with pytest.raises(InputError, match=f"blocks.0.attn.hook_z: the hook returned {got}.*, expected"):
        run_with_hooks(model, BATCH, [("blocks.0.attn.hook_z", lambda x, hook: answer)])
    with pytest.raises(InputError, match=r"the point 'blocks.2.hook_z'.*layers 0 to 1, heads 0 to 2"):
        run_with_hooks(model, BATCH, [("blocks.2.hook_z", lambda x, hook: None)])


def test_after_an_exception_in_a_hook_the_model_is_as_before():
    model = noisy(paper())
    before, plain = state(model), hidden(model, TWO)

    def fail(x, hook):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        run_with_hooks(model, TWO, [("*", fail)])
    assert state(model) == before
    assert torch.equal(hidden(model, TWO), plain)


def test_generation_is_changed_at_every_step():
    """Token after token goes another way through the model than a text does: without modules, where nobody looks."""
    model = noisy(gpt2(), dtype=torch.float32)
    config = GenerationConfig(max_new_tokens=6)
    with torch.no_grad():
        for norm in (
            "blocks.1.ln2.hook_normalized",
            "blocks.0.attn.hook_z",
            "blocks.0.hook_resid_mid",
            "blocks.1.hook_*_pre",
        ):
            halve = (norm, lambda x, hook: x * -0.5)
            ids = SOURCE[:1]
            with hooks(model, [halve]):
                written = generate(model, ids, config=config)
                for _ in range(6):
                    ids = torch.cat((ids, model(ids).logits[:, -1:].argmax(-1)), dim=1)
            assert torch.equal(written, ids), norm
        assert not torch.equal(generate(model, SOURCE[:1], config=config), ids)


@pytest.mark.parametrize("backend", ["module", "method"])
def test_a_compiled_model_is_refused(backend):
    model = noisy(gpt2())
    compiled = torch.compile(model, backend="eager") if backend == "module" else model
    if backend == "method":
        model.compile(backend="eager")
    for look in (capture(compiled, "*"), muted(compiled, [(0, 0)])):
        with pytest.raises(InputError, match=r"the model is compiled: .* look into"), look:
            pass


def test_a_part_that_is_compiled_is_refused():
    model = noisy(gpt2())
    model.decoder.layers[0].compile(backend="eager")
    with pytest.raises(InputError, match="compiled"):
        model(**BATCH, output_attentions=True)


# --------------------------------------------------------------------------------------------------------------- muting


def without(model, pairs, attention="self_attn", side=None):
    """The same model, whose output projections read zeros from these heads."""
    config = model.config
    side = side or ("encoder" if config.encoder else "decoder")
    width = getattr(config, side).d_head
    other = noisy(config)
    with torch.no_grad():
        for layer, head in pairs:
            block = getattr(other, side).layers[layer]
            getattr(block, attention).o.weight[:, head * width : (head + 1) * width] = 0
    return other


@MODELS
def test_a_mask_of_ones_is_the_identity_bit_for_bit(kind):
    model = noisy(KINDS[kind], dtype=torch.float32)
    batch = inputs(model.config)
    stacks = [s for s in (model.encoder, model.decoder) if s is not None]
    masks = dict(
        zip(
            ("head_mask", "decoder_head_mask"),
            (torch.ones(len(s.blocks), s.config.heads) for s in stacks),
            strict=False,
        )
    )
    if len(stacks) == 2:
        masks["cross_attn_head_mask"] = masks["decoder_head_mask"]
    assert torch.equal(model(**batch, **masks).last_hidden_state, model(**batch).last_hidden_state)


@pytest.mark.parametrize("config", [bert(), gpt2(), llama(), vit()], ids=["bert", "gpt2", "llama", "vit"])
def test_a_mask_of_zeros_removes_the_head(config):
    model, batch = noisy(config), batch_of(config)
    mask = torch.ones(2, (config.encoder or config.decoder).heads)
    mask[1, 2] = mask[0, 0] = 0
    expected = hidden(without(model, [(1, 2), (0, 0)]), batch)
    assert near(hidden(model, {**batch, "head_mask": mask}), expected)
    with muted(model, heads=[(1, 2), (0, 0)]):
        assert near(hidden(model, batch), expected)
    with muted(model, heads=[(-1, 2), (0, 0)]):
        assert near(hidden(model, batch), expected)
    assert not near(hidden(model, batch), expected)


@pytest.mark.parametrize(
    ("mask", "attention", "side", "part"),
    [
        ("head_mask", "encoder", "encoder", "self_attn"),
        ("decoder_head_mask", "decoder", "decoder", "self_attn"),
        ("cross_attn_head_mask", "cross", "decoder", "cross_attn"),
    ],
)
def test_heads_of_two_stacks(mask, attention, side, part):
    model = noisy(bart())
    expected = hidden(without(model, [(1, 0)], part, side), TWO)
    zeros = torch.ones(2, 3)
    zeros[1, 0] = 0
    assert near(hidden(model, {**TWO, mask: zeros}), expected)
    with muted(model, [(1, 0)], attention=attention):
        assert near(hidden(model, TWO), expected)


def test_a_turn_of_a_shared_block():
    """ALBERT's block 1 computes three times: its head is muted in one turn, or with a mask of a row in all."""
    model = noisy(albert())
    everywhere = hidden(without(model, [(1, 0)]), BATCH)
    mask = torch.ones(5, 3)
    mask[1, 0] = mask[2, 0] = mask[4, 0] = 0
    assert near(hidden(model, {**BATCH, "head_mask": mask}), everywhere)
    with muted(model, [(2, 0)]):
        once = hidden(model, BATCH)
    assert not near(once, everywhere)
    assert not near(once, hidden(model, BATCH))


def test_a_mask_may_be_a_row_for_all_layers_and_has_a_gradient():
    model = noisy(gpt2())
    row = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64, requires_grad=True)
    out = hidden(model, {**BATCH, "head_mask": row})
    assert near(out, hidden(model, {**BATCH, "head_mask": row.expand(2, 3)}))
    out.square().sum().backward()
    step = torch.tensor([1e-6, 0, 0], dtype=torch.float64)
    with torch.no_grad():
        up, down = (hidden(model, {**BATCH, "head_mask": row + d}).square().sum() for d in (step, -step))
    assert row.grad[0].item() == pytest.approx((up - down).item() / 2e-6, rel=1e-5)


def test_muted_to_the_mean_or_to_looking_everywhere():
    model = noisy(gpt2())
    with capture(model, ["blocks.0.attn.hook_z", "blocks.0.attn.hook_pattern"]) as plain:
        model(**BATCH)
    with capture(model, ["blocks.0.attn.hook_z"]) as seen, muted(model, [(0, 1)], "mean"):
        model(**BATCH)
    outside = capture(model, ["blocks.0.attn.hook_result"])  # what is read behind the change sees it
    with muted(model, [(0, 1)], "mean"), outside as behind:
        model(**BATCH)
    assert near(seen["blocks.0.attn.hook_z"], plain["blocks.0.attn.hook_z"])  # read before the change
    of_head = plain["blocks.0.attn.hook_z"][:, :, 1].mean((0, 1)) @ weights(model).W_O[0, 1]
    assert near(behind["blocks.0.attn.hook_result"][:, :, 1], of_head.expand(3, 5, -1))
    with muted(model, [(0, 1)], "uniform"), capture(model, ["blocks.0.attn.hook_pattern"]) as even:
        model(**BATCH)
    pattern, before = even["blocks.0.attn.hook_pattern"], plain["blocks.0.attn.hook_pattern"]
    allowed = torch.ones(5, 5).tril().bool() & MASK.bool()[:, None]  # [B T S]
    assert near(pattern[:, 1], allowed / allowed.sum(-1, keepdim=True).double())
    assert torch.equal(pattern[:, 0], before[:, 0])


@pytest.mark.parametrize(
    ("heads", "options", "message"),
    [
        ([(2, 0)], {}, "layer: got 2, expected 0 to 1"),
        ([(0, 3)], {}, "head: got 3, expected 0 to 2"),
        ([(0, -1)], {}, "head: got -1"),
        ([3], {}, r"heads: got 3, expected pairs"),
        ([(0, 0)], {"mode": "none"}, "mode: got 'none', expected one of zero, mean, uniform"),
        ([(0, 0)], {"attention": "cross"}, "attention: got 'cross', expected decoder"),
    ],
)
def test_heads_that_do_not_exist(heads, options, message):
    with pytest.raises(InputError, match=message), muted(noisy(gpt2()), heads, **options):
        pass


def test_which_attention_has_to_be_said():
    with pytest.raises(InputError, match="say which: encoder, decoder, cross"), muted(noisy(bart()), [(0, 0)]):
        pass


@pytest.mark.parametrize("mask", [torch.ones(3, 3), torch.ones(4), [1, 1, 1]])
def test_masks_of_another_shape(mask):
    with pytest.raises(InputError, match=r"head_mask of decoder attention: got .* shape \[2, 3\] or \[3\]"):
        noisy(gpt2())(**BATCH, head_mask=mask)
    with pytest.raises(InputError, match="decoder_head_mask: this model has one stack"):
        noisy(gpt2())(**BATCH, decoder_head_mask=torch.ones(3))


# -------------------------------------------------------------------------------------------------------------- keeping


def test_what_is_kept():
    model = noisy(bert())
    output, cache = run_with_cache(model, BATCH)
    assert torch.equal(output.last_hidden_state, cache["blocks.1.hook_normalized_resid_post"])
    assert set(cache) == {name for name in points(model) if "hook_result" not in name}
    assert not any(x.requires_grad for x in cache.values())
    _, cache = run_with_cache(model, BATCH, names="*.hook_result")
    assert list(cache) == ["blocks.0.attn.hook_result", "blocks.1.attn.hook_result"]
    _, cache = run_with_cache(model, BATCH, names=lambda name: name.endswith("hook_pattern"))
    assert len(cache) == 2
    _, cache = run_with_cache(model, BATCH, names=["hook_embed"], grad=True)
    assert cache["hook_embed"].requires_grad


def test_short_forms_of_one_stack():
    _, cache = run_with_cache(noisy(bert()), BATCH)
    for short, name in {
        ("pattern", 1): "blocks.1.attn.hook_pattern",
        ("hook_q", -1): "blocks.1.attn.hook_q",
        ("resid_post", -1): "blocks.1.hook_resid_post",
        ("pre", 0): "blocks.0.mlp.hook_pre",
        ("scale", 0, "ln1"): "blocks.0.ln1.hook_scale",
        "encoder.1.attn.hook_pattern": "blocks.1.attn.hook_pattern",
        "encoder.hook_full_embed": "hook_full_embed",
        "blocks.0.hook_in": "blocks.0.hook_resid_pre",
        "blocks.0.hook_out": "blocks.0.hook_normalized_resid_post",
        "blocks.0.attn.k.hook_out": "blocks.0.attn.hook_k",
    }.items():
        assert cache[short] is cache[name]
        assert short in cache
    assert cache.encoder["pattern", 0] is cache["pattern", 0]
    assert ("pattern", 2) not in cache
    _, cache = run_with_cache(noisy(gpt2()), BATCH, names=["decoder.0.hook_out", "decoder.*.attn.v.hook_out"])
    assert set(cache) == {"blocks.0.hook_resid_post", "blocks.0.attn.hook_v", "blocks.1.attn.hook_v"}


def test_short_forms_of_two_stacks():
    _, cache = run_with_cache(noisy(bart()), TWO)
    assert cache.decoder["pattern", 0, "cross_attn"] is cache["decoder.0.cross_attn.hook_pattern"]
    assert cache.decoder["cross_attn_out", 1] is cache["decoder.1.hook_cross_attn_out"]
    assert cache.encoder["pattern", 0].shape[-2:] == (5, 5)
    assert all(name.startswith("encoder.") for name in cache.encoder)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("blocks.0.hook_patern", "was not captured; there are"),
        (("pattern", 7), "layer: got 7, expected 0 to 1"),
        (("pattern", "x"), "expected "),
        (("pattern",), "expected "),
        (("result", 0), "blocks.0.attn.hook_result: was not captured"),
    ],
)
def test_what_was_not_kept(key, message):
    _, cache = run_with_cache(noisy(gpt2()), BATCH)
    with pytest.raises(InputError, match=message):
        cache[key]
    with pytest.raises(InputError, match="encoder: this model has none"):
        _ = cache.encoder


def test_of_two_stacks_which_has_to_be_said():
    _, cache = run_with_cache(noisy(bart()), TWO)
    with pytest.raises(InputError, match=r"say cache\.encoder"):
        cache["pattern", 0]


@MODELS
def test_the_memory_is_known_before(kind):
    model = noisy(KINDS[kind])
    batch = batch_of(model.config)
    for name, point in points(model).items():
        _, cache = run_with_cache(model, batch, names=name)
        found = capture_bytes(model, [point], batch)
        assert found == cache.nbytes or ("embed" in name and found >= cache.nbytes), name
    assert capture_bytes(model, chosen_points(model, "*").values(), batch) > 0


def test_a_capture_that_does_not_fit_is_refused(monkeypatch):
    model = noisy(gpt2())
    monkeypatch.setattr("minitransformer.model.memory.free_memory", lambda device: 1000)
    with pytest.raises(InputError, match=r"capturing \d+ points of this batch takes .* GiB are free; give less text"):
        run_with_cache(model, BATCH)
    run_with_cache(model, {"input_ids": SOURCE[:1, :1]}, names="hook_embed")
    monkeypatch.setattr("minitransformer.model.memory.free_memory", lambda device: None)
    check_memory(model, points(model).values(), BATCH)


# -------------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    "config", [bert(), gpt2(), llama(), qwen(), t5(), albert()], ids=lambda c: str(c.embed.d_embed)
)
def test_weights_by_head_compute_what_the_model_computes(config):
    """From a block's normalised input to its heads' results, with the matrices alone."""
    model = noisy(config)
    attention = "encoder" if config.decoder and config.encoder else None
    w = weights(model, attention)
    batch = TWO if attention else BATCH
    _, cache = run_with_cache(model, batch, names="*")
    cache = cache.encoder if attention else cache
    pre = (config.encoder or config.decoder).norm_order == "pre"
    for layer in range(len((config.encoder or config.decoder).order)):
        block = (model.encoder or model.decoder).blocks[layer]
        x = cache["resid_pre", layer]
        x = block.self_attn_norm(x) if pre else x
        q = torch.einsum("btd,hde->bthe", x, w.W_Q[layer]) + w.b_Q[layer]
        assert near(q, cache["q", layer])
        k = torch.einsum("btd,hde->bthe", x, w.W_K[layer]) + w.b_K[layer]
        group = q.shape[2] // cache["k", layer].shape[2]
        assert near(k, cache["k", layer].repeat_interleave(group, dim=2))
        moved = torch.einsum(
            "bhts,bshd->bthd", cache["pattern", layer], torch.einsum("btd,hdf->bthf", x, w.OV.AB[layer])
        )
        of_bias = torch.einsum("bhts,he,hed->bthd", cache["pattern", layer], w.b_V[layer], w.W_O[layer])
        assert near(moved + of_bias, cache["result", layer])
        assert near(cache["result", layer].sum(2) + w.b_O[layer], cache["attn_out", layer])


def test_weights_of_tokens():
    for config, batch in ((gpt2(), BATCH), (t5(), TWO), (bart(), TWO), (albert(), BATCH), (llama(), BATCH)):
        model = noisy(config)
        two = "decoder_input_ids" in batch
        w = weights(model, "cross" if two else None)
        _, cache = run_with_cache(model, batch)
        assert near(cache["unembed.hook_in"] @ w.W_U + w.b_U, cache["unembed.hook_out"])
        assert near(
            w.W_E[batch["decoder_input_ids" if two else "input_ids"]],
            cache["decoder.hook_embed" if two else "hook_embed"],
        )
    assert weights(noisy(vit())).W_E is weights(noisy(vit())).W_U is None


def test_factored_matrices():
    w = weights(noisy(gpt2()))
    for product in (w.QK, w.OV):
        full = product.AB
        assert full.shape == (2, 3, 12, 12)
        s = torch.linalg.svdvals(full)
        torch.testing.assert_close(product.S, s[..., :4])
        torch.testing.assert_close(product.U * product.S[..., None, :] @ product.Vh, full)
        torch.testing.assert_close(product.norm(), torch.linalg.matrix_norm(full))
        largest = torch.linalg.eigvals(full).abs().sort(-1, descending=True).values[..., :4]
        torch.testing.assert_close(product.eigenvalues.abs().sort(-1, descending=True).values, largest)
        assert product[1, 2].AB.equal(full[1, 2])


def test_adapters():
    model = noisy(gpt2())
    add_lora(model, targets=("q", "o"))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora" in name:
                weight += torch.randn(weight.shape)
    model.double().eval()
    _, cache = run_with_cache(model, BATCH, names="*")
    w = weights(model)
    assert near(cache["result", 1].sum(2) + w.b_O[1], cache["attn_out", 1])
    x = model.decoder.blocks[0].self_attn_norm(cache["resid_pre", 0])
    assert near(torch.einsum("btd,hde->bthe", x, w.W_Q[0]) + w.b_Q[0], cache["q", 0])

    model = noisy(gpt2())
    add_adapters(model, size=2)
    with pytest.raises(InputError, match="hook_result: what stands behind these heads is no matrix"):
        run_with_cache(model.double(), BATCH, names="*.hook_result")
    with pytest.raises(InputError, match="there is no W_O of a head"):
        weights(model)
    run_with_cache(model, BATCH)
