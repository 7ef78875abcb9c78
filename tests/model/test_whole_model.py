"""A model as an object: its parameters' names, its first values, its books, copies of it, its dropout."""

import copy
import dataclasses
import io
import pickle

import pytest
import torch
from small_models import HEADS, INNER, LAYERS, PLACES, VOCAB, WIDTH, bert, embed, gpt2, ids, noisy, paper, stack

from minitransformer.config import LanguageModelConfig, PretrainingConfig, SequenceClassificationConfig, vaswani2017
from minitransformer.errors import InputError
from minitransformer.model import build
from minitransformer.model.heads import LanguageModelProjection
from minitransformer.modules import LayerNorm
from minitransformer.ops import BOOKS

MASKED_LM = LanguageModelConfig(task="masked-lm", tied=False, bias=True, transform="gelu")
BERT = bert(head=PretrainingConfig(lm=MASKED_LM), pooler=True)
CONFIGS = {"bert": BERT, "gpt2": gpt2(), "paper": paper()}
IDS = ids(3, 5)


def logits(model):
    out = model(IDS, **({"decoder_input_ids": IDS} if model.config.task == "seq2seq-lm" else {}))
    return out.logits if out.logits is not None else out.prediction_logits


def linear(name):
    return {f"{name}.weight", f"{name}.bias"}


def block(name, *, cross=False):
    names = linear(f"{name}.ffn.up") | linear(f"{name}.ffn.down") | linear(f"{name}.ffn_norm")
    for attention in ("self_attn", "cross_attn")[: 1 + cross]:
        names |= linear(f"{name}.{attention}_norm")
        for matrix in "qkvo":
            names |= linear(f"{name}.{attention}.{matrix}")
    return names


NAMES = {
    "bert": {"embed.tokens.weight", "embed.positions.weight", "embed.types.weight"}
    | linear("embed.norm") | block("encoder.layers.0") | block("encoder.layers.1") | linear("pooler")
    | linear("head.lm.dense") | linear("head.lm.norm") | linear("head.lm") | linear("head.nsp"),
    "gpt2": {"embed.tokens.weight", "embed.positions.weight"}
    | block("decoder.layers.0") | block("decoder.layers.1") | linear("decoder.final_norm"),
    "paper": {"embed.tokens.weight"}
    | block("encoder.layers.0") | block("encoder.layers.1")
    | block("decoder.layers.0", cross=True) | block("decoder.layers.1", cross=True),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_parameter_names_are_public_and_stay(name):
    model = build(CONFIGS[name])
    assert {parameter for parameter, _ in model.named_parameters()} == NAMES[name]
    assert set(model.state_dict()) == NAMES[name]  # and nothing beside parameters


def test_shapes():
    shapes = {name: tuple(x.shape) for name, x in build(BERT).state_dict().items()}
    assert shapes["embed.tokens.weight"] == (VOCAB, WIDTH)
    assert shapes["embed.positions.weight"] == (PLACES, WIDTH)
    assert shapes["embed.types.weight"] == (3, WIDTH)
    assert shapes["encoder.layers.1.self_attn.q.weight"] == (WIDTH, WIDTH)
    assert shapes["encoder.layers.1.ffn.up.weight"] == (INNER, WIDTH)
    assert shapes["encoder.layers.1.ffn.down.weight"] == (WIDTH, INNER)
    assert shapes["head.lm.weight"] == (VOCAB, WIDTH)
    assert shapes["head.lm.bias"] == (VOCAB,)


def test_the_papers_base_model_has_the_papers_size():
    """Table 3 says 65 million parameters, with a shared vocabulary of about 37000."""
    model = build(vaswani2017(vocab_size=37_000), device="meta")
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) in (63, 64, 65)
    assert model.encoder.blocks[0].self_attn.scale == 64**-0.5


@pytest.mark.parametrize("name", CONFIGS)
def test_on_meta_it_has_shapes_only(name):
    state = torch.get_rng_state()
    model = build(CONFIGS[name], device="meta")
    assert all(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)  # no number was drawn
    real = noisy(CONFIGS[name], dtype=torch.float32)
    model.load_state_dict(real.state_dict(), assign=True)
    assert torch.equal(logits(model.eval()), logits(real))


def test_first_values():
    """Glorot for matrices, 1/D for embeddings, zero biases; and no memory left as it was found."""
    torch.use_deterministic_algorithms(True)  # fills empty memory with NaN
    try:
        model = build(bert(encoder=stack_of(600), embed=wide_embed(600), head=MASKED_LM, pooler=True))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    for part in model.modules():
        if isinstance(part, torch.nn.Linear):
            assert part.weight.std().item() == pytest.approx((2 / sum(part.weight.shape)) ** 0.5, rel=0.05)
            assert part.weight.abs().max() > 3 * part.weight.std()  # normal; a uniform draw ends at 1.7
            assert (part.bias == 0).all()
        elif isinstance(part, torch.nn.Embedding | LanguageModelProjection):
            assert part.weight.std().item() == pytest.approx(600**-0.5, rel=0.1)
        elif isinstance(part, LayerNorm):
            assert (part.weight == 1).all()
            assert (part.bias == 0).all()


def stack_of(width):
    return dataclasses.replace(stack(), d_model=width, layers=1)


def wide_embed(width):
    return dataclasses.replace(embed(token_types="learned", type_vocab_size=3, norm_eps=1e-3), d_model=width)


def test_first_values_follow_the_seed():
    torch.manual_seed(1)
    one = build(gpt2()).state_dict()
    torch.manual_seed(1)
    other = build(gpt2()).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", CONFIGS)
def test_use_changes_the_book_of_every_module(name):
    model = noisy(CONFIGS[name])
    fused = logits(model)
    assert model.use("by_hand") is model
    assert {id(part.book) for part in model.modules() if hasattr(part, "book")} == {id(BOOKS["by_hand"])}
    torch.testing.assert_close(logits(model), fused, rtol=1e-11, atol=1e-11)
    assert torch.equal(logits(model.use("fused")), fused)


def test_use_of_an_unknown_book():
    model = noisy(gpt2())
    with pytest.raises(InputError, match="book: got 'flash', expected one of fused, by_hand"):
        model.use("flash")
    assert {part.book for part in model.modules() if hasattr(part, "book")} == {BOOKS["fused"]}


def test_books_of_one_model_are_its_own():
    one, other = noisy(gpt2()), noisy(gpt2())
    one.use("by_hand")
    assert other.decoder.blocks[0].self_attn.book is BOOKS["fused"]


@pytest.mark.parametrize("book", BOOKS)
@pytest.mark.parametrize("name", CONFIGS)
def test_copies_give_the_same_numbers(name, book):
    model = noisy(CONFIGS[name], book)
    expected = logits(model)
    deep, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = noisy(CONFIGS[name], book, seed=1)
    assert not torch.equal(logits(loaded), expected)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # the copies keep weights of their own
    for copied in (deep, pickled, loaded):
        assert torch.equal(logits(copied), expected)
        assert copied.config == CONFIGS[name]


CLASSIFIER = SequenceClassificationConfig(num_labels=3, reads="pooler", bias=True, dropout=0.5)
DROPOUT_SITES = {
    "embedding": bert(embed=embed(dropout=0.5), head=LanguageModelConfig(task="masked-lm", tied=True)),
    "sub-layers": bert(encoder=stack(dropout=0.5), head=LanguageModelConfig(task="masked-lm", tied=True)),
    "attention": bert(encoder=stack(attention_dropout=0.5), head=LanguageModelConfig(task="masked-lm", tied=True)),
    "head": bert(head=CLASSIFIER, pooler=True),
}


@pytest.mark.parametrize("book", BOOKS)
@pytest.mark.parametrize("site", DROPOUT_SITES)
def test_dropout_acts_while_training_only(site, book):
    model = noisy(DROPOUT_SITES[site], book)
    evaluated = logits(model)
    assert torch.equal(logits(model), evaluated)
    model.train()
    torch.manual_seed(1)
    trained = logits(model)
    assert not torch.equal(trained, evaluated)
    assert not torch.equal(logits(model), trained)
    torch.manual_seed(1)
    assert torch.equal(logits(model), trained)
    assert torch.equal(logits(model.eval()), evaluated)


@pytest.mark.parametrize("name", CONFIGS)
def test_without_dropout_training_and_evaluating_are_the_same(name):
    model = noisy(CONFIGS[name])
    assert torch.equal(logits(model.train()), logits(model.eval()))


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_padded_changes_no_real_token(name):
    model = noisy(CONFIGS[name])
    both = {"decoder_input_ids": IDS} if name == "paper" else {}
    alone = model(IDS, **both)
    padded = model(torch.cat([IDS, ids(3, 2, seed=9)], 1), torch.tensor([[1, 1, 1, 1, 1, 0, 0]] * 3), **both)
    torch.testing.assert_close(padded.last_hidden_state[:, :5], alone.last_hidden_state, rtol=1e-11, atol=1e-11)


def test_heads_and_layers_are_those_of_the_config():
    model = build(gpt2())
    assert len(model.decoder.blocks) == LAYERS
    assert model.decoder.blocks[0].self_attn.heads == HEADS
