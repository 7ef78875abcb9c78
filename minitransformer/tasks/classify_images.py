"""Image classification: one label for each image."""

from collections.abc import Sequence

from minitransformer.images import Image, ImageProcessor, names_of
from minitransformer.model import Transformer
from minitransformer.tasks.classify import Prediction, most_probable
from minitransformer.tasks.inference import check_batch_size, inference


def predict(
    transformer: Transformer,
    processor: ImageProcessor,
    labels: Sequence[str],
    images: Sequence[Image],
    *,
    batch_size: int,
) -> list[Prediction]:
    """The most probable label of each image. No more than a batch of them is read at a time."""
    check_batch_size(batch_size)
    names = names_of(images)
    found: list[Prediction] = []
    with inference(transformer):
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            labelled = most_probable(transformer, processor(images[part], names=names[part]), labels)
            found += [Prediction(name, *label) for name, label in zip(names[part], labelled, strict=True)]
    return found
