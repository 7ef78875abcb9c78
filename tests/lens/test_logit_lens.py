"""The logit lens: its last row is the model's own, every other what transformers' head makes of its hidden states."""

import lens_models
import pytest
import torch
import transformers
from lens_models import TARGET, TEXT, fresh, loaded
from small_readers import reader

import minitransformer as mt
from minitransformer.errors import InputError
from minitransformer.lens import logit_lens
from minitransformer.lens.stream import last_stack, read_out, stages
from minitransformer.lens.tabs import LayersTab

# kind -> how transformers' model reads a hidden state that is not its last
HEADS = {
    "gpt2": lambda model, x: model.lm_head(model.transformer.ln_f(x)),
    "llama": lambda model, x: model.lm_head(model.model.norm(x)),
    "bert": lambda model, x: model.cls(x),
    "roberta": lambda model, x: model.lm_head(x),
    "albert": lambda model, x: model.predictions(x),
    "t5": lambda model, x: model.lm_head(model.decoder.final_layer_norm(x) * model.config.d_model**-0.5),
    "bart": lambda model, x: model.lm_head(x) + model.final_logits_bias,
}
TEXTS = {
    "bert": "The [MASK] was good, and the cat was [MASK] too.",
    "albert": "The [MASK] was good.",
    "roberta": "The<mask> was good.",
}
WRITES = {"t5": TARGET, "bart": TARGET}


@pytest.mark.parametrize("kind", HEADS)
def test_the_last_row_is_the_models_own_to_the_last_bit(kind):
    model = fresh(kind)
    norm = last_stack(model.transformer)[1].final_norm
    batch = model.read(TEXTS.get(kind, TEXT), target=WRITES.get(kind)).batch
    with torch.no_grad():
        if norm is not None:
            norm.weight.uniform_(0.5, 1.5)  # with a gain of 1, twice would be as good as once
        logits = model(**batch).logits
        last = list(stages(model.transformer, batch).values())[-1]
        assert torch.equal(read_out(model.transformer, last), logits)
        if norm is not None:
            assert (read_out(model.transformer, norm(last)) - logits).abs().max() > 1e-4
    found = logit_lens(model, TEXTS.get(kind, TEXT), target=WRITES.get(kind), top=3)
    shares, ids = logits[0].softmax(-1).topk(3)
    assert torch.equal(found.probabilities[-1], shares)
    assert torch.equal(found.final_ranks[-1], torch.ones(len(ids), dtype=torch.int64))
    assert torch.equal(found.final_probabilities[-1], shares[:, 0])
    assert found.top_tokens[-1] == tuple(
        tuple(model.tokenizer.target.backend.id_to_token(n) for n in place) for place in ids.tolist()
    )


@pytest.mark.parametrize("kind", HEADS)
def test_every_row_is_what_transformers_head_makes_of_its_hidden_state(kind):
    model = loaded(kind)
    theirs = getattr(transformers, lens_models.KINDS[kind][1]).from_pretrained(lens_models.folder(kind)).eval()
    batch = model.read(TEXTS.get(kind, TEXT), target=WRITES.get(kind)).batch
    with torch.no_grad():
        output = theirs(**batch, output_hidden_states=True)
        states = getattr(output, "decoder_hidden_states", None) or output.hidden_states
        rows = [HEADS[kind](theirs, x)[0] for x in states[:-1]] + [output.logits[0]]
    found = logit_lens(model, TEXTS.get(kind, TEXT), target=WRITES.get(kind), top=2)
    assert found.stages == ("embedding", *(f"block {i}" for i in range(len(rows) - 1)))
    final = rows[-1].argmax(-1, keepdim=True)
    for r, logits in enumerate(rows):
        probabilities = logits.softmax(-1)
        torch.testing.assert_close(found.probabilities[r], probabilities.topk(2).values, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(
            found.final_probabilities[r], probabilities.gather(1, final)[:, 0], atol=1e-6, rtol=1e-4
        )
        least, most = (1 + (logits > logits.gather(1, final) + noise).sum(-1) for noise in (1e-5, -1e-5))
        assert (least <= found.final_ranks[r]).all()
        assert (found.final_ranks[r] <= most).all()


@pytest.mark.parametrize(("family", "head"), [("gpt2", "GPT2DoubleHeadsModel"), ("bert", "BertForPreTraining")])
def test_a_language_model_beside_another_head(tmp_path, family, head):
    model = mt.load(reader(tmp_path / family, family, head))
    with torch.no_grad():
        output = model(**model.read(TEXT).batch)
    logits = output.logits[0] if output.prediction_logits is None else output.prediction_logits
    found = logit_lens(model, TEXT, top=1)
    assert torch.equal(found.probabilities[-1], logits[0].softmax(-1).topk(1).values)


def test_masked_places_are_marked():
    found = logit_lens(loaded("bert"), TEXTS["bert"])
    assert [found.tokens[place] for place in found.masked] == ["[MASK]", "[MASK]"]
    assert found.tokens.count("[MASK]") == 2
    assert found.predicted == "the token at this place"
    assert str(found).count("([MASK]): the model predicts") == 2
    masked = {row["position"] for row in found.to_dict()["rows"] if row["masked"]}
    assert masked == set(found.masked)
    assert len(logit_lens(loaded("roberta"), TEXTS["roberta"]).masked) == 1
    assert logit_lens(loaded("bert"), TEXT).masked == ()
    found = logit_lens(loaded("gpt2"), TEXT)
    assert f"position {len(found.tokens) - 1} " in str(found)  # none is masked: the last


def test_of_two_stacks_it_is_the_decoders():
    found = logit_lens(loaded("t5"), TEXT, target=TARGET)
    assert found.tokens == loaded("t5").read(TEXT, target=TARGET).decoder_tokens
    assert found.probabilities.shape == (3, len(found.tokens), 5)


def test_a_pair():
    found = logit_lens(loaded("bert"), "The [MASK].", "A cat.", top=1)
    assert found.tokens == loaded("bert").read("The [MASK].", "A cat.").tokens


def test_dropout_plays_no_part(tmp_path):
    folder = reader(tmp_path / "a", "gpt2", "GPT2LMHeadModel")
    model = mt.load(folder, config={"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5})
    still = logit_lens(model, TEXT)
    model.train()
    again = logit_lens(model, TEXT)
    assert torch.equal(still.probabilities, again.probabilities)
    assert model.transformer.training


@pytest.mark.parametrize(("kind", "heads"), [("classifier", "masked-lm"), ("bart-classifier", "seq2seq-lm")])
def test_a_model_without_a_language_model_says_which_heads_are_one(kind, heads):
    with pytest.raises(InputError, match=f"logits over tokens.*'sequence-classification'; load it with.*{heads}"):
        logit_lens(loaded(kind), TEXT)
    with pytest.raises(InputError, match="'image-classification'; no head of this family"):
        logit_lens(loaded("vit"), lens_models.image())


@pytest.mark.parametrize("top", [0, -1, 10**6, True, 1.5, "5"])
def test_top_is_a_number_of_tokens(top):
    with pytest.raises(InputError, match="top: got"):
        logit_lens(loaded("gpt2"), TEXT, top=top)


def test_what_it_shows(tmp_path):
    found = logit_lens(loaded("gpt2"), "~" * 40, top=2)
    assert len(found.tokens) > 32
    (tab,) = found.tabs()
    assert isinstance(tab, LayersTab)
    assert (len(tab.stages), len(tab.tokens), 2) == tab.probabilities.shape
    assert len(found.table().rows) == len(tab.stages) * len(tab.tokens)
    assert found.table().columns[-2:] == ("top 2", "p 2")
    drawn = {text.get_text() for text in found.figure().axes[0].texts}
    assert found.top_tokens[-1][-1][0] in drawn
    assert "32 positions" in found.figure()._suptitle.get_text()  # of more, a figure shows the last
    for name in ("a.svg", "a.json", "a.txt", "a.html"):
        assert found.save(tmp_path / name).stat().st_size > 500
