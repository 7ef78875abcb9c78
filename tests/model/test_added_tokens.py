"""New tokens in a checkpoint: what was there stays, and transformers reads what is saved. It is the oracle."""

import pytest
import torch
import transformers
from oracle import Case, checkpoint
from small_readers import reader
from small_writers import marian

import minitransformer as mt
from minitransformer.errors import InputError, TokenizerError
from minitransformer.model.adapters import add_lora
from minitransformer.model.vocabulary import add_rows, drawn

TOKENS = ("[E1]", "[/E1]", "[E2]", "[/E2]")
TEXT = "What a[E1] film[/E1]! It was[E2] dull[/E2]."
PADDED = 416  # T5's tables end behind its tokens, of which it has 400
UNTIED = {"tie_word_embeddings": False}
MODELS = {
    "bert": ("BertForMaskedLM", {}),
    "bert-untied": ("BertForMaskedLM", UNTIED),
    "bert-two-heads": ("BertForPreTraining", {}),
    "roberta": ("RobertaForMaskedLM", {}),
    "gpt2": ("GPT2LMHeadModel", {}),
    "t5": ("T5ForConditionalGeneration", {}),
    "t5-untied": ("T5ForConditionalGeneration", UNTIED),
    "t5-padded": ("T5ForConditionalGeneration", {"vocab_size": PADDED}),
    "bart": ("BartForConditionalGeneration", {}),
    "bart-untied": ("BartForConditionalGeneration", UNTIED),
    "bart-classifier": ("BartForSequenceClassification", {}),
    "albert": ("AlbertForMaskedLM", {}),
}


@pytest.fixture(scope="module", params=MODELS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def folder(name, tmp_path_factory):
    architecture, fields = MODELS[name]
    return reader(tmp_path_factory.mktemp(name), name.split("-")[0], architecture, **fields)


def theirs(name, folder):
    """transformers' model from a folder, in which nothing is missing and nothing is left over; its tokenizer."""
    cls = getattr(transformers, MODELS[name][0])
    model, found = cls.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    assert not any(found.values()), found
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def logits(model, batch, *, two_stacks):
    """What the first head says of the texts; behind an encoder, of the same texts once more."""
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    inputs |= {"decoder_input_ids": batch["input_ids"]} if two_stacks else {}
    with torch.no_grad():
        output = model(**inputs)
    return next(x for key in ("logits", "prediction_logits") if (x := getattr(output, key, None)) is not None)


def test_transformers_reads_the_new_tokens(name, folder, tmp_path):
    model = mt.load(folder).eval()
    assert model.add_tokens(TOKENS) == TOKENS
    model.save(tmp_path / "new")
    their_model, their_tokenizer = theirs(name, tmp_path / "new")
    batch = model.tokenizer([TEXT, "Dull."])
    assert {model.tokenizer.backend.token_to_id(token) for token in TOKENS} < set(batch["input_ids"][0].tolist())
    assert their_tokenizer(TEXT)["input_ids"] == batch["input_ids"][0].tolist()
    assert their_tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True).count("E1") == 0
    stacks = {"two_stacks": their_model.config.is_encoder_decoder}
    ours = logits(model, batch, **stacks)
    torch.testing.assert_close(ours, logits(their_model, batch, **stacks), atol=1e-5, rtol=1e-5)
    again = mt.load(tmp_path / "new").eval()
    assert torch.equal(ours, logits(again, batch, **stacks))
    assert again.transformer.config == model.transformer.config
    assert again.tokenizer.tokens(TEXT) == model.tokenizer.tokens(TEXT)


def test_only_new_rows_are_new(name, folder):
    model, old = mt.load(folder), mt.load(folder)
    model.add_tokens(TOKENS)
    size = PADDED if name == "t5-padded" else len(old.tokenizer) + 4
    assert model.transformer.config.embed.vocab_size == size == model.raw_config["vocab_size"]
    before, after = old.transformer.state_dict(), model.transformer.state_dict()
    assert before.keys() == after.keys()
    grown = [key for key, x in after.items() if x.shape != before[key].shape]
    assert all(key.endswith(("tokens.weight", "lm.weight", "lm.bias")) for key in grown)
    assert bool(grown) is (name != "t5-padded")
    new = [model.tokenizer.backend.token_to_id(token) for token in TOKENS]
    for key, x in before.items():
        rows = [row for row in range(len(x)) if row not in new] if x.ndim and len(x) >= len(old.tokenizer) else ...
        assert torch.equal(after[key][rows], x[rows]), key


def test_what_is_tied_stays_tied(name, folder, tmp_path):
    model, old = mt.load(folder), mt.load(folder)
    model.add_tokens(TOKENS)
    assert [key for key, _ in model.named_parameters()] == [key for key, _ in old.named_parameters()]
    table = model.transformer.embed.tokens.weight
    if old.transformer.target_embed is not None:
        shared = old.transformer.target_embed.tokens.weight is old.transformer.embed.tokens.weight
        assert (model.transformer.target_embed.tokens.weight is table) is shared
    with torch.no_grad():
        table[-1] += 1.0  # as training would
    model.save(tmp_path / "new")
    their_model, _ = theirs(name, tmp_path / "new")
    assert torch.equal(their_model.get_input_embeddings().weight, table)
    head = their_model.get_output_embeddings()
    if head is not None and "untied" not in name:
        assert head.weight is their_model.get_input_embeddings().weight


def test_what_is_known_is_not_added_again(name, folder):
    model = mt.load(folder)
    assert model.add_tokens(TOKENS[:2]) == TOKENS[:2]
    first = {key: x.clone() for key, x in model.transformer.state_dict().items()}
    assert model.add_tokens(TOKENS[:2]) == ()
    assert all(torch.equal(x, first[key]) for key, x in model.transformer.state_dict().items())
    length = len(model.tokenizer)
    assert model.add_tokens((*TOKENS, "[E2]")) == TOKENS[2:]
    assert len(model.tokenizer) == length + 2
    rows = model.transformer.embed.tokens.weight[: len(first["embed.tokens.weight"])]
    known = [i for i in range(len(rows)) if i not in map(model.tokenizer.backend.token_to_id, TOKENS[2:])]
    assert torch.equal(rows[known], first["embed.tokens.weight"][known])


def test_a_piece_of_the_vocabulary_becomes_special(tmp_path):
    model = mt.load(reader(tmp_path / "old", "bert"))
    size = len(model.tokenizer)
    assert model.tokenizer.tokens("film", add_special_tokens=False) == ["film"]
    assert model.tokenizer.tokens("xfilm", add_special_tokens=False)[-1] != "film"
    assert model.add_tokens(["film"]) == ()
    assert len(model.tokenizer) == size == model.raw_config["vocab_size"]
    assert model.tokenizer.tokens("xfilm", add_special_tokens=False)[-1] == "film"


def test_new_vectors_lie_near_the_mean(tmp_path):
    model = mt.load(reader(tmp_path / "old", "bert", "BertForMaskedLM"))
    torch.nn.init.normal_(model.transformer.head.lm.bias, mean=-5.0)
    with torch.no_grad():
        model.transformer.embed.tokens.weight += 3.0
    model.add_tokens(TOKENS)
    for x in (model.transformer.embed.tokens.weight, model.transformer.head.lm.bias[:, None]):
        old, new = x[:-4], x[-4:]
        assert ((new - old.mean(0)).abs() < 0.5 * old.std(0)).all()  # five deviations of the noise
        assert len(new.unique(dim=0)) == 4
    torch.manual_seed(0)
    first = mt.load(tmp_path / "old")
    first.add_tokens(TOKENS)
    torch.manual_seed(0)
    second = mt.load(tmp_path / "old")
    second.add_tokens(TOKENS)
    assert torch.equal(first.transformer.embed.tokens.weight, second.transformer.embed.tokens.weight)


def test_what_stood_in_a_new_row_is_no_old_one():
    old = torch.randn(50, 3)
    old[[4, 7]] = 1e6
    new = drawn(old, [4, 7], 50)
    assert new.abs().max() < 10
    assert torch.equal(new[5:7], old[5:7])


def test_dtype_and_what_is_frozen_stay(tmp_path):
    model = mt.load(reader(tmp_path / "old", "bart", "BartForConditionalGeneration"), dtype=torch.bfloat16)
    model.transformer.requires_grad_(False)
    model.add_tokens(TOKENS)
    weight = model.transformer.embed.tokens.weight
    assert weight.dtype == torch.bfloat16
    assert not weight.requires_grad
    assert isinstance(weight, torch.nn.Parameter)
    assert "head.lm.bias" in dict(model.transformer.named_buffers())
    assert not model.transformer.head.lm.bias.any()


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "albert"])
def test_a_new_token_learns_and_is_saved(family, tmp_path):
    model = mt.load(reader(tmp_path / "old", family), head="sequence-classification", labels=["bad", "good"])
    model.add_tokens(TOKENS)
    new = [model.tokenizer.backend.token_to_id(token) for token in TOKENS]
    table = model.transformer.embed.tokens.weight
    before = table.detach().clone()
    batch = model.tokenizer(["[E1] film[/E1]", "film"])
    optimizer = torch.optim.SGD([table], lr=1.0)
    model(**batch, labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    moved = (table != before).any(1)
    assert moved[new].tolist() == [True, True, False, False]
    model.eval().save(tmp_path / "new")
    cls = transformers.AutoModelForSequenceClassification
    expected = cls.from_pretrained(tmp_path / "new", attn_implementation="eager").eval()
    with torch.no_grad():
        ours = model(**batch).logits
        torch.testing.assert_close(ours, expected(**batch).logits, atol=1e-5, rtol=1e-5)
        assert torch.equal(ours, mt.load(tmp_path / "new").eval()(**batch).logits)


def test_an_adapter_does_not_hold_them(tmp_path):
    """Its files would be read over a base that lacks them."""
    model = mt.load(reader(tmp_path / "bert", "bert"), head="sequence-classification", labels=["a", "b"])
    model.add_tokens(TOKENS)
    add_lora(model.transformer, rank=2, alpha=4.0, targets=["q", "v"])
    with pytest.raises(InputError, match=r"\[E1\].*no part of an adapter"):
        model.save_adapter(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
    model.save(tmp_path / "whole")
    assert mt.load(tmp_path / "whole").tokenizer.backend.token_to_id("[E1]") is not None


def test_refusals_change_nothing(tmp_path):
    model = mt.load(marian(tmp_path / "marian"))
    with pytest.raises(TokenizerError, match="Marian"):
        model.add_tokens(TOKENS)
    model = mt.load(reader(tmp_path / "bert", "bert"))
    for wrong in ("[E1]", [""], ["a", None], [" "]):
        with pytest.raises(InputError, match="expected a list of texts"):
            model.add_tokens(wrong)
    assert len(model.tokenizer) == model.transformer.config.embed.vocab_size
    with pytest.raises(InputError, match="images"):
        add_rows(mt.load(checkpoint(Case("vit", "base"))).transformer, [1])
    two = mt.load(
        checkpoint(Case("marian", "seq2seq-lm"), decoder_vocab_size=47, share_encoder_decoder_embeddings=False)
    )
    with pytest.raises(InputError, match="2 vocabularies"):
        add_rows(two.transformer, [60])
