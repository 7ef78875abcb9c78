"""BertViz's views by their signatures: the same calls are taken and refused, and the page has the weights given."""

import base64
import inspect
import json
import re

import numpy as np
import pytest
import torch

from minitransformer.errors import InputError
from minitransformer.lens import views

TOKENS = list("abcde")


def weights(queries=5, keys=5, layers=3, heads=4):
    return tuple(torch.randn(1, heads, queries, keys).softmax(-1) for _ in range(layers))


def groups(page):
    header = json.loads(re.search(r'id="header">(.*?)</script>', page.data, re.DOTALL)[1])
    return {group["name"]: group for group in header["tabs"][0]["groups"]}


def numbers(page, group):
    """The weights that the page carries, [L H T S]."""
    layers = []
    for name in group["blocks"]:
        text = re.search(rf'id="{name}">([^<]*)</script>', page.data)[1]
        shape = (len(group["heads"]), len(group["queries"]), len(group["keys"]))
        layers.append(np.frombuffer(base64.b64decode(text), "<u2").reshape(shape) / 65535)
    return np.stack(layers)


def calls():
    """Arguments of both views, good and bad."""
    one, two = weights(), {"encoder_attention": weights(), "encoder_tokens": TOKENS}
    both = two | {"decoder_attention": weights(3, 3), "cross_attention": weights(3, 5), "decoder_tokens": TOKENS[:3]}
    return {
        "one stack": {"attention": one, "tokens": TOKENS},
        "a list": {"attention": list(one), "tokens": TOKENS},
        "a pair": {"attention": one, "tokens": TOKENS, "sentence_b_start": 2},
        "some layers": {"attention": one, "tokens": TOKENS, "include_layers": [0, 2]},
        "raw": {"attention": one, "tokens": TOKENS, "prettify_tokens": False},
        "encoder": two,
        "encoder and decoder": both,
        "cross only": {k: both[k] for k in ("cross_attention", "encoder_tokens", "decoder_tokens")},
        "nothing": {},
        "no tokens": {"attention": one},
        "too few tokens": {"attention": one, "tokens": TOKENS[:4]},
        "both kinds": {"attention": one, "tokens": TOKENS} | two,
        "cross without tokens": {"cross_attention": weights(3, 5), "decoder_tokens": TOKENS[:3]},
        "wrong action": {"attention": one, "tokens": TOKENS, "html_action": "print"},
        "a batch": {"attention": [torch.rand(2, 4, 5, 5)], "tokens": TOKENS},
    }


@pytest.mark.parametrize("name", ["head_view", "model_view"])
def test_signatures_are_bertvizs(name):
    theirs = inspect.signature(getattr(pytest.importorskip("bertviz"), name)).parameters.values()
    ours = inspect.signature(getattr(views, name)).parameters.values()
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # BertViz leaves its files open
@pytest.mark.parametrize("case", calls())
@pytest.mark.parametrize("name", ["head_view", "model_view"])
def test_the_same_calls_are_taken_and_refused(name, case):
    given = {"html_action": "return"} | calls()[case]
    taken = []
    for view in (getattr(pytest.importorskip("bertviz"), name), getattr(views, name)):
        try:
            taken.append(isinstance(view(**given).data, str))
        except (ValueError, IndexError):
            taken.append(False)
    assert taken[0] == taken[1]


@pytest.mark.parametrize("form", ["[1 H T S]", "[H T S]", "[L H T S]"])
def test_every_form_of_weights_gives_the_same_page(form):
    given = weights()
    forms = {"[1 H T S]": given, "[H T S]": [layer[0] for layer in given], "[L H T S]": torch.cat(given)}
    page = views.head_view(forms[form], TOKENS, html_action="return")
    np.testing.assert_allclose(numbers(page, groups(page)["attention"]), torch.cat(given).numpy(), atol=1e-5)


def test_layers_and_heads_chosen_keep_their_numbers():
    given = weights()
    page = views.model_view(given, TOKENS, include_layers=[0, 2], include_heads=[1, 3], html_action="return")
    group = groups(page)["attention"]
    assert (group["layers"], group["heads"]) == ([0, 2], [1, 3])
    np.testing.assert_allclose(numbers(page, group), torch.cat(given)[[0, 2]][:, [1, 3]].numpy(), atol=1e-5)


def test_weights_of_generate_are_put_together():
    steps = tuple(tuple(torch.rand(1, 4, 1, 1 + step).softmax(-1) for _ in range(2)) for step in range(3))
    page = views.head_view(decoder_attention=steps, decoder_tokens=TOKENS[:3], html_action="return")
    got = numbers(page, groups(page)["decoder"])
    assert got.shape == (2, 4, 3, 3)
    np.testing.assert_allclose(got[1, :, 1, :2], steps[1][1][0, :, 0].numpy(), atol=1e-5)
    assert not got[:, :, 0, 1:].any()


def test_transformers_own_generate_is_taken():
    transformers = pytest.importorskip("transformers")
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 20}
    config = transformers.T5Config(**sizes, decoder_start_token_id=0, attn_implementation="eager")
    model = transformers.T5ForConditionalGeneration(config).eval()
    ids = torch.tensor([[3, 4, 5, 1]])
    length = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    out = model.generate(ids, **length, return_dict_in_generate=True, output_attentions=True)
    words = {"encoder_tokens": list("abcd"), "decoder_tokens": list("xyz")}
    parts = {"encoder_attention": out.encoder_attentions, "cross_attention": out.cross_attentions}
    page = views.model_view(**parts, decoder_attention=out.decoder_attentions, **words, html_action="return")
    expected = torch.cat([step[1] for step in out.cross_attentions], dim=2)[0]  # [H T S] of layer 1
    np.testing.assert_allclose(numbers(page, groups(page)["cross"])[1], expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"attention": ()}, "attn_implementation='eager'"),
        ({"attention": (None, None)}, "attn_implementation='eager'"),
        ({"attention": ((), ())}, "attn_implementation='eager'"),
        ({"attention": [torch.rand(3, 4, 5, 5)]}, r"batch of 3 texts; take one.*row : row \+ 1"),
        ({"attention": [torch.rand(5, 5)]}, r"\[5, 5\]"),
        ({"attention": weights(), "tokens": TOKENS[:4]}, "got 4 tokens.* 5 positions"),
        ({"attention": weights(), "sentence_b_start": 9}, "sentence_b_start: got 9"),
        ({"attention": weights(), "include_layers": [7]}, "include_layers"),
        ({"attention": weights(), "layer": 7}, "layer: got 7"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_the_reason(given, said):
    with pytest.raises(InputError, match=said):
        views.head_view(**({"tokens": TOKENS} | given), html_action="return")


def test_a_notebook_shows_the_page_in_a_frame():
    page = views.head_view(weights(), TOKENS, html_action="return")
    assert page._repr_html_().startswith("<iframe")
    assert page.data.startswith("<!DOCTYPE html>")
