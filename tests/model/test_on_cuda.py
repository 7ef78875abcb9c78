"""On a GPU the model gives the numbers it gives on the CPU, with either book, padded rows included."""

import pytest
import torch
from small_models import ids, inputs, kinds, noisy, padding

from minitransformer.modules import KVCache
from minitransformer.ops import BOOKS

pytestmark = [pytest.mark.cuda, pytest.mark.parametrize("book", BOOKS)]
DEVICE = "cuda"
MASK = padding([5, 2, 4], 5, "left")  # with a causal mask some queries see nothing
CONFIGS = kinds()


def batch(config, device):
    given = inputs(config)
    if "input_ids" in given:
        given["attention_mask"] = MASK
    return {name: x.to(device) for name, x in given.items()}


def hidden_and_gradients(config, book, dtype, device):
    model = noisy(config, book, dtype).to(device)
    out = model(**batch(config, device))
    out.last_hidden_state.square().sum().backward()
    gradients = {name: weight.grad.cpu() for name, weight in model.named_parameters() if weight.grad is not None}
    return out.last_hidden_state.detach().cpu(), gradients


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_the_numbers_of_the_cpu(name, dtype, tolerance, book):
    hidden, gradients = hidden_and_gradients(CONFIGS[name], book, dtype, DEVICE)
    expected, expected_gradients = hidden_and_gradients(CONFIGS[name], book, torch.float64, "cpu")
    if CONFIGS[name].decoder and CONFIGS[name].decoder.rotary_theta:
        tolerance = max(tolerance, 1e-5)  # angles are in float32, whose cosine a GPU rounds in its own way
    torch.testing.assert_close(hidden.double(), expected, rtol=tolerance, atol=tolerance)
    largest = max(float(gradient.abs().max()) for gradient in expected_gradients.values())
    assert set(gradients) == set(expected_gradients)
    for part, gradient in gradients.items():
        torch.testing.assert_close(gradient.double(), expected_gradients[part], rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite_and_near(name, dtype, book):
    hidden, gradients = hidden_and_gradients(CONFIGS[name], book, dtype, DEVICE)
    expected, _ = hidden_and_gradients(CONFIGS[name], book, torch.float64, "cpu")
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert (hidden.double() - expected).square().mean() < (0.1 * expected.std()) ** 2


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen"])
def test_a_cache_on_the_gpu(name, book):
    model, tokens, cache = noisy(CONFIGS[name], book).to(DEVICE), ids(3, 7).to(DEVICE), KVCache.empty(layers=2)
    expected = model.decode(tokens)
    steps = [model.decode(tokens[:, begin:end], cache=cache) for begin, end in ((0, 4), (4, 5), (5, 7))]
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_labels_are_shifted_on_the_gpu(name, book):
    config = CONFIGS[name]
    losses = []
    for device in (DEVICE, "cpu"):
        model, labels = noisy(config, book).to(device), torch.tensor([[4, 5, -100], [6, -100, 7], [1, 2, 3]]).to(device)
        losses.append(model(input_ids=ids(3, 5).to(device), labels=labels).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_what_is_seen_is_on_the_gpu(book):
    """Shared layers, and two stacks."""
    for name in ("albert", "t5"):
        out = noisy(CONFIGS[name], book).to(DEVICE)(
            **batch(CONFIGS[name], DEVICE), output_attentions=True, output_hidden_states=True
        )
        seen = [*(out.attentions or out.encoder_attentions), *(out.hidden_states or out.decoder_hidden_states)]
        assert {x.device.type for x in seen} == {"cuda"}
        assert all(x.isfinite().all() for x in seen)
