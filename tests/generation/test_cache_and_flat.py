"""With the cache as without, flat as by modules: the same tokens, the same numbers, and nothing left behind."""

import functools

import pytest
import torch
from generation_draws import draw, ours, pair, two_stacks
from oracle import CASES, Case
from torch import nn
from torch.profiler import ProfilerActivity, profile

import minitransformer as mt
from minitransformer.errors import InputError
from minitransformer.generation import generate
from minitransformer.generation.decoder import Decoder
from minitransformer.generation.flat import flat
from minitransformer.generation.settings import settings
from minitransformer.model.stack import Block
from minitransformer.modules import FeedForward, KVCache, LayerNorm, MultiHeadAttention, RMSNorm, TokenEmbedding
from minitransformer.modules.cache import KeysAndValues

ENCODERS = ("bert", "roberta", "xlm-roberta", "electra")
DECODERS = [
    case
    for case in CASES
    if case.head == ("seq2seq-lm" if case.family in ("t5", "bart", "marian") else "causal-lm")
    and ("decoder" in case.variant or case.family not in ENCODERS)
]
GPT2, T5, LLAMA = Case("gpt2", "causal-lm"), Case("t5", "seq2seq-lm"), Case("llama", "causal-lm")


def each(cases):
    return pytest.mark.parametrize("case", cases, ids=str)


@each(DECODERS)
def test_the_cache_changes_no_token(case):
    _, model = pair(case)
    for seed in (1, 6, 8):  # sampled; beams, padded on the left; greedy, padded on the right
        drawn = draw(case, seed)
        try:
            with_cache = ours(model, drawn)
        except InputError:
            with pytest.raises(InputError):
                ours(model, drawn, use_cache=False)
            continue
        assert torch.equal(with_cache, ours(model, drawn, use_cache=False)), drawn


def start(case, dtype, mask, **options):
    """A Decoder before its prompt."""
    model = pair(case, dtype)[1].eval()
    if not two_stacks(case):
        return Decoder(model, attention_mask=mask, **options)
    source = torch.randint(3, 40, (3, 6), generator=torch.Generator().manual_seed(4))
    memory_mask = (
        torch.ones_like(source) if mask is None else torch.ones_like(source).index_fill_(1, torch.tensor(5), 0)
    )
    with torch.inference_mode():
        memory = model.encode(source, memory_mask)
    return Decoder(model, memory=memory, memory_mask=memory_mask, **options)


def prompt(length=5):
    return torch.randint(3, 40, (3, length), generator=torch.Generator().manual_seed(5))


@each(DECODERS)
@pytest.mark.parametrize("padded", [False, True])
def test_the_cache_changes_no_number(case, padded):
    """Logits step by step in float32, within its noise; also after the texts were repeated and exchanged."""
    ids, steps = prompt(), prompt(6).repeat_interleave(2, 0)  # [3 5], [6 6]
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    one, other = (start(case, torch.float32, mask if padded else None, use_cache=x, room=6) for x in (True, False))
    torch.testing.assert_close(one.read(ids), other.read(ids), atol=1e-5, rtol=1e-5)
    for decoder in (one, other):
        decoder.repeat(2)
    for step, order in enumerate(([0, 1, 2, 3, 4, 5], [1, 1, 2, 3, 5, 4], [0, 0, 3, 2, 5, 5], [1, 0, 2, 3, 4, 4])):
        token = steps[:, step : step + 1]
        torch.testing.assert_close(one.read(token), other.read(token), atol=2e-5, rtol=1e-5)
        for decoder in (one, other):
            decoder.reorder(torch.tensor(order))


def kinds(case):
    """The modules of a decoder that flat knows, one of each kind and place."""
    model = pair(case, torch.float32)[1].eval()
    found = {"embed": model.target_embed or model.embed}
    for name, module in model.decoder.named_modules():
        if isinstance(module, LayerNorm | RMSNorm | FeedForward | nn.Linear):
            found[name] = module
    return model, {name: module for name, module in found.items() if name == "embed" or ".1." in name or "f" in name}


@each(DECODERS)
def test_flat_parts_give_the_same_bits(case):
    model, parts = kinds(case)
    for name, module in parts.items():
        function = flat(module)
        assert function is not module, name
        for length in (1, 4):
            if isinstance(module, TokenEmbedding):
                ids, rows = prompt(length), torch.arange(length)[None] + module.config.position_offset
                has_rows = module.positions is not None or model.decoder.config.rotary_theta is not None
                rows = rows if has_rows else None
                with torch.inference_mode():
                    assert torch.equal(function(ids, position_ids=rows), module(ids, position_ids=rows)), name
                continue
            x = torch.randn(3, length, width_of(module))
            with torch.inference_mode():
                assert torch.equal(function(x), module(x)), name


def width_of(module):
    if isinstance(module, FeedForward):
        return module.up.in_features
    return module.in_features if isinstance(module, nn.Linear) else len(module.weight)


@each(DECODERS)
def test_a_flat_stack_gives_the_same_numbers(case):
    """Step after step, each with a cache of its own, padded, with memory where there is one.

    To rounding: a kernel may add in another order where a tensor lies otherwise in memory.
    """
    model = pair(case, torch.float32)[1].eval()
    embed, stack = model.target_embed or model.embed, model.decoder
    memory = torch.randn(3, 6, stack.config.d_model) if two_stacks(case) else None
    memory_mask = torch.tensor([True, True, True, True, True, False]).expand(3, 1, 1, 6) if two_stacks(case) else None
    caches = [KVCache.empty(layers=len(stack.blocks), room=room) for room in (0, 9)]
    with torch.inference_mode():
        function, flat_embed = flat(stack), flat(embed)
        for past, length in ((0, 4), (4, 1), (5, 1), (6, 1)):
            ids = prompt(length)
            rows = torch.arange(past, past + length)[None] + embed.config.position_offset
            if embed.positions is None and stack.config.rotary_theta is None:
                rows = None
            keys = torch.ones(3, 1, length, past + length, dtype=torch.bool).tril(past)
            keys[0, :, :, 0] = past == 0
            places = {"mask": keys, "memory": memory, "memory_mask": memory_mask, "position_ids": rows}
            plain = stack(embed(ids, position_ids=rows), cache=caches[0], **places)
            ours = function(flat_embed(ids, position_ids=rows), cache=caches[1], **places)
            torch.testing.assert_close(ours, plain, atol=2e-6, rtol=2e-6)
        for part in ("self_attn", "cross_attn"):
            for one, other in zip(getattr(caches[0], part), getattr(caches[1], part), strict=True):
                for mine, their in ((one.k, other.k), (one.v, other.v)):
                    assert (mine is None) == (their is None)
                    if mine is not None:
                        torch.testing.assert_close(mine, their, atol=2e-6, rtol=2e-6)


@functools.cache
def neighbours(bias):
    """Attention whose q, k and v are rows of one matrix, as a file with a fused one gives them."""
    case = Case("gpt2", "causal-lm") if bias else Case("t5", "seq2seq-lm", "odd")
    module = pair(case, torch.float32)[1].decoder.layers[0].self_attn
    copy = MultiHeadAttention(pair(case, torch.float32)[1].decoder.config).eval()
    copy.load_state_dict(module.state_dict())
    weight = torch.cat([part.weight for part in (copy.q, copy.k, copy.v)]).detach()
    offset = torch.cat([part.bias for part in (copy.q, copy.k, copy.v)]).detach() if bias else None
    rows = len(weight) // 3
    for i, part in enumerate((copy.q, copy.k, copy.v)):
        part.weight = nn.Parameter(weight[i * rows : (i + 1) * rows])
        if offset is not None:
            part.bias = nn.Parameter(offset[i * rows : (i + 1) * rows])
    return module, copy


@pytest.mark.parametrize("bias", [True, False])
def test_neighbours_in_memory_are_one_product(bias, monkeypatch):
    module, copy = neighbours(bias)
    x = torch.randn(3, 1, module.q.in_features)
    with torch.inference_mode():
        one, other = (flat(each)(x, mask=None, cache=KeysAndValues()) for each in (module, copy))
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    products, linear = [], nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda *inputs: products.append(1) or linear(*inputs))
    flat(copy)(x, mask=None, cache=KeysAndValues())
    assert len(products) == (2 if bias else 4)  # one for q, k and v, one for o


def test_what_is_no_neighbour_is_no_one_product():
    """Wrong order, other matrices of the same storage, one part hooked: three products."""
    _, copy = neighbours(True)
    x = torch.randn(2, 1, copy.q.in_features)
    mixed = MultiHeadAttention(pair(GPT2, torch.float32)[1].decoder.config).eval()
    mixed.q, mixed.k, mixed.v, mixed.o = copy.k, copy.q, copy.v, copy.o
    with torch.inference_mode():
        expected = mixed(x, cache=KeysAndValues())
        assert torch.equal(flat(mixed)(x, mask=None, cache=KeysAndValues()), expected)
        calls = []
        handle = copy.k.register_forward_hook(lambda *_: calls.append(1))
        flat(copy)(x, mask=None, cache=KeysAndValues())
        handle.remove()
    assert calls == [1]


def test_autocast_reads_one_text_as_several():
    """Its list of what to cast has products of matrices, not those of a matrix and a vector."""
    model = pair(GPT2, torch.float32)[1].eval()
    config = mt.GenerationConfig(max_new_tokens=4)
    with torch.autocast("cpu", torch.bfloat16):
        assert mt.generate(model, prompt(3)[:1], config=config).shape == (1, 7)


class Wrapped(nn.Module):
    """What LoRA libraries put in place of a Linear: the layer itself, and something on top."""

    def __init__(self, base):
        super().__init__()
        self.base, self.calls = base, 0
        self.down = nn.Parameter(torch.randn(2, base.in_features, dtype=base.weight.dtype))
        self.up = nn.Parameter(torch.randn(base.out_features, 2, dtype=base.weight.dtype))

    def forward(self, x):
        self.calls += 1
        return self.base(x) + 3 * (x @ self.down.T @ self.up.T)


def own(case):
    """A model that a test may change."""
    _, model = pair(case)
    copy = mt.build(model.config).double().eval()
    copy.load_state_dict(model.state_dict())
    return copy


def text_of(model, case, **fields):
    ids = prompt()
    fields = {"max_new_tokens": 6, "no_repeat_ngram_size": 1, **fields}
    if two_stacks(case):
        fields["decoder_start_token_id"] = 2
    return generate(model, ids, config=settings({}, fields))


PLACES = ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "ffn.up", "ffn.down", "ffn", "self_attn"]


@each([GPT2, T5, LLAMA])
@pytest.mark.parametrize("place", PLACES[:-2])
def test_a_replaced_linear_is_asked(case, place):
    model = own(case)
    before, parent = text_of(model, case), model.decoder.layers[1].get_submodule(place.split(".")[0])
    wrapped = Wrapped(getattr(parent, place.split(".")[1]))
    setattr(parent, place.split(".")[1], wrapped)
    after = text_of(model, case)
    assert wrapped.calls == 6
    if place not in ("self_attn.q", "self_attn.k"):  # where it may change too little
        assert not torch.equal(before, after)
    assert torch.equal(after, text_of(model, case, use_cache=False))


@each([GPT2, T5, LLAMA])
@pytest.mark.parametrize("place", ["self_attn_norm", "ffn_norm", *PLACES, "", "add_norm"])
def test_a_hook_is_called_at_every_step(case, place):
    """A hook that changes the output changes the text."""
    model = own(case)
    before, module = text_of(model, case), model.decoder.layers[0].get_submodule(place)
    calls = []

    def hook(module, inputs, output):
        calls.append(output.shape[1])
        return output * torch.linspace(-2, 2, output.shape[-1], dtype=output.dtype)

    handle = module.register_forward_hook(hook)
    after = text_of(model, case)
    assert len(calls) == ((18 if two_stacks(case) else 12) if place == "add_norm" else 6)
    assert torch.equal(after, text_of(model, case, use_cache=False))
    handle.remove()
    if place not in ("self_attn.q", "self_attn.k"):  # where it may change too little
        assert not torch.equal(before, after)
    assert torch.equal(before, text_of(model, case))


@each([GPT2, T5])
@pytest.mark.parametrize("path", ["tokens", "positions", "types", ""])
def test_a_hook_on_the_embedding_is_called_at_every_step(case, path):
    model = own(case)
    embed = model.target_embed or model.embed
    module = getattr(embed, path) if path else embed
    if not isinstance(module, nn.Module):
        pytest.skip("not there in this model")
    calls = []
    handle = module.register_forward_hook(lambda *_: calls.append(1))
    text_of(model, case)
    handle.remove()
    assert len(calls) >= 6


@each([GPT2, T5, LLAMA])
def test_attention_can_be_captured_while_it_writes(case):
    model = own(case)
    name = "decoder.1.attn.hook_pattern" if two_stacks(case) else "blocks.1.attn.hook_pattern"
    plain = text_of(model, case)
    with mt.capture(model, name) as seen:
        assert torch.equal(text_of(model, case), plain)
    read = plain.shape[1] - 1
    assert seen[name].shape[-2:] == (1, read)
    inputs = {"decoder_input_ids": plain[:, :-1]} if two_stacks(case) else {}
    at_once = model(prompt() if two_stacks(case) else plain[:, :-1], **inputs, output_attentions=True)
    patterns = at_once.decoder_attentions if two_stacks(case) else at_once.attentions
    torch.testing.assert_close(seen[name], patterns[1][:, :, -1:])


def test_the_book_by_hand_writes_the_same():
    for case in (GPT2, T5, LLAMA):
        model = own(case)
        plain = text_of(model, case, num_beams=2)
        assert torch.equal(text_of(model.use("by_hand"), case, num_beams=2), plain)


def test_the_weights_are_those_of_the_moment():
    """Nothing of the last call is kept."""
    model = own(GPT2)
    before = text_of(model, GPT2)
    with torch.no_grad():
        model.decoder.layers[0].ffn.up.weight.mul_(-1)
    assert not torch.equal(text_of(model, GPT2), before)


def test_a_cache_fills_its_room_and_then_doubles_it():
    kept = KeysAndValues(room=4)
    x = torch.randn(2, 3, 11, 5)
    kept.append(x[:, :, :2], -x[:, :, :2])
    assert kept.keys.shape == (2, 3, 4, 5)
    places = {kept.keys.data_ptr(), kept.values.data_ptr()}
    for t in (2, 3):
        k, v = kept.append(x[:, :, t : t + 1], -x[:, :, t : t + 1])
        assert {kept.keys.data_ptr(), kept.values.data_ptr()} == places
        assert torch.equal(k, x[:, :, : t + 1])
        assert torch.equal(v, -k)
    kept.append(x[:, :, 4:5], -x[:, :, 4:5])
    assert (kept.keys.shape[2], kept.length) == (8, 5)
    k, v = kept.append(x[:, :, 5:], -x[:, :, 5:])  # several at once, more than there is room for
    assert (kept.keys.shape[2], kept.length) == (16, 11)
    assert torch.equal(k, x)
    assert torch.equal(v, -x)
    assert torch.equal(kept.k, k)
    assert kept.k.data_ptr() == kept.keys.data_ptr()


def test_a_prompt_longer_than_the_room():
    kept = KeysAndValues(room=2)
    kept.append(torch.ones(1, 1, 7, 3), torch.ones(1, 1, 7, 3))
    assert (kept.keys.shape[2], kept.length) == (7, 7)


@pytest.mark.parametrize("rows", [[1, 0, 1], [0, 0, 1, 1, 2, 2], [2], [2, 2, 2]])
def test_select(rows):
    kept, x = KeysAndValues(room=6), torch.randn(3, 2, 5, 4)
    kept.append(x[:, :, :4], -x[:, :, :4])
    place = kept.keys.data_ptr()
    kept.select(torch.tensor(rows))
    assert torch.equal(kept.k, x[rows][:, :, :4])
    assert torch.equal(kept.v, -x[rows][:, :, :4])
    assert (kept.keys.data_ptr() == place) == (len(rows) == 3)
    assert kept.keys.shape[2] == 6
    k, v = kept.append(x[rows][:, :, 4:], -x[rows][:, :, 4:])
    assert torch.equal(k, x[rows])
    assert torch.equal(v, -x[rows])


def test_select_before_the_first_step():
    cache = KVCache.empty(layers=2)
    cache.select(torch.tensor([0, 0]))
    assert cache.length == 0


@pytest.mark.parametrize("beams", [1, 3])
def test_the_memory_is_projected_once(beams):
    model = own(T5)
    calls = []
    for block in model.decoder.blocks:
        for part in (block.cross_attn.k, block.cross_attn.v):
            part.register_forward_hook(lambda *_: calls.append(1))
    text_of(model, T5, num_beams=beams, max_new_tokens=7)
    assert len(calls) == 2 * len(model.decoder.blocks)


def bytes_of_a_step(width, layers=2, room=64):
    """What one decode step allocates, and what the weights take."""
    config = mt.vaswani2017(vocab_size=11, layers=layers, d_model=width, heads=2, d_ffn=4 * width)
    model = mt.build(config).eval()
    with torch.inference_mode():
        memory = model.encode(torch.ones(1, 3, dtype=torch.int64))
        decoder = Decoder(model, memory=memory, room=room)
        token = torch.ones(1, 1, dtype=torch.int64)
        for _ in range(3):
            decoder.read(token)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            decoder.read(token)
    taken = sum(max(0, event.self_cpu_memory_usage) for event in seen.key_averages())
    return taken, sum(weight.numel() * 4 for weight in model.parameters())


def test_a_step_allocates_nothing_like_the_model():
    """Vectors, no matrices: twice the width is four times the weights, and twice the bytes of a step."""
    (small, small_weights), (large, large_weights) = bytes_of_a_step(64), bytes_of_a_step(256)
    assert large_weights > 14 * small_weights
    assert 0 < large < 5 * small
    assert large < large_weights / 20


def test_a_step_does_not_copy_the_cache():
    """The same allocations, however long the text may become."""
    small, large = bytes_of_a_step(64, room=16)[0], bytes_of_a_step(64, room=4096)[0]
    assert small == large


@each([GPT2, T5])
@pytest.mark.parametrize("fields", [{}, {"num_beams": 2}, {"do_sample": True}], ids=str)
def test_what_comes_back_are_ordinary_tensors(case, fields):
    model = own(case)
    out = text_of(model, case, **fields)
    assert out.dtype == torch.int64
    assert not out.is_inference()
    inputs = {"labels": out} if two_stacks(case) else {"labels": out, "attention_mask": torch.ones_like(out)}
    model(prompt() if two_stacks(case) else out, **inputs).loss.backward()
    assert all(weight.grad is not None for weight in model.decoder.parameters())


class BrokenError(RuntimeError):
    """What a hook raises."""


@each([GPT2, T5])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("beams", [1, 2])
def test_the_modes_are_as_before(case, fails, beams):
    model = own(case).train()
    modes = [module.training for module in model.modules()]

    def fail(*_):
        raise BrokenError

    def write():
        handle = model.decoder.layers[1].register_forward_hook(fail) if fails else None
        if fails:
            with pytest.raises(BrokenError):
                text_of(model, case, num_beams=beams)
            handle.remove()
        else:
            text_of(model, case, num_beams=beams)

    write()
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    with torch.no_grad():
        write()
        assert not torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == modes
    assert model(**reads(case)).logits.requires_grad


def reads(case):
    return {"input_ids": prompt(), **({"decoder_input_ids": prompt()} if two_stacks(case) else {})}


def test_a_stream_that_is_left_leaves_nothing_behind():
    from minitransformer.generation.generate import prepare, steps

    model = own(GPT2)
    config = settings({}, {"max_new_tokens": 5})
    stream = steps(model, prepare(model, prompt(), None, config=config), config=config, tokenizer=None, seed=None)
    first = next(stream)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert not first.is_inference()
    stream.close()
    assert torch.is_grad_enabled()
    assert model(prompt()).logits.requires_grad


def test_dropout_is_off_while_it_writes():
    """Also for the prompt, and for the encoder."""
    for case in (GPT2, T5):
        model = own(case)
        plain = text_of(model, case)
        for block in model.modules():
            if isinstance(block, Block):
                block.self_attn.dropout = block.ffn.dropout = 0.5
        model.train()
        assert torch.equal(text_of(model, case), plain)
        assert model.training
