"""Every family with every head is equal to transformers at every place, and no place is left out."""

import json

import pytest
import torch
import transformers
from oracle import CASES, DECODERS, IMAGES, Case, checkpoint, rewritten
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

import minitransformer as mt
from minitransformer.errors import InputError
from minitransformer.parity.batch import make_batch, shifted
from minitransformer.parity.theirs_values import Unrounded

FEW = [
    case
    for case in CASES
    if case.variant in ("plain", "decoder") or (case.variant == "odd" and case.head in ("base", "encoder"))
]
ROTARY = {"llama", "mistral", "qwen2", "qwen3"}
FINAL_NORM = {*ROTARY, "gpt2", "t5", *IMAGES}
POOLED = {
    "bert": {"base", "pretraining", "next-sentence-prediction", "sequence-classification", "multiple-choice"},
    "roberta": {"base", "multiple-choice"},
    "xlm-roberta": {"base", "multiple-choice"},
    "albert": {"base", "pretraining", "sequence-classification", "multiple-choice"},
    "vit": {"base"},
    "deit": {"base"},
}
LOGITS = {
    ("bert", "pretraining"): ["prediction_logits", "seq_relationship_logits"],
    ("albert", "pretraining"): ["prediction_logits", "sop_logits"],
    ("deit", "image-classification-with-teacher"): ["logits", "cls_logits", "distillation_logits"],
}


def expected_places(case):
    """Where transformers computes something, by its config."""
    config = transformers.AutoConfig.from_pretrained(checkpoint(case))
    before = "encoder " if case.two_stacks else ""
    tables = ["rotary positions"] * (case.family in ROTARY) + ["relative bias"] * (case.family == "t5")
    last = ["final norm"] * (case.family in FINAL_NORM)

    def stack(layers):
        return ["embedding", *tables, *(f"block {i}" for i in range(layers)), *last]

    alone = config.decoder_layers if (case.family, case.head) == ("bart", "causal-lm") else config.num_hidden_layers
    places = [f"{before}{place}" for place in stack(alone)]
    if case.two_stacks:
        layers = config.num_decoder_layers if case.family == "t5" else config.decoder_layers
        places += [f"decoder {place}" for place in stack(layers)]
    places += ["pooler"] * (case.head in POOLED.get(case.family, ()))
    logits = {"base": [], "encoder": [], "question-answering": ["start_logits", "end_logits"]}.get(
        case.head, ["logits"]
    )
    logits = logits + ["mc_logits"] * (case.head == "double-heads")
    return places + [f"head: {name}" for name in LOGITS.get((case.family, case.head), logits)]


@pytest.mark.parametrize("case", FEW, ids=str)
def test_every_place_of_every_head_is_equal(case):
    report = mt.parity(checkpoint(case))
    assert report.equal, str(report)
    assert (report.first_divergence, report.cause) == (None, None)
    assert [row.place for row in report.rows] == expected_places(case)
    assert case.cls.__name__ in report.against
    for row in report.rows:
        assert row.tolerance == max(1e-5, 10 * row.floor)
        sinusoids = case.family == "marian" and "embedding" in row.place
        assert row.alone_tolerance == (2**-24 if sinusoids else 1e-9)
        assert row.alone < (3e-8 if sinusoids else 1e-12)


@pytest.mark.parametrize(
    "case", [Case("t5", "seq2seq-lm"), Case("marian", "base"), Case("llama", "base"), Case("vit", "base")], ids=str
)
def test_in_double(case):
    """transformers' rounding to float32 inside its float64 is left out; its rounded sinusoids are not."""
    report = mt.parity(checkpoint(case), double=True)
    assert report.equal, str(report)
    for row in report.rows:
        assert row.double < (1e-6 if case.family == "marian" else 1e-12)


def test_unrounded():
    x = torch.tensor([[0.1, 0.2, 0.7]], dtype=torch.float64)
    with Unrounded():
        assert x.to(torch.float32).dtype == x.float().dtype == x.to(dtype=torch.float32).dtype == torch.float64
        assert torch.equal(torch.nn.functional.softmax(x, dim=-1, dtype=torch.float32), x.softmax(-1))
        assert x.to(torch.bfloat16).dtype == torch.bfloat16
        assert torch.arange(3).to(torch.float32).dtype == torch.float32
    assert x.float().dtype == torch.float32


def test_decoder_batch():
    """The decoder reads a text of its own behind the start; not where encoder and decoder read one text."""
    model = mt.load(checkpoint(Case("bart", "seq2seq-lm")))
    batch, notes = make_batch(model, None)
    assert (batch["decoder_input_ids"][:, 0] == 2).all()
    assert not torch.equal(batch["decoder_input_ids"], shifted(batch["input_ids"], model.transformer.config))
    real = batch["decoder_attention_mask"].bool()
    assert 0 < real.sum() < real.numel()
    assert (batch["decoder_input_ids"][~real] == 1).all()
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 1).all()
    assert any("random token ids" in note for note in notes)
    assert "for the decoder 6 texts" in mt.parity(model).batch
    for family, end in (("t5", 1), ("bart", 2)):
        batch, _ = make_batch(mt.load(checkpoint(Case(family, "sequence-classification"))), None)
        assert set(batch) == {"input_ids", "attention_mask"}
        assert ((batch["input_ids"] == end).sum(1) == 1).all()
    padding = make_batch(mt.load(checkpoint(Case("roberta", "base"))), None)[0]
    assert torch.equal(padding["input_ids"] == 1, padding["attention_mask"] == 0)


def test_image_batch():
    case = Case("vit", "base", "odd")
    report = mt.parity(checkpoint(case))
    assert report.batch == "3 images of 3 × 9 × 14 numbers"
    assert any("random pixels" in note for note in report.notes)
    with pytest.raises(InputError, match="reads images; leave texts out"):
        mt.parity(checkpoint(case), ["a cat"])


def test_one_attention_only():
    """transformers has no sdpa for GPT, so its noise cannot be measured in this way."""
    assert any("noise floor is not known" in note for note in mt.parity(checkpoint(Case("openai-gpt", "base"))).notes)
    assert not any("noise floor" in note for note in mt.parity(checkpoint(Case("gpt2", "base"))).notes)


@pytest.mark.parametrize("head", ["seq2seq-lm", "sequence-classification"])
def test_texts_of_an_encoder_and_a_decoder(head):
    folder = with_words(checkpoint(Case("t5", head)))
    report = mt.parity(folder)
    assert report.equal, str(report)
    assert not report.notes
    assert report.batch.startswith("6 texts of up to")
    report = mt.parity(folder, ["the cat sat", "the cat"])
    assert report.equal, str(report)
    words = "2 texts of up to 4 tokens, 7 in all"
    read = "; for the decoder 2 texts of up to 4 tokens, 8 in all"  # the end of the longest is not read any more
    assert report.batch == words + read * (head == "seq2seq-lm")


def with_words(folder):
    """The checkpoint with a tokenizer of a few words."""
    folder = rewritten(folder)
    words = ["<pad>", "</s>", "<unk>", "the", "cat", "sat", "on", "mat", "it", ".", "?", ","]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", 1)]
    )  # fmt: skip
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **named}))
    return folder


def test_long_texts_with_rotary_positions():
    """Far out, angles are coarse in float32: ours are rounded as transformers' are."""
    case = Case("llama", "base", "plain")
    assert case.family in DECODERS
    folder = with_words(checkpoint(case, max_position_embeddings=600))
    report = mt.parity(folder, ["the cat sat " * 150, "it"])
    assert report.equal, str(report)
    assert report.rows[1].place == "rotary positions"
    assert report.rows[1].fused == report.rows[1].alone == 0
