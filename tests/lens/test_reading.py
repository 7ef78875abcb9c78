"""What a model reads of a text: ids and tokens as transformers' tokenizers have them, and what is refused, and why."""

import numpy as np
import pytest
import torch
import transformers
from lens_models import PAIR, TARGET, TEXT, folder, image, loaded

from minitransformer.errors import InputError, TokenizerError
from minitransformer.reading import read, shifted, tokens_of

ONE_STACK = ["bert", "classifier", "roberta", "albert", "gpt2", "llama"]
TWO_STACKS = ["t5", "t5-base", "bart"]


def reading(kind, text, pair=None, *, target=None, **changes):
    """As `Pretrained.read` calls it."""
    model = loaded(kind)
    reader = model.image_processor if kind in ("vit", "deit") else model.tokenizer
    options = {"max_length": model.max_length, "generation": model.generation_fields, **changes}
    return read(model.transformer, reader, text, pair, target=target, **options)


def their_tokenizer(kind):
    return transformers.AutoTokenizer.from_pretrained(folder(kind))


@pytest.mark.parametrize("kind", ONE_STACK)
def test_one_text(kind):
    theirs, found = their_tokenizer(kind), reading(kind, TEXT)
    ids = theirs(TEXT)["input_ids"]
    assert found.batch["input_ids"].tolist() == [ids]
    assert list(found.tokens) == theirs.convert_ids_to_tokens(ids)
    assert found.decoder_tokens is None
    assert found.second is None
    assert loaded(kind)(**found.batch).last_hidden_state.shape[1] == len(ids)


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert", "t5", "bart"])
def test_a_pair_begins_where_theirs_does(kind):
    theirs, found = their_tokenizer(kind), reading(kind, TEXT, PAIR, target=TARGET if kind in TWO_STACKS else None)
    encoded = theirs(TEXT, PAIR)
    assert found.batch["input_ids"].tolist() == [encoded["input_ids"]]
    assert found.second == encoded.sequence_ids().index(1)


@pytest.mark.parametrize("kind", TWO_STACKS)
def test_the_decoder_reads_the_target_one_place_later(kind):
    theirs, found = their_tokenizer(kind), reading(kind, TEXT, target=TARGET)
    labels = theirs(text_target=TARGET)["input_ids"]
    start = loaded(kind).transformer.config.decoder_start_id
    assert found.batch["decoder_input_ids"].tolist() == [[start, *labels[:-1]]]
    assert list(found.decoder_tokens) == theirs.convert_ids_to_tokens([start, *labels[:-1]])


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_without_a_target_the_model_writes_one(kind):
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder(kind))
    ids = torch.tensor([their_tokenizer(kind)(TEXT)["input_ids"]])
    expected = theirs.generate(ids, max_new_tokens=40, do_sample=False, num_beams=1)
    assert reading(kind, TEXT).batch["decoder_input_ids"].tolist() == expected[:, :-1].tolist()


def test_what_the_files_say_of_lengths_and_beams_does_not_count():
    files = {"min_length": 50, "num_beams": 4, "num_return_sequences": 2, "do_sample": True, "max_length": 3}
    plain, other = (reading("bart", TEXT, generation=each).batch["decoder_input_ids"] for each in ({}, files))
    assert plain.tolist() == other.tolist()


def test_a_text_that_is_read_twice():
    found = reading("bart-classifier", TEXT)
    ids = found.batch["input_ids"]
    assert found.batch["decoder_input_ids"].tolist() == [[2, *ids[0, :-1].tolist()]]
    model = loaded("bart-classifier")
    assert torch.equal(model(**found.batch).logits, model(input_ids=ids).logits)
    with pytest.raises(InputError, match="target: the decoder of this model reads the text a second time"):
        reading("bart-classifier", TEXT, target=TARGET)


@pytest.mark.parametrize(("kind", "special"), [("vit", ["[CLS]"]), ("deit", ["[CLS]", "[DIST]"])])
def test_an_image_is_its_patches_row_by_row(kind, special):
    found = reading(kind, image())
    assert list(found.tokens) == [*special, "0,0", "0,1", "0,2", "1,0", "1,1", "1,2", "2,0", "2,1", "2,2"]
    assert loaded(kind)(**found.batch).last_hidden_state.shape[1] == len(found.tokens)


def test_a_patchs_name_is_its_place():
    """Changing the pixels of row 1, column 2 changes what enters the encoder there, and nowhere else."""
    model = loaded("vit")
    pixels = reading("vit", image()).batch["pixel_values"]
    other = pixels.clone()
    other[:, :, 4:8, 8:12] += 1  # patches of 4 × 4
    changed = (model.transformer.embed(pixels) != model.transformer.embed(other)).any(-1)[0]
    assert [token for token, is_new in zip(reading("vit", image()).tokens, changed, strict=True) if is_new] == ["1,2"]


def test_images_from_anywhere(tmp_path):
    PIL = pytest.importorskip("PIL.Image")
    array = image().numpy()
    PIL.fromarray(array).save(tmp_path / "a.png")
    found = [
        reading("vit", given) for given in (array, PIL.fromarray(array), tmp_path / "a.png", str(tmp_path / "a.png"))
    ]
    for each in found[1:]:
        assert torch.equal(each.batch["pixel_values"], found[0].batch["pixel_values"])


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_an_empty_text(text):
    for kind in ("bert", "gpt2", "t5") if not text else ("bert", "t5"):  # to GPT-2 a space is a token
        with pytest.raises(InputError, match=r"text: got .* no token; give it a word"):
            reading(kind, text)
    with pytest.raises(InputError, match=r"pair: got .* no token"):
        reading("bert", TEXT, text)
    with pytest.raises(InputError, match=r"target: got .* no token"):
        reading("t5", TEXT, target=text)


def test_a_text_that_is_too_long():
    model = loaded("bert")
    inside = "cat. " * 200
    count = len(their_tokenizer("bert")(inside)["input_ids"])
    with pytest.raises(InputError, match=f"text: got {count} tokens, and the model takes {model.max_length}"):
        reading("bert", inside)
    with pytest.raises(InputError, match="text and pair: got"):
        reading("bert", TEXT, inside)
    with pytest.raises(InputError, match="target: got"):
        reading("bart", TEXT, target=inside)
    assert len(reading("t5", inside, target=inside).tokens) > 200  # which knows distances, no positions


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_nothing_stands_between_two_texts(kind):
    with pytest.raises(InputError, match="pair: this model's tokenizer puts nothing between two texts; join"):
        reading(kind, TEXT, PAIR)


def test_inputs_that_the_model_does_not_take():
    with pytest.raises(InputError, match=r"target: this model has one stack.*leave target out"):
        reading("bert", TEXT, target=TARGET)
    with pytest.raises(InputError, match="target: got none, and this model has no head to write one"):
        reading("t5-base", TEXT)
    with pytest.raises(InputError, match="pair: this model reads one image"):
        reading("vit", image(), PAIR)
    with pytest.raises(InputError, match="target: this model reads one image"):
        reading("vit", image(), target=TARGET)


@pytest.mark.parametrize("text", [TEXT, "x" * 5000, "a\0b", ""])
def test_a_text_for_a_model_of_images(text):
    with pytest.raises(InputError, match="this model reads images: there is no file"):
        reading("vit", text)


@pytest.mark.parametrize("given", [image(), np.zeros((3, 3, 3), "uint8"), None, 7, b"text"])
def test_no_text_for_a_model_of_texts(given):
    with pytest.raises(InputError, match="text: this model reads texts: got a"):
        reading("bert", given)


def test_one_at_a_time():
    with pytest.raises(InputError, match="text: got a list, expected one text"):
        reading("bert", [TEXT, PAIR])
    with pytest.raises(InputError, match="image: got a list, expected one image"):
        reading("vit", [image()])


def test_no_unicode():
    with pytest.raises(TokenizerError, match="half of a surrogate pair"):
        reading("bert", "a\ud800b")


def test_ids_that_the_tokenizer_does_not_know():
    """A model's table may have more rows than its tokenizer has tokens."""
    assert tokens_of(loaded("bert").tokenizer, torch.tensor([[2, 99999]])) == ("[CLS]", "<99999>")


def test_shifting():
    config = loaded("bart").transformer.config
    assert shifted(torch.tensor([[5, 6, 7]]), config).tolist() == [[2, 5, 6]]
