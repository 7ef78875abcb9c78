"""Images: the loss of transformers, classes that are learned, mirrored copies, and files that are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from small_families import IMAGE_SIZES
from small_task_models import load, mean_and_parts, overfit, their_loss

import minitransformer as mt
from minitransformer.errors import DataError, InputError
from minitransformer.tasks import Row
from minitransformer.tasks.classify import Prediction
from minitransformer.tasks.classify_images import ClassifyImages
from minitransformer.tasks.inference import predict
from minitransformer.tasks.task import Criterion

Image = pytest.importorskip("PIL.Image")

LABELS = ("left", "neither", "right")
PREPROCESSOR = {"image_processor_type": "ViTImageProcessor", "size": {"height": 15, "width": 15}}


def pixels(number):
    """Dark noise of an odd size; brighter on one side, or on neither."""
    image = np.random.default_rng(number).integers(0, 120, (20 + number, 31, 3), dtype=np.uint8)
    bright = {0: slice(0, 15), 1: slice(0, 0), 2: slice(16, 31)}[number % 3]
    image[:, bright] += 130
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A ViT without a head, and how it wants its images."""
    folder = tmp_path_factory.mktemp("models") / "vit"
    config = transformers.ViTConfig(**{**IMAGE_SIZES, "hidden_size": 32}, initializer_range=0.1)
    torch.manual_seed(0)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number in range(16):
        Image.fromarray(pixels(number)).save(folder / f"{number}.png")
    return [
        Row(path=str(folder / f"{number}.png"), label=LABELS[number % 3], where=f"a.csv, line {number + 2}")
        for number in range(16)
    ]


@pytest.fixture
def model(folder):
    return load(folder, ClassifyImages.kind.head, labels=LABELS)


def double(batch):
    return {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}


def test_the_loss_is_transformers(model, rows, tmp_path):
    task = ClassifyImages(model.image_processor, LABELS)
    batch = double(task.collate(task.encode(rows)))
    assert batch["pixel_values"].shape == (16, 3, 15, 15)
    whole, parts = mean_and_parts(task, model.transformer, batch)
    expected = their_loss(transformers.ViTForImageClassification, model, batch, tmp_path / "ours")
    assert whole == pytest.approx(expected, abs=1e-9)
    assert parts == pytest.approx(expected, abs=1e-9)


def test_classes_that_weigh_more(model, rows):
    weights = torch.tensor([1.0, 0.5, 3.0])
    task = ClassifyImages(model.image_processor, LABELS, Criterion(weights, label_smoothing=0.1))
    batch = double(task.collate(task.encode(rows)))
    with torch.no_grad():
        logits = model(pixel_values=batch["pixel_values"]).logits
    options = {"weight": weights.double(), "label_smoothing": 0.1}
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"], **options).item()
    assert mean_and_parts(task, model.transformer, batch) == pytest.approx((expected, expected), abs=1e-7)


def test_classes_are_learned_and_predicted(folder, rows):
    torch.manual_seed(0)
    model = mt.load(folder, head=ClassifyImages.kind.head, labels=LABELS)
    task = ClassifyImages(model.image_processor, ClassifyImages.kind.labels_of(rows))
    assert overfit(task, model.transformer, rows, steps=50) < 1e-2
    paths = [row["path"] for row in rows]
    answers = predict(model.transformer, task, [task.row(path) for path in paths], batch_size=5)
    assert [answer.label for answer in answers] == [row["label"] for row in rows]
    assert answers[0] == Prediction(paths[0], "left", pytest.approx(1, abs=0.05))
    assert task.score(answers, rows)["accuracy"] == 1
    assert task.score([Prediction("", "left", 1.0)] * 16, rows)["accuracy"] == 6 / 16


def test_images_of_every_kind(model, rows):
    """A file, a Pillow image, an array, a tensor: named by its path, or by its place."""
    task = ClassifyImages(model.transformer.float() and model.image_processor, LABELS)
    arrays = [pixels(number) for number in range(4)]
    given = [rows[0]["path"], Image.fromarray(arrays[1]), arrays[2], torch.from_numpy(arrays[3])]
    answers = predict(model.transformer, task, [task.row(image) for image in given], batch_size=3)
    assert [answer.text for answer in answers] == [rows[0]["path"], "image 1", "image 2", "image 3"]
    expected = predict(model.transformer, task, [Row(path=row["path"]) for row in rows[:4]], batch_size=4)
    assert [(x.label, pytest.approx(x.score)) for x in expected] == [(x.label, x.score) for x in answers]


def test_no_more_than_a_batch_is_read(model, rows):
    """Encoding makes no pixels, and each batch only its own."""
    read = []

    def reader(images, names):
        read.append(images)
        return model.image_processor(images, names=names)

    task = ClassifyImages(reader, LABELS)
    examples = task.encode(rows)
    assert read == []
    task.collate(examples[3:5])
    assert read == [[rows[3]["path"], rows[4]["path"]]]


def test_half_of_the_images_are_mirrored_in_training(model, rows):
    plain = ClassifyImages(model.image_processor, LABELS)
    flipped = ClassifyImages(model.image_processor, LABELS, flip=True)
    assert "mirrored" not in flipped.collate(flipped.encode(rows, targets=False))

    def drawn(seed):
        torch.manual_seed(seed)
        return double(flipped.collate(flipped.encode(rows)))

    batch = drawn(0)
    x, mirrored = batch["pixel_values"], batch["mirrored"]
    assert torch.equal(x, double(plain.collate(plain.encode(rows)))["pixel_values"])
    assert 0 < mirrored.sum() < 16
    assert torch.equal(drawn(0)["mirrored"], mirrored)
    assert not torch.equal(drawn(1)["mirrored"], mirrored)
    for training in (True, False):  # of this model nothing is dropped out
        model.train(training)
        shown = [x[i].flip(2) if training and mirrored[i] else x[i] for i in range(16)]
        with torch.no_grad():
            logits = model(pixel_values=torch.stack(shown)).logits
        expected = torch.nn.functional.cross_entropy(logits, batch["labels"]).item()
        found = mean_and_parts(flipped, model.transformer, batch)
        assert found == pytest.approx((expected, expected), abs=1e-9)
    assert flipped.decode(model.transformer, batch) == plain.decode(model.transformer, {"pixel_values": x})


# What is refused


def test_a_broken_image_is_named_with_its_row(model, rows, tmp_path):
    task = ClassifyImages(model.image_processor, LABELS)
    (tmp_path / "text.png").write_text("no image")
    broken = Row(path=tmp_path / "text.png", label="left", where="a.csv, line 7")
    with pytest.raises(DataError, match=r"^a\.csv, line 7: .*text\.png: no image in one of the formats"):
        task.encode([rows[0], broken])
    with pytest.raises(InputError, match=rf"^{tmp_path}/text\.png: no image in one of the formats"):
        predict(model.transformer, task, [broken], batch_size=1)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_an_image_that_is_cut_off_is_found_before_the_work(model, rows, tmp_path, kind):
    task = ClassifyImages(model.image_processor, LABELS)
    whole = tmp_path / f"whole.{kind}"
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (90, 90, 3)).astype(np.uint8)).save(whole)
    task.encode([Row(path=str(whole), label="left")])
    data = whole.read_bytes()
    for given in (data[: len(data) // 2], b""):
        (tmp_path / f"cut.{kind}").write_bytes(given)
        for path in (str(tmp_path / f"cut.{kind}"), given):
            with pytest.raises(DataError, match=r"a\.csv, line 8: .*(damaged or cut off|no image in one)"):
                task.encode([rows[0], Row(path=path, label="left", where="a.csv, line 8")])


def test_an_image_as_the_bytes_of_its_file(model, rows):
    task = ClassifyImages(model.image_processor, LABELS)
    paths = [row["path"] for row in rows[:4]]
    read = [Row(path=Path(path).read_bytes(), label=row["label"]) for path, row in zip(paths, rows, strict=False)]
    batch = task.collate(task.encode(read))
    assert torch.equal(batch["pixel_values"], task.collate(task.encode(rows[:4]))["pixel_values"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": "left"}, "'path' is not among the columns label"),
        ({"path": "nowhere.png", "label": "left"}, r"nowhere\.png: no such file"),
        ({"path": "", "label": "left"}, "no such file"),
        ({"label": "up"}, "unknown label 'up', expected one of left, neither, right"),
        ({"label": None}, "'label' is None, expected the name of a class"),
    ],
)
def test_bad_rows(model, rows, row, message):
    task = ClassifyImages(model.image_processor, LABELS)
    if row["label"] != "left":
        row = {"path": rows[0]["path"], **row}
    with pytest.raises(DataError, match=f"a.csv, line 99: .*{message}"):
        task.encode([rows[0], Row(row, where="a.csv, line 99")])


def test_what_is_no_image(model):
    task = ClassifyImages(model.image_processor, LABELS)
    given = [task.row(pixels(0)), task.row(None)]
    with pytest.raises(InputError, match="image 1: got a NoneType, expected a path, bytes, a Pillow image"):
        predict(model.transformer, task, given, batch_size=4)


def test_the_labels_of_rows(rows):
    assert ClassifyImages.kind.labels_of(rows) == LABELS
    with pytest.raises(DataError, match="all 2 rows have the label 'left'"):
        ClassifyImages.kind.labels_of([rows[0], rows[3]])
