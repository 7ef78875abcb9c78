"""What transformers makes of a saved classifier."""

from collections.abc import Sequence
from pathlib import Path


def transformers_labels(folder: str | Path, texts: Sequence[str]) -> list[str]:
    """The label of each text by transformers alone: its tokenizer, its model, its label names, all from `folder`."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = AutoTokenizer.from_pretrained(folder)(list(texts), padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        best = model(**batch).logits.argmax(-1).tolist()
    return [model.config.id2label[label] for label in best]
