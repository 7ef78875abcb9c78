"""Image classification: one label for each image."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from minitransformer.errors import DataError, InputError
from minitransformer.images import ImageProcessor, check_image, names_of
from minitransformer.metrics import classification
from minitransformer.model import Transformer
from minitransformer.model.heads import SumAndCount
from minitransformer.tasks.classify import Prediction, most_probable, own_label, own_labels
from minitransformer.tasks.task import Criterion, Example, Kind, Row, columns_row, label_number
from minitransformer.text import Batch


class ClassifyImages:
    """Rows: path, that of a file (or an image itself), and label, the name of a class.

    `flip`: in training, half of the images are shown mirrored, drawn anew each time.
    """

    kind: ClassVar = Kind(
        head="image-classification",
        metric="accuracy",
        row_metric="accuracy",
        inputs=("path",),
        targets=("label",),
        labels_in=own_label,
        labels_of=own_labels,
        options=("label_smoothing", "class_weights", "flip"),
        pipeline="image-classification",
        example='model.predict(["image.png"])',
    )

    def __init__(
        self,
        image_processor: ImageProcessor,
        labels: Sequence[str],
        criterion: Criterion = Criterion(),  # noqa: B008, it is frozen
        *,
        flip: bool = False,
    ) -> None:
        self.image_processor, self.labels, self.criterion, self.flip = image_processor, tuple(labels), criterion, flip
        self.numbers = {label: i for i, label in enumerate(labels)}

    def row(self, given: Any) -> Row:
        """A row of columns, or of an image: a path, a Pillow image, an array or a tensor."""
        return columns_row(given, "an image") if isinstance(given, dict) else Row(path=given, where="an image")

    def encode(self, rows: Sequence[Row], *, targets: bool = True) -> list[Example]:
        """An example for each row; its target is the label's number. To learn from, each image can be read."""
        found = []
        for place, (row, name) in enumerate(zip(rows, image_names(rows), strict=True)):
            target = None
            if targets:
                target, name = label_number(self.numbers, row.name("label"), row.where), f"{row.where}: {name}"
                check_file(row["path"], name)
            found.append(Example(place, {}, target, extra=(row["path"], name)))
        return found

    def collate(self, examples: Sequence[Example]) -> Batch:
        """pixel_values float [B 3 height width]; labels int [B]; mirrored bool [B]. The images are read now."""
        batch = self.image_processor([e.extra[0] for e in examples], names=[e.extra[1] for e in examples])
        if examples[0].target is not None:
            batch["labels"] = torch.tensor([example.target for example in examples])
            if self.flip:
                batch["mirrored"] = torch.rand(len(examples)) < 0.5
        return batch

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The number of rows, or the sum of their labels' weights."""
        return self.criterion.count(batch["labels"])

    def loss(self, model: Transformer, batch: Mapping[str, Tensor]) -> SumAndCount:
        """Cross-entropy."""
        x = batch["pixel_values"]
        if "mirrored" in batch and model.training:
            x = torch.where(batch["mirrored"][:, None, None, None], x.flip(-1), x)
        return model.loss({"pixel_values": x, "labels": batch["labels"]}, self.criterion)

    def decode(self, model: Transformer, batch: Mapping[str, Tensor]) -> list[tuple[str, float]]:
        """The most probable label of each image, and its probability."""
        return most_probable(model, {"pixel_values": batch["pixel_values"]}, self.labels)

    def answers(
        self, rows: Sequence[Row], examples: Sequence[Example], decoded: Sequence[tuple[str, float]]
    ) -> list[Prediction]:
        """The label of each image, with the image's name."""
        return [Prediction(name, *found) for name, found in zip(image_names(rows), decoded, strict=True)]

    def score(self, answers: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        """Accuracy, and what else `metrics.classification` knows."""
        return classification([a.label for a in answers], [row.name("label") for row in rows], self.labels)


def check_file(image: Any, name: str) -> None:
    """Raise a DataError for a file that is not there, or is no image or not all of one: before the work."""
    if not isinstance(image, str | PathLike | bytes):
        return
    if not isinstance(image, bytes) and not Path(image).is_file():
        raise DataError(f"{name}: no such file")
    try:
        check_image(image, name)
    except InputError as error:
        raise DataError(str(error)) from None


def image_names(rows: Sequence[Row]) -> list[str]:
    """What to call the image of each row: its path, or its place among the rows."""
    for row in rows:
        if "path" not in row:
            raise DataError(f"{row.where}: 'path' is not among the columns {', '.join(row) or '(none)'}")
    return names_of([row["path"] for row in rows])
