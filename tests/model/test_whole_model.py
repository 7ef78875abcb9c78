"""A model as an object: its parameters' names, its first values, its books, copies of it, its dropout."""

import copy
import dataclasses
import io
import pickle

import pytest
import torch
from small_models import (
    HEADS,
    INNER,
    LAYERS,
    PLACES,
    VOCAB,
    WIDTH,
    bart,
    bert,
    embed,
    gpt2,
    ids,
    inputs,
    kinds,
    llama,
    noisy,
    stack,
    t5,
    vit,
)

from minitransformer.config import (
    ClassificationConfig,
    LanguageModelConfig,
    PatchEmbeddingConfig,
    PretrainingConfig,
    QuestionAnsweringConfig,
    TokenClassificationConfig,
    vaswani2017,
)
from minitransformer.errors import InputError
from minitransformer.model import build
from minitransformer.model.heads import LanguageModelProjection
from minitransformer.modules import LayerNorm
from minitransformer.ops import BOOKS

MASKED_LM = LanguageModelConfig(task="masked-lm", tied=False, bias="learned", transform="gelu")
BERT = bert(head=PretrainingConfig(lm=MASKED_LM, pairs="next_sentence"), pooler=True)
CONFIGS = kinds() | {"bert": BERT}
IDS = ids(3, 5)


def logits(model):
    out = model(**inputs(model.config))
    for found in (out.logits, out.sop_logits, out.prediction_logits, out.start_logits):
        if found is not None:
            return found
    raise AssertionError


def linear(name):
    return {f"{name}.weight", f"{name}.bias"}


def block(name, *, cross=False):
    names = linear(f"{name}.ffn.up") | linear(f"{name}.ffn.down") | linear(f"{name}.ffn_norm")
    for attention in ("self_attn", "cross_attn")[: 1 + cross]:
        names |= linear(f"{name}.{attention}_norm")
        for matrix in "qkvo":
            names |= linear(f"{name}.{attention}.{matrix}")
    return names


def weights(names, *, gated):
    """The names of weights alone, and of the feed-forward's gates in that stack."""
    return {name for name in names if name.endswith("weight")} | {f"{gated}.layers.{i}.ffn.gate.weight" for i in (0, 1)}


NAMES = {
    "bert": {"embed.tokens.weight", "embed.positions.weight", "embed.types.weight"}
    | linear("embed.norm") | block("encoder.layers.0") | block("encoder.layers.1") | linear("pooler")
    | linear("head.lm.dense") | linear("head.lm.norm") | linear("head.lm") | linear("head.pairs"),
    "gpt2": {"embed.tokens.weight", "embed.positions.weight"}
    | block("decoder.layers.0") | block("decoder.layers.1") | linear("decoder.final_norm"),
    "paper": {"embed.tokens.weight"}
    | block("encoder.layers.0") | block("encoder.layers.1")
    | block("decoder.layers.0", cross=True) | block("decoder.layers.1", cross=True),
    "albert": {"embed.tokens.weight", "embed.positions.weight", "embed.types.weight"}
    | linear("embed.norm") | linear("embed.proj") | block("encoder.layers.0") | block("encoder.layers.1")
    | linear("pooler") | linear("head.lm.dense") | linear("head.lm.norm") | {"head.lm.bias"} | linear("head.pairs"),
    "t5": {"embed.tokens.weight", "encoder.relative_bias.weight", "encoder.final_norm.weight"}
    | {"decoder.relative_bias.weight", "decoder.final_norm.weight"}
    | weights(block("encoder.layers.0") | block("encoder.layers.1"), gated="encoder")
    | weights(block("decoder.layers.0", cross=True) | block("decoder.layers.1", cross=True), gated="decoder"),
    "llama": {"embed.tokens.weight", "decoder.final_norm.weight", "head.lm.weight"}
    | weights(block("decoder.layers.0") | block("decoder.layers.1"), gated="decoder"),
    "vit": {"embed.class_token", "embed.positions.weight"} | linear("embed.patches")
    | block("encoder.layers.0") | block("encoder.layers.1") | linear("encoder.final_norm") | linear("head.cls"),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_parameter_names_are_public_and_stay(name):
    model = build(CONFIGS[name])
    assert {parameter for parameter, _ in model.named_parameters()} == NAMES[name]
    assert set(model.state_dict()) == NAMES[name]  # and nothing beside parameters


def test_more_parameter_names():
    both = {name for name, _ in build(CONFIGS["bart"]).named_parameters()}
    assert both >= {"embed.tokens.weight", "embed.positions.weight", "target_embed.positions.weight"}
    assert "target_embed.tokens.weight" not in both  # one table, which has one name
    attention = {name for name, _ in build(CONFIGS["qwen"]).named_parameters() if "0.self_attn." in name}
    biases = {f"decoder.layers.0.self_attn.{part}.bias" for part in "qkv"}
    norms = {f"decoder.layers.0.self_attn.{part}_norm.weight" for part in "qk"}
    assert {name for name in attention if "bias" in name or "norm" in name} == biases | norms
    deit = {name for name, _ in build(CONFIGS["deit"]).named_parameters()}
    assert deit >= {"embed.distillation_token"} | linear("head.cls") | linear("head.distillation")
    assert {name for name, _ in build(CONFIGS["electra"]).named_parameters()} >= linear("head.dense") | linear(
        "head.cls"
    )


def test_a_fixed_bias_is_stored_and_not_trained():
    model = build(bart())
    assert "head.lm.bias" in model.state_dict()
    assert "head.lm.bias" not in dict(model.named_parameters())


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
    shapes = {name: tuple(x.shape) for name, x in build(CONFIGS["llama"]).state_dict().items()}
    assert shapes["decoder.layers.0.self_attn.q.weight"] == (6 * 4, WIDTH)
    assert shapes["decoder.layers.0.self_attn.k.weight"] == shapes["decoder.layers.0.self_attn.v.weight"] == (8, WIDTH)
    assert shapes["decoder.layers.0.self_attn.o.weight"] == (WIDTH, 24)
    assert shapes["decoder.layers.0.ffn.gate.weight"] == (INNER, WIDTH)
    assert build(CONFIGS["t5"]).encoder.relative_bias.weight.shape == (6, HEADS)
    assert build(CONFIGS["albert"]).head.lm.dense.weight.shape == (5, WIDTH)
    shapes = {name: tuple(x.shape) for name, x in build(CONFIGS["vit"]).state_dict().items()}
    assert shapes["embed.positions.weight"] == (7, WIDTH)
    assert shapes["embed.patches.weight"] == (WIDTH, 2, 2, 3)


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


@pytest.mark.parametrize("name", CONFIGS)
def test_first_values_give_finite_numbers(name):
    """No memory is left as it was found, and a new model's output is neither huge nor the same for all inputs."""
    torch.use_deterministic_algorithms(True)  # fills empty memory with NaN
    try:
        model = build(CONFIGS[name]).eval()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(x.isfinite().all() for x in model.state_dict().values())
    out = logits(model)
    assert out.isfinite().all()
    assert out.abs().max() < 100
    assert out.std(0).max() > 0


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("book", BOOKS)
def test_bfloat16_is_near(name, book):
    model, exact = noisy(CONFIGS[name], book, torch.bfloat16), noisy(CONFIGS[name], book)
    expected = logits(exact)
    got = logits(model)
    assert got.dtype == torch.bfloat16
    assert (got.double() - expected).square().mean() < (0.1 * expected.std()) ** 2


def test_first_values_of_images_and_of_norms():
    wide = dataclasses.replace(vit().embed, d_model=600)
    model = build(vit(embed=wide, encoder=stack_of(600)))
    for weight in (model.embed.class_token, model.embed.positions.weight, model.embed.patches.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.15)
    model = build(t5())
    assert (model.encoder.relative_bias.weight == 0).all()
    assert (model.encoder.final_norm.weight == 1).all()
    assert (build(llama(qk_norm=True)).decoder.blocks[0].self_attn.q_norm.weight == 1).all()


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
    assert all("book" in vars(part) for part in model.modules() if hasattr(type(part), "book"))
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
@pytest.mark.parametrize("name", ["bert", "paper", "t5", "qwen", "bart", "albert", "deit"])
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


CLASSIFIER = ClassificationConfig(task="sequence-classification", num_labels=3, reads="pooler", dropout=0.5)
DROPOUT_SITES = {
    "embedding": bert(embed=embed(dropout=0.5), head=LanguageModelConfig(task="masked-lm", tied=True)),
    **{
        site: bert(encoder=stack(**{site: 0.5}), head=LanguageModelConfig(task="masked-lm", tied=True))
        for site in ("dropout", "ffn_dropout", "attention_dropout", "activation_dropout", "final_dropout")
    },
    "head": bert(head=CLASSIFIER, pooler=True),
    "head's transform": bert(
        head=dataclasses.replace(CLASSIFIER, dropout=0.0, transform="tanh", transform_dropout=0.5), pooler=True
    ),
    "pairs": bert(head=PretrainingConfig(lm=MASKED_LM, pairs="sentence_order", dropout=0.5), pooler=True),
    "token-classification": bert(head=TokenClassificationConfig(num_labels=3, dropout=0.5)),
    "question-answering": bert(head=QuestionAnsweringConfig(dropout=0.5)),
    "patches": vit(embed=dataclasses.replace(vit().embed, dropout=0.5)),
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


TEXTS = [name for name, config in CONFIGS.items() if not isinstance(config.embed, PatchEmbeddingConfig)]


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_padded_changes_no_real_token(name):
    model = noisy(CONFIGS[name])
    text = inputs(model.config)
    alone = model(**text)
    text["input_ids"] = torch.cat([text["input_ids"], ids(3, 2, seed=9)], 1)
    padded = model(**text, attention_mask=torch.tensor([[1, 1, 1, 1, 1, 0, 0]] * 3))
    length = alone.last_hidden_state.shape[1]
    torch.testing.assert_close(padded.last_hidden_state[:, :length], alone.last_hidden_state, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", [name for name in TEXTS if CONFIGS[name].encoder and CONFIGS[name].decoder])
def test_padding_of_the_decoders_input_changes_no_real_token(name):
    model = noisy(CONFIGS[name])
    text = inputs(model.config)
    alone = model(**text)
    text["decoder_input_ids"] = torch.cat([text["decoder_input_ids"], ids(3, 2, seed=9)], 1)
    padded = model(**text, decoder_attention_mask=torch.tensor([[1, 1, 1, 1, 0, 0]] * 3))
    torch.testing.assert_close(padded.logits[:, :4], alone.logits, rtol=1e-11, atol=1e-11)


def test_heads_and_layers_are_those_of_the_config():
    model = build(gpt2())
    assert len(model.decoder.blocks) == LAYERS
    assert model.decoder.blocks[0].self_attn.heads == HEADS
