"""The page as a file: its size, its numbers, its security policy, and what it refuses. No browser is needed."""

import base64
import dataclasses
import hashlib
import json
import re

import numpy as np
import page_samples as samples
import pytest
import torch

from minitransformer.errors import InputError
from minitransformer.lens.page import frame, page, viewer
from minitransformer.lens.tabs import AttentionGroup, AttentionTab, Product, TableTab


def header(html):
    return json.loads(re.search(r'<script type="application/json" id="header">(.*?)</script>', html, re.DOTALL)[1])


def block(html, name, dtype):
    text = re.search(rf'id="{name}">([^<]*)</script>', html)[1]
    return np.frombuffer(base64.b64decode(text), dtype)


def attention_tab(weights):
    tokens = tuple(str(i) for i in range(weights.shape[-1]))
    return AttentionTab((AttentionGroup("attention", weights, tokens, tokens),))


def group(html):
    return header(html)["tabs"][0]["groups"][0]


def test_script_and_style_are_small():
    assert sum(len(text.encode()) for text in viewer()) < 60_000


def test_144_heads_of_64_tokens_are_small():
    assert len(page("", [samples.attention(64, 12, 12)]).encode()) < 1_500_000


def unpacked(html, shape):
    """The weights as the page unpacks them."""
    said = group(html)
    dtype = "<u2" if said["levels"] == 65535 else "u1"
    shares = np.stack([block(html, name, dtype) for name in said["blocks"]]).reshape(shape) / said["levels"]
    if said["tops"] is None:
        return shares
    return shares * np.stack([block(html, name, "<f4") for name in said["tops"]]).reshape(*shape[:-1], 1)


@pytest.mark.parametrize(("size", "levels"), [(30, 65535), (64, 255)])
def test_rounded_weights_are_as_near_as_the_page_says(size, levels):
    weights = samples.weights(12, 12, size, size)
    weights[0, 0] = 1 / size
    html = page("", [attention_tab(weights)])
    assert group(html)["levels"] == levels
    far = np.abs(unpacked(html, weights.shape) - weights.numpy())
    assert far.max() <= 0.5 / levels + 1e-7
    assert far[0, 0].max() <= 1e-5  # even attention is seen as it is


def test_of_many_weights_the_largest_are_kept_and_the_share_is_true():
    weights = samples.weights(2, 8, 512, 512)
    html = page("", [attention_tab(weights)])
    said = group(html)
    assert said["largest"] == 32
    places = np.stack([block(html, name, "<u2") for name in said["places"]]).reshape(2, 8, 512, 32).astype(np.int64)
    expected = np.sort(weights.numpy(), axis=-1)[..., -32:]
    kept = np.take_along_axis(weights.numpy(), places, axis=-1)
    np.testing.assert_allclose(np.sort(kept, axis=-1), expected)
    assert said["share"] == pytest.approx(
        expected.sum(dtype=np.float64) / weights.numpy().sum(dtype=np.float64), abs=1e-6
    )
    assert np.abs(unpacked(html, kept.shape) - kept).max() < 0.002


def test_other_numbers_are_kept_as_they_are():
    tab = samples.grid()
    html = page("", [tab])
    said = header(html)["tabs"][0]
    np.testing.assert_array_equal(block(html, said["block"], "<f4").reshape(said["shape"]), tab.values.numpy())


def test_the_same_numbers_are_carried_once():
    tab = samples.attention()
    assert len(page("", [tab, tab])) < 1.2 * len(page("", [tab]))


def test_policy_allows_only_the_very_script_and_style():
    html = page("title", samples.everything())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    for tag in ("script", "style"):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)[1]
        assert f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r'(?:src|href)="?https?:|url\(', html)


def test_hostile_words_stay_words():
    tokens = samples.HOSTILE
    html = page("</title><script>x", [samples.attention(len(tokens), 1, 1, tokens)], notes=["</script><b>"])
    html.encode("utf-8")
    assert header(html)["title"] == "</title><script>x"
    assert tuple(header(html)["tabs"][0]["groups"][0]["keys"]) == tokens
    assert html.count("<script>") == 1
    assert "<b>" not in html


def test_frame_is_isolated_and_holds_the_page():
    html = page("a \"b\" & 'c'", [samples.table()])
    framed = frame(html, height=500)
    assert 'sandbox="allow-scripts allow-downloads"' in framed
    assert "height: 500px" in framed
    assert framed.count('"') == 8  # four attributes, and none ended early


@pytest.mark.parametrize(
    ("tabs", "said"),
    [
        ([], "no tabs"),
        (["x"], "str"),
        ([attention_tab(torch.rand(2, 3, 4))], r"\[2, 3, 4\]"),
        ([attention_tab(torch.full((1, 1, 2, 2), torch.nan))], "from 0 to 1"),
        ([attention_tab(torch.full((1, 1, 2, 2), 2.0))], "from 0 to 1"),
        ([dataclasses.replace(samples.grid(), row_labels=("0",))], "Ablation"),
        ([dataclasses.replace(samples.layers(), tokens=("a",))], "probabilities"),
        ([dataclasses.replace(samples.layers(), top_tokens=())], "top_tokens"),
        ([dataclasses.replace(samples.compare(), divergence={})], "divergence"),
        ([dataclasses.replace(samples.compare(), b=())], "same names and shapes"),
    ],
)
def test_what_does_not_fit_is_refused(tabs, said):
    with pytest.raises(InputError, match=said):
        page("", tabs)


def test_a_product_that_does_not_fit_is_refused():
    tab = samples.steps()
    wrong = dataclasses.replace(tab.steps[0], product=Product("x", "W", torch.rand(15, 3), torch.rand(4, 8)))
    with pytest.raises(InputError, match="W: got shape"):
        page("", [dataclasses.replace(tab, steps=(wrong,))])


def test_table_cells_json_lacks_are_text():
    tab = TableTab("t", type(samples.table().table)(("a", "b"), ((float("nan"), torch.tensor(1)),)))
    assert header(page("", [tab]))["tabs"][0]["rows"] == [["nan", "tensor(1)"]]
