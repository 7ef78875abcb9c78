"""`by_hand.py` is what it says: no formula of it is a call of a fused kernel, in its source or when it runs."""

import ast
import inspect

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minitransformer.ops import BOOKS, by_hand

KERNELS = ["softmax", "layer_norm", "gelu", "silu", "relu", "nll_loss", "attention", "convolution"]
PLAIN_TORCH = {"Tensor", "finfo", "float32", "float64", "arange", "stack", "where", "erf", "tanh", "sigmoid"} | {
    "zeros_like",
    "rand_like",
    "cat",
    "int64",
    "log",
    "promote_types",
}


class Record(TorchDispatchMode):
    """The names of all operations that torch runs, such as "aten::_softmax"."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def kernels_that_run(book):
    x, labels = torch.randn(1, 2, 3, 4, requires_grad=True), torch.tensor([1, 2, -100])
    weight, mask = torch.ones(4), torch.ones(3, 3, dtype=torch.bool).tril()
    with Record() as record:
        z = book.attention(x, x, x, mask=mask, scale=0.5)
        z = book.layer_norm(book.rms_norm(z, weight, 1e-5), weight, weight, 1e-5)
        z = book.drop(book.silu(book.relu(book.gelu_tanh(book.gelu(z)))), 0.1)
        z = book.rotary(book.tanh(z), *book.rotary_table(torch.arange(3)[None], 4, 100.0))
        z = z + book.patches(z, torch.ones(4, 2, 3, 4), torch.zeros(4)).sum()
        z = book.softmax(z) + book.attention_weights(book.attention_scores(z, z, scale=1.0), mask).sum()
        total, _ = book.cross_entropy(z[0, 0] + book.sinusoidal_halves(torch.arange(3), 4), labels)
        total.backward()
    return {name for name in record.names if any(kernel in name for kernel in KERNELS)}


def test_no_kernel_runs():
    assert kernels_that_run(BOOKS["by_hand"]) == set()


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_fused_book_runs_kernels(kernel):
    assert any(kernel in name for name in kernels_that_run(BOOKS["fused"]))


def test_the_source_names_only_plain_functions_of_torch():
    nodes = list(ast.walk(ast.parse(inspect.getsource(by_hand))))
    imported = {name.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for name in node.names}
    assert imported == {"math", "torch", "Tensor"}
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    assert {node.attr for node in attributes if ast.unparse(node.value) == "torch"} <= PLAIN_TORCH
    assert not {node.attr for node in attributes} & {"softmax", "log_softmax", "relu", "functional"}
