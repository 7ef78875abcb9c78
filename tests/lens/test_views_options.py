"""Each option of BertViz's views does what it says, in the header that the page opens with."""

import json
import re

import pytest
import torch
from lens_models import PAIR, TEXT, loaded

from minitransformer import lens
from minitransformer.lens import views

WEIGHTS = tuple(torch.rand(1, 4, 5, 5).softmax(-1) for _ in range(3))
ALL = {"layers": [0, 1, 2], "heads of the group": [0, 1, 2, 3], "query_second": None}
OPTIONS = [
    ("head_view", {}, {**ALL, "layer": 0, "heads": None, "start": "view=heads"}),
    ("head_view", {"layer": 2}, {**ALL, "layer": 2}),
    ("head_view", {"heads": [3, 1]}, {**ALL, "heads": [3, 1]}),
    ("head_view", {"include_layers": [1, 2]}, {"layers": [1, 2], "layer": 1}),
    ("head_view", {"include_layers": [1, 2], "layer": 2}, {"layers": [1, 2], "layer": 2}),
    ("head_view", {"sentence_b_start": 3}, {"query_second": 3, "key_second": 3}),
    ("head_view", {"prettify_tokens": False}, {"start": "view=heads&tokens=raw"}),
    ("model_view", {}, {**ALL, "start": "view=model&theme=dark"}),
    ("model_view", {"display_mode": "light"}, {**ALL, "start": "view=model&theme=light"}),
    ("model_view", {"include_heads": [0, 3]}, {**ALL, "heads of the group": [0, 3]}),
    ("model_view", {"include_layers": [1, 2]}, {**ALL, "layers": [1, 2]}),
    ("model_view", {"sentence_b_start": 2}, {"query_second": 2, "key_second": 2}),
    ("model_view", {"prettify_tokens": False}, {"start": "view=model&theme=dark&tokens=raw"}),
]


def opened(page):
    """What a page says of itself: what it starts with, its tab, and the tab's one group."""
    header = json.loads(re.search(r'id="header">(.*?)</script>', page.data, re.DOTALL)[1])
    tab, group = header["tabs"][0], header["tabs"][0]["groups"][0]
    return {**group, "heads of the group": group["heads"], **tab, "start": header["start"]}


@pytest.mark.parametrize(("view", "options", "expected"), OPTIONS)
def test_an_option_has_its_effect(view, options, expected):
    found = opened(getattr(views, view)(WEIGHTS, list("abcde"), **options, html_action="return"))
    assert {name: found[name] for name in expected} == expected


def test_the_second_text_begins_behind_the_first_ones_end():
    given = lens.attention(loaded("bert"), TEXT, PAIR).to_bertviz()
    second, alone = given["sentence_b_start"], loaded("bert").read(PAIR).tokens
    assert given["tokens"][second - 1 :] == ["[SEP]", *alone[1:]]
    assert opened(views.head_view(**given, html_action="return"))["query_second"] == second
    assert "sentence_b_start" not in lens.attention(loaded("bert"), TEXT).to_bertviz()
