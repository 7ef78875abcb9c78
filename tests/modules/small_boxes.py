"""Boxes of odd sizes with noise on every parameter, in float64."""

import pytest
import torch

from minitransformer.config import StackConfig, TokenEmbeddingConfig
from minitransformer.ops import BOOKS

STACK = StackConfig(
    layers=1,
    d_model=12,
    heads=3,
    d_ffn=20,
    norm_order="post",
    norm_eps=1e-5,
    final_norm=False,
    activation="relu",
    causal=False,
)
EMBED = TokenEmbeddingConfig(vocab_size=11, d_model=7, positions="learned", max_positions=9)
IDS = torch.tensor([[3, 1, 10], [0, 0, 5]])
books = pytest.mark.parametrize("book", BOOKS.values(), ids=BOOKS)


def noisy(module, book=BOOKS["fused"]):
    """The module in float64, evaluating, with noise on every parameter."""
    module = module.double().eval()
    for part in module.modules():
        if hasattr(part, "book"):
            part.book = book
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


def give(theirs, weights):
    """Put `weights`, by their names there, into a module of another library: all that it has."""
    theirs = theirs.double().eval()
    shapes = {name: weight.shape for name, weight in theirs.state_dict().items()}
    theirs.load_state_dict({name: weight.detach().reshape(shapes[name]) for name, weight in weights.items()})
    return theirs


def assert_near(got, expected):
    torch.testing.assert_close(got, torch.as_tensor(expected), rtol=1e-11, atol=1e-11)
