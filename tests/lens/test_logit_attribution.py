"""Direct logit attribution: parts as transformers' modules write them, which add up to the logit."""

import lens_models
import pytest
import torch
import transformers
from lens_models import TARGET, TEXT, fresh, loaded

from minitransformer.errors import InputError
from minitransformer.lens import logit_attribution
from minitransformer.lens.tabs import GridTab, TableTab
from minitransformer.model.adapters import add_lora

KINDS = ("gpt2", "llama", "t5")
WRITES = {"t5": TARGET}


def theirs(kind):
    return getattr(transformers, lens_models.KINDS[kind][1]).from_pretrained(lens_models.folder(kind)).eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", ["component", "layer", "head"])
@pytest.mark.parametrize("foil", [None, 7])
def test_the_parts_add_up_to_the_models_logit(kind, by, foil):
    model = loaded(kind)
    batch = model.read(TEXT, target=WRITES.get(kind)).batch
    with torch.no_grad():
        logits = theirs(kind)(**batch).logits[0]
    for position in (0, 3, -1):
        found = logit_attribution(model, TEXT, 5, foil, by=by, position=position, target=WRITES.get(kind))
        expected = logits[position, 5] - (0 if foil is None else logits[position, foil])
        assert found.logit == pytest.approx(expected.item(), abs=1e-5)
        assert abs(found.remainder) < 1e-5
        assert found.total == pytest.approx(found.logit, abs=1e-5)
        assert max(abs(part.value) for part in found.parts) > 0.01
        assert f"remainder {found.remainder:.1e}" in str(found)


def test_the_heads_of_gpt2_are_those_of_its_projections():
    model, other, place = loaded("gpt2"), theirs("gpt2"), 4
    seen = {}
    for i, block in enumerate(other.transformer.h):
        block.attn.c_proj.register_forward_pre_hook(lambda _, args, i=i: seen.update({(i, "z"): args[0][0, place]}))
        block.mlp.register_forward_hook(lambda *args, i=i: seen.update({(i, "mlp"): args[-1][0, place]}))
    other.transformer.drop.register_forward_hook(lambda *args: seen.update(embedding=args[-1][0, place]))
    other.transformer.ln_f.register_forward_pre_hook(lambda _, args: seen.update(last=args[0][0, place]))
    with torch.no_grad():
        other(**model.read(TEXT).batch)
        norm, unembed = other.transformer.ln_f, other.lm_head.weight[5] - other.lm_head.weight[7]
        scale = (seen["last"].var(unbiased=False) + norm.eps).sqrt()
        share = lambda x: (((x - x.mean()) / scale * norm.weight) @ unembed).item()
        expected = [share(seen["embedding"])]
        heads = other.config.n_head
        for i, block in enumerate(other.transformer.h):
            rows = block.attn.c_proj.weight.chunk(heads)  # [E D] each
            expected += [share(z @ row) for z, row in zip(seen[i, "z"].chunk(heads), rows, strict=True)]
            expected += [share(block.attn.c_proj.bias), share(seen[i, "mlp"])]
        expected.append((norm.bias @ unembed).item())
    found = logit_attribution(model, TEXT, 5, 7, by="head", position=place)
    assert [part.value for part in found.parts] == pytest.approx(expected, abs=1e-5)
    names = ["embedding", *([f"head {i}" for i in range(heads)] + ["b_O", "mlp"]) * len(other.transformer.h)]
    assert [part.name for part in found.parts] == [*names, "norm's bias"]
    assert str(found.parts[2]) == "block 0 head 1"


def test_the_components_of_t5_are_what_its_sublayers_write():
    model, other, place = loaded("t5"), theirs("t5"), 3
    seen = []
    keep = lambda x: seen.append(x[0, place])
    stack = other.decoder
    stack.dropout.register_forward_hook(lambda *args: keep(args[-1]) if not seen else None)  # its first turn
    for block in stack.block:
        block.layer[0].SelfAttention.register_forward_hook(lambda *args: keep(args[-1][0]))
        block.layer[1].EncDecAttention.register_forward_hook(lambda *args: keep(args[-1][0]))
        block.layer[2].DenseReluDense.register_forward_hook(lambda *args: keep(args[-1]))
    with torch.no_grad():
        other(**model.read(TEXT, target=TARGET).batch)
        scale = (sum(seen).square().mean() + stack.final_layer_norm.variance_epsilon).sqrt()
        unembed = other.lm_head.weight[5] * other.config.d_model**-0.5
        expected = [((x / scale * stack.final_layer_norm.weight) @ unembed).item() for x in seen]
    found = logit_attribution(model, TEXT, 5, position=place, target=TARGET)
    assert [part.value for part in found.parts] == pytest.approx(expected, abs=1e-5)
    assert [part.name for part in found.parts] == ["embedding", *["attn", "cross attn", "mlp"] * len(stack.block)]
    by_layer = logit_attribution(model, TEXT, 5, by="layer", position=place, target=TARGET)
    sums = [expected[0], *(sum(expected[1 + 3 * i : 4 + 3 * i]) for i in range(len(stack.block)))]
    assert [part.value for part in by_layer.parts] == pytest.approx(sums, abs=1e-5)
    assert [str(part) for part in by_layer.parts] == ["embedding", *(f"block {i}" for i in range(len(stack.block)))]


def test_a_bias_of_the_head_is_a_part():
    model = fresh("gpt2")
    logit = logit_attribution(model, TEXT, 5).logit
    model.transformer.head.lm.bias = torch.nn.Parameter(torch.arange(len(model.tokenizer)) / 10)
    found = logit_attribution(model, TEXT, 5)
    assert found.parts[-1].name == "b_U"
    assert found.parts[-1].value == pytest.approx(0.5)
    assert found.logit == pytest.approx(logit + 0.5, abs=1e-5)
    assert abs(found.remainder) < 1e-5


def test_lora_counts():
    model = fresh("gpt2")
    before = logit_attribution(model, TEXT, 5, by="head")
    add_lora(model.transformer, rank=2, targets=("o", "down"))
    with torch.no_grad():
        for name, x in model.named_parameters():
            if name.endswith("lora_b"):
                x.normal_()
    after = logit_attribution(model, TEXT, 5, by="head")
    assert abs(after.remainder) < 1e-5
    assert abs(after.parts[1].value - before.parts[1].value) > 1e-3


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert", "bart", "classifier"])
def test_post_norm_models_are_refused_with_the_reason(kind):
    with pytest.raises(InputError, match=r"post-norm.*divides.*lens\.ablate, lens\.patch and lens\.saliency"):
        logit_attribution(loaded(kind), TEXT, 5)


def test_models_without_logits_over_tokens_are_refused():
    with pytest.raises(InputError, match="logits over tokens"):
        logit_attribution(loaded("vit"), lens_models.image(), 5)
    with pytest.raises(InputError, match="'base'; load it with one that has them: seq2seq-lm"):
        logit_attribution(loaded("t5-base"), TEXT, 5, target=TARGET)


def test_an_answer_is_one_token():
    model = loaded("gpt2")
    pieces = lambda text: model.tokenizer.encode(text, add_special_tokens=False)
    words = [token[1:] for token in model.tokenizer.backend.get_vocab() if token[0] == "Ġ" and token[1:].isalpha()]
    word = next(
        word for word in sorted(words) if len(pieces(word)) > 1 == len(pieces(f" {word}"))
    )  # known with a space
    spaced = logit_attribution(model, TEXT, f" {word}")
    assert spaced.answer == f"Ġ{word}"
    assert logit_attribution(model, TEXT, f"Ġ{word}").parts == spaced.parts  # as it stands in the vocabulary
    assert logit_attribution(model, TEXT, pieces(f" {word}")[0]).parts == spaced.parts
    with pytest.raises(
        InputError, match=rf"answer: '{word}' is '.*', '.*one token; try ' {word}', with a space before"
    ):
        logit_attribution(model, TEXT, word)
    with pytest.raises(InputError, match=r"foil: 'two words' is .*expected one token; try one of its pieces"):
        logit_attribution(model, TEXT, f" {word}", "two words")
    with pytest.raises(InputError, match=r"'<unk>' to this tokenizer, expected one token"):
        logit_attribution(loaded("t5"), TEXT, "☃", target=TARGET)


@pytest.mark.parametrize("answer", [-1, 10**9, True, "", None, 1.5])
def test_an_answer_that_is_no_token(answer):
    with pytest.raises(InputError, match="answer: got"):
        logit_attribution(loaded("gpt2"), TEXT, answer)


@pytest.mark.parametrize("wrong", [{"by": "heads"}, {"position": 99}, {"position": -99}, {"position": True}])
def test_wrong_options(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))}: got"):
        logit_attribution(loaded("gpt2"), TEXT, 5, **wrong)


def test_what_it_shows(tmp_path):
    found = logit_attribution(loaded("t5"), TEXT, 5, 7, by="head", target=TARGET)
    own, cross, table = found.tabs()
    assert isinstance(own, GridTab)
    assert isinstance(table, TableTab)
    heads = loaded("t5").transformer.config.decoder.heads
    assert (own.selects, cross.selects) == ("decoder", "cross")
    assert own.column_labels == cross.column_labels == tuple(map(str, range(heads)))
    values = {(part.layer, part.name): part.value for part in found.parts}
    for layer in range(2):
        for head in range(heads):
            assert own.values[layer, head].item() == pytest.approx(values[layer, f"head {head}"])
            assert cross.values[layer, head].item() == pytest.approx(values[layer, f"cross head {head}"])
    assert logit_attribution(loaded("gpt2"), TEXT, 5, by="head").tabs()[0].selects == "attention"
    components = logit_attribution(loaded("gpt2"), TEXT, 5)
    assert components.tabs()[0].column_labels == ("attn", "mlp")
    assert len(components.notes) == 2  # without a foil, a word about that
    assert len(found.notes) == 1
    assert components.to_dict()["remainder"] == components.remainder
    for result in (found, components):
        for name in ("a.svg", "a.json", "a.txt", "a.html"):
            assert result.save(tmp_path / name).stat().st_size > 500
