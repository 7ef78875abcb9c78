"""Whether two models can be compared: whether they have one shape, and read a text as the same tokens."""

from dataclasses import asdict
from itertools import zip_longest

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.images import Image
from minitransformer.pretrained import Pretrained
from minitransformer.reading import Reading

MAY_DIFFER = ("dropout", "vocab_size")  # of models of one shape: fine-tuning may have added tokens


def check_shapes(model_a: Pretrained, model_b: Pretrained) -> None:
    """Raise an InputError, which names what differs, unless the models have the same shape below their heads."""
    a, b = (_shape(model) for model in (model_a, model_b))
    differ = [
        f"{name}: {a.get(name)!r:.40} and {b.get(name)!r:.40}" for name in {**a, **b} if a.get(name) != b.get(name)
    ]
    if differ:
        raise InputError(
            f"models: got two of different shapes ({'; '.join(differ[:6])}), expected one shape, as before and after "
            f"fine-tuning"
        )


def _shape(model: Pretrained) -> dict[str, object]:
    """What a model is, below its head, field by field: {"encoder.layers": 12, …}."""
    config = model.transformer.config
    parts = {name: getattr(config, name) for name in ("embed", "target_embed", "encoder", "decoder")}
    found: dict[str, object] = {name: type(part).__name__ for name, part in parts.items()}
    for name, part in parts.items():
        if part is not None:
            found |= {f"{name}.{field}": value for field, value in asdict(part).items()}
    return {name: value for name, value in found.items() if not any(word in name for word in MAY_DIFFER)}


def read_alike(
    model_a: Pretrained, model_b: Pretrained, text: str | Image, pair: str | None, target: str | None
) -> Reading:
    """What A reads. An InputError unless B reads the same."""
    a = model_a.read(text, pair, target=target)
    written = a.decoder_tokens is not None and target is None  # by A: B would write something else
    b = model_b.tokenizer(text, pair) if written else model_b.read(text, pair, target=target).batch  # type: ignore[arg-type]
    differ = [name for name, x in b.items() if name not in a.batch or not _equal(a.batch[name], x)]
    if differ:
        tokens = _other_tokens(model_a, model_b, a.batch["input_ids"], b["input_ids"]) if "input_ids" in differ else ""
        raise InputError(
            f"models: they read {text!r:.40} as different {', '.join(differ)}{tokens}; expected two with one tokenizer"
        )
    return a


def _equal(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and torch.equal(x.cpu(), y.cpu())


def _other_tokens(model_a: Pretrained, model_b: Pretrained, a: Tensor, b: Tensor) -> str:
    """The first tokens in which two texts differ, int [1 T] each."""
    pairs = zip_longest(a[0].tolist(), b[0].tolist())
    place, ids = next((place, ids) for place, ids in enumerate(pairs) if ids[0] != ids[1])
    models = zip((model_a, model_b), ids, strict=True)
    names = [
        None if id_ is None else f"{model.tokenizer.backend.id_to_token(id_)!r} (id {id_})" for model, id_ in models
    ]
    return f" (token {place} is {names[0]} and {names[1]})"
