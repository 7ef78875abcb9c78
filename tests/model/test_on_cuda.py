"""On a GPU the model gives the numbers it gives on the CPU, with either book, padded rows included."""

import pytest
import torch
from small_models import bert, gpt2, ids, noisy, padding, paper

from minitransformer.ops import BOOKS

pytestmark = [pytest.mark.cuda, pytest.mark.parametrize("book", BOOKS)]
DEVICE = "cuda"
IDS, MASK = ids(3, 5), padding([5, 2, 4], 5, "left")  # with a causal mask some queries see nothing
CONFIGS = {"bert": bert(), "gpt2": gpt2(), "paper": paper()}


def hidden_and_gradient(config, book, dtype, device):
    model = noisy(config, book, dtype).to(device)
    tokens, mask = IDS.to(device), MASK.to(device)
    out = model(tokens, mask, **({"decoder_input_ids": tokens} if config.encoder and config.decoder else {}))
    out.last_hidden_state.square().sum().backward()
    return out.last_hidden_state.detach().cpu(), model.embed.tokens.weight.grad.cpu()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_the_numbers_of_the_cpu(name, dtype, tolerance, book):
    hidden, gradient = hidden_and_gradient(CONFIGS[name], book, dtype, DEVICE)
    expected, expected_gradient = hidden_and_gradient(CONFIGS[name], book, torch.float64, "cpu")
    torch.testing.assert_close(hidden.double(), expected, rtol=tolerance, atol=tolerance)
    scale = float(expected_gradient.abs().max())
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite_and_near(dtype, book):
    hidden, gradient = hidden_and_gradient(CONFIGS["gpt2"], book, dtype, DEVICE)
    expected, _ = hidden_and_gradient(CONFIGS["gpt2"], book, torch.float64, "cpu")
    assert gradient.isfinite().all()
    torch.testing.assert_close(hidden.double(), expected, rtol=0, atol=0.05 * float(expected.abs().max()))
