"""What transformers makes of a saved classifier."""

from collections.abc import Sequence
from pathlib import Path


def transformers_labels(folder: str | Path, texts: Sequence[str]) -> list[str]:
    """The label of each text by transformers alone: its tokenizer, its model, its label names, all from `folder`."""
    import torch

    from minitransformer.parity.theirs import import_transformers, quiet

    transformers = import_transformers()
    with quiet(transformers), torch.inference_mode():
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        best = model(**tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")).logits.argmax(-1)
    return [model.config.id2label[label] for label in best.tolist()]
