"""What looks and changes together with others: at one point, in every pass, beside what torch.compile makes."""

from contextlib import nullcontext, suppress

import pytest
import torch
from small_models import albert, bart, bert, gpt2, ids, inputs, kinds, noisy, padding, t5

from minitransformer.errors import InputError
from minitransformer.generation import GenerationConfig, generate
from minitransformer.model import capture, hooks, muted, run_with_cache, run_with_hooks
from minitransformer.model.adapters import add_lora
from minitransformer.model.points import points
from minitransformer.ops import BOOKS

SOURCE, MASK = ids(3, 5, seed=1), padding([5, 2, 4], 5)
BATCH = {"input_ids": SOURCE, "attention_mask": MASK}
RESULT = "blocks.0.attn.hook_result"
KINDS = kinds()


def hidden(model):
    return model(**BATCH).last_hidden_state


def zero(*heads):
    def fn(x, hook):
        return x.index_fill(2, torch.tensor(heads), 0)

    return fn


@pytest.mark.parametrize("grad", [True, False])
def test_changes_of_results_compose(grad):
    model, seen = noisy(gpt2()), []
    with nullcontext() if grad else torch.no_grad():
        with muted(model, [(0, 0), (0, 1)]):
            both = hidden(model)
        together = run_with_hooks(
            model, BATCH, [(RESULT, zero(0)), (RESULT, zero(1)), (RESULT, lambda x, hook: seen.append(x))]
        )
        with hooks(model, [(RESULT, zero(0))]), capture(model, RESULT) as inner:
            with hooks(model, [(RESULT, zero(1))]):
                nested = hidden(model)
            alone = hidden(model)
        with muted(model, [(0, 0)]):
            first = hidden(model)
    torch.testing.assert_close(together.last_hidden_state, both, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(nested, both, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(alone, first, rtol=1e-10, atol=1e-10)
    assert (seen[0][:, :, :2] == 0).all()
    assert (inner[RESULT][:, :, 0] == 0).all()


@pytest.mark.parametrize("name", points(noisy(gpt2())))
@torch.no_grad()
def test_a_change_in_place_counts(name):
    model = noisy(gpt2())
    plain = model(**BATCH)

    def change(x, hook):
        x.mul_(torch.arange(x.shape[-1]) + 2)

    with hooks(model, [(name, change)]):
        changed = model(**BATCH)
    assert not torch.equal(changed.logits, plain.logits)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_change_in_place_leaves_the_weights_as_they_are(kind):
    model = noisy(KINDS[kind], dtype=torch.float32)
    batch, before = inputs(model.config), {name: x.clone() for name, x in model.state_dict().items()}
    plain = model(**batch).last_hidden_state

    def change(x, hook):
        x.add_(1)

    with hooks(model, [("*", change)]):
        model(**batch)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert torch.equal(model(**batch).last_hidden_state, plain)


def test_looking_at_results_changes_no_bit_and_has_their_gradient():
    model = noisy(gpt2(), dtype=torch.float32)
    plain = model(**BATCH)
    output, cache = run_with_cache(model, BATCH, names=RESULT, grad=True)
    assert torch.equal(output.logits, plain.logits)
    of_plain = torch.autograd.grad(plain.logits.square().sum(), list(model.parameters()), allow_unused=True)
    of_seen = torch.autograd.grad(output.logits.square().sum(), [*model.parameters(), cache[RESULT]], allow_unused=True)
    for mine, its in zip(of_seen, of_plain, strict=False):
        if its is not None:
            torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-4)
    of_results = of_seen[-1]
    assert torch.equal(of_results[:, :, 0], of_results[:, :, 1])  # they are added up
    assert of_results.abs().max() > 0


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_looking_at_everything_changes_rounding_at_most(kind):
    model = noisy(KINDS[kind], dtype=torch.float32)
    batch = inputs(model.config)
    plain = model(**batch)
    output, cache = run_with_cache(model, batch, names="*")
    assert set(cache) == set(points(model))
    for name in ("last_hidden_state", "encoder_last_hidden_state", "logits"):
        x, y = getattr(output, name), getattr(plain, name)
        if y is not None:
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


def test_a_result_is_not_taken_apart_with_dropout():
    model = noisy(gpt2())
    add_lora(model, targets=("o",), rank=2, dropout=0.5)
    model = model.double().train()
    with pytest.raises(InputError, match="LoRA's dropout is on"):
        run_with_cache(model, BATCH, names=RESULT)
    run_with_cache(model.eval(), BATCH, names=RESULT)
    for part in model.train().modules():
        if hasattr(part, "merge"):
            part.merge()  # into one matrix, which has no dropout
    run_with_cache(model, BATCH, names=RESULT)


def test_results_keep_the_type_of_numbers():
    model, name = noisy(gpt2(), dtype=torch.float32), "blocks.0.hook_attn_out"
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        capture(model, name) as plain,
        capture(model, [name, RESULT]) as seen,
    ):
        model(**BATCH)
    with torch.autocast("cpu", dtype=torch.bfloat16), capture(model, name) as alone:
        model(**BATCH)
    assert plain[name].dtype == seen[name].dtype == alone[name].dtype == torch.bfloat16
    assert torch.equal(seen[name], alone[name])


def test_those_who_look_may_leave_in_any_order():
    model = noisy(bert())
    names = ["blocks.0.attn.hook_pattern", "blocks.0.ln1.hook_scale", RESULT]
    one, other = capture(model, names), capture(model, names)
    one.__enter__()
    seen = other.__enter__()
    one.__exit__(None, None, None)
    hidden(model)
    assert set(seen) == set(names)
    other.__exit__(None, None, None)
    assert all(getattr(part, "book", None) in (None, *BOOKS.values()) for part in model.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


@pytest.mark.parametrize("config", [gpt2(), t5(), bart()], ids=["gpt2", "t5", "bart"])
def test_every_pass_of_generating_is_seen(config):
    """Also of a table that both stacks use, and in the second text as in the first."""
    model = noisy(config, dtype=torch.float32)
    two = config.encoder is not None
    names = [
        name
        for name in points(model)
        if not ("encoder." in name or "cross_attn.hook_k" in name or "cross_attn.hook_v" in name)
    ]
    settings = GenerationConfig(max_new_tokens=4, decoder_start_token_id=1 if two else None)
    for _ in range(2):
        for wanted, times in ((names, 4), ([f"encoder.{name}" for name in ("hook_embed", "0.hook_resid_pre")], 1)):
            if wanted is not names and not two:
                continue
            seen = {}

            def count(x, hook, seen=seen):
                assert x.ndim == len(hook.shape.split()), hook.name
                seen[hook.name] = seen.get(hook.name, 0) + 1

            with hooks(model, [(name, count) for name in wanted]):
                generate(model, SOURCE[:1], config=settings)
            assert seen == dict.fromkeys(wanted, times)
    assert "encode" not in vars(model)


def test_stacks_that_share_a_table_are_told_apart_by_who_reads():
    model = noisy(t5())
    with capture(model, "*hook_embed") as seen:
        for _ in range(2):
            model.encode(SOURCE)
    assert list(seen) == ["encoder.hook_embed"]
    with capture(model, "*hook_embed") as seen:
        model(SOURCE, decoder_input_ids=SOURCE[:, :3])
    assert [x.shape[1] for x in seen.values()] == [5, 3]


def test_a_shared_block_takes_its_turns_in_each_pass():
    model = noisy(albert())
    with capture(model, "*hook_resid_pre") as seen:
        hidden(model)
        first = dict(seen)
        model(SOURCE[:, :3])
    assert len(first) == len(seen) == 5
    assert all(x.shape[1] == 3 for x in seen.values())


HOOK = ("blocks.0.attn.hook_z", lambda x, hook: x * 0)


@pytest.mark.filterwarnings("ignore")
def test_what_is_compiled_hides_no_change():
    model = noisy(gpt2())
    plain, changed = hidden(model), run_with_hooks(model, BATCH, [HOOK]).last_hidden_state
    around = torch.compile(model, backend="eager")
    with torch.no_grad():
        around(**BATCH)
        with hooks(model, [HOOK]):
            torch.testing.assert_close(around(**BATCH).last_hidden_state, changed)
        torch.testing.assert_close(around(**BATCH).last_hidden_state, plain)
        with suppress(InputError):  # refused; or, where torch gave up compiling what it has compiled so often, counted
            masked = around(**BATCH, head_mask=torch.zeros(3)).last_hidden_state
            torch.testing.assert_close(masked, model(**BATCH, head_mask=torch.zeros(3)).last_hidden_state)
    model.decoder.layers[1] = torch.compile(model.decoder.layers[1], backend="eager")
    with pytest.raises(InputError, match="the model is compiled"):
        run_with_hooks(model, BATCH, [HOOK])


@pytest.mark.filterwarnings("ignore")
def test_compiling_goes_on_afterwards():
    compiled = []
    one, other = hooks(noisy(gpt2()), [HOOK]), hooks(noisy(gpt2()), [HOOK])
    torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1))
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    other.__exit__(None, None, None)
    torch.compile(lambda x: x + 2, backend=lambda graph, _: compiled.append(graph) or graph.forward)(torch.ones(1))
    assert compiled


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "fwd_hooks: got None, expected a list of pairs"),
        (HOOK, "fwd_hooks: got 'blocks.0.attn.hook_z', expected a list of pairs"),
        ([("blocks.0.attn.hook_z", 3)], "fwd_hooks: got .*, expected a list of pairs"),
        ([("blocks.0.attn.hook_z", lambda x, hook: x.float())], r"returned \[3, 5, 3, 4\] in float32 on cpu, expected"),
    ],
)
def test_what_is_no_hook(given, message):
    with pytest.raises(InputError, match=message):
        run_with_hooks(noisy(gpt2()), BATCH, given)


def test_gradients_that_are_not_recorded_are_missed():
    with torch.no_grad(), pytest.raises(InputError, match=r"none are recorded here; leave torch.no_grad"):
        run_with_hooks(noisy(gpt2()), BATCH, bwd_hooks=[HOOK])
    with torch.inference_mode(), pytest.raises(InputError, match="gradients cannot be recorded"):
        run_with_cache(noisy(gpt2()), BATCH, grad=True)


@pytest.mark.parametrize("names", [3, [None], [("pattern", 0)]])
def test_what_is_no_name(names):
    with pytest.raises(InputError, match=r"names: got .*, expected names of points"):
        run_with_cache(noisy(gpt2()), BATCH, names=names)
    with pytest.raises(InputError, match=r"names: got .*, expected names of points"), capture(noisy(gpt2()), names):
        pass


def test_the_cache_is_a_mapping():
    _, cache = run_with_cache(noisy(t5()), {**BATCH, "decoder_input_ids": SOURCE[:, :3]})
    assert cache.get("nothing", 7) == 7
    assert cache.get("decoder.0.attn.hook_q") is cache["decoder.0.attn.hook_q"]
    assert cache == cache
    assert cache["pattern", 1, "cross_attn"] is cache["decoder.1.cross_attn.hook_pattern"]
    assert cache["cross_attn_out", -1] is cache["decoder.1.hook_cross_attn_out"]
    with pytest.raises(InputError, match="got 3, expected"):
        cache[3]
    with pytest.raises(InputError, match="this model has two stacks"):
        cache["pattern", 1]


def test_points_have_the_shapes_that_they_say():
    for config in (bert(), gpt2(), t5(), bart(), albert()):
        model = noisy(config)
        batch = {name: x.double() if x.is_floating_point() else x for name, x in inputs(config).items()}
        table = model.embed.tokens.weight.shape[1]
        with capture(model, "*") as seen:
            model(**batch)
        for name, x in seen.items():
            letters = points(model)[name].shape.split()
            assert x.ndim == len(letters), name
            sizes = {"B": len(batch["input_ids"]), "1": 1, "D": 12, "W": table}
            assert all(size == sizes.get(letter, size) for letter, size in zip(letters, x.shape, strict=True)), name
