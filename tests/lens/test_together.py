"""Several results of one text on one page."""

import json
import re

import pytest
from lens_models import PAIR, TARGET, TEXT, image, loaded

from minitransformer import lens
from minitransformer.errors import InputError, NotFoundError
from minitransformer.lens.tabs import AttentionTab, LayersTab, StepsTab, TableTab


def kinds_of(page):
    return [type(tab) for result in page.results for tab in result.tabs()]


@pytest.mark.parametrize(
    ("kind", "given", "explained", "speaks"),
    [
        ("bert", {"pair": PAIR}, 1, True),
        ("classifier", {}, 1, False),
        ("gpt2", {}, 1, True),
        ("t5", {"target": TARGET}, 3, True),
        ("bart", {}, 3, True),
        ("t5-base", {"target": TARGET}, 3, False),
        ("vit", {}, 1, False),
    ],
)
def test_all_there_is_to_see(kind, given, explained, speaks, tmp_path):
    page = lens.look(loaded(kind), image() if kind == "vit" else TEXT, **given)
    kinds = kinds_of(page)
    assert kinds.count(AttentionTab) == 1
    assert kinds.count(StepsTab) == explained
    assert kinds.count(LayersTab) == speaks
    assert TableTab in kinds
    file = page.save(tmp_path / "page.html")
    assert file.read_text(encoding="utf-8") == page.html()
    assert all(result.title in str(page) for result in page.results if "\\" not in result.title)
    assert len(json.loads(json.dumps(page.to_dict()))["results"]) == len(page.results)
    shown = page._repr_mimebundle_()
    assert shown["text/plain"] == str(page)
    assert shown["text/html"].startswith("<iframe")


def test_what_is_explained():
    page = lens.look(loaded("t5"), TEXT, target=TARGET, layer=1, head=1, query="</s>")
    steps = [tab for result in page.results for tab in result.tabs() if isinstance(tab, StepsTab)]
    assert [(tab.layer, tab.head, tab.group) for tab in steps] == [(1, 1, "encoder")]  # the decoder reads no end
    assert page.start == f"group=encoder&layer=1&head=1&heads=1&query={steps[0].query}"
    with pytest.raises(InputError, match="query: 'zebra' is not in"):
        lens.look(loaded("t5"), TEXT, target=TARGET, query="zebra")
    with pytest.raises(InputError, match="layer: got 7"):
        lens.look(loaded("bert"), TEXT, layer=7)


def test_results_of_ones_own():
    model = loaded("gpt2")
    page = lens.together(lens.attention(model, TEXT), lens.rollout(model, TEXT), title="two")
    assert page.title == "two"
    assert re.search(r"<title>\s*two", page.html())
    assert set(page.notes) == {note for result in page.results for note in result.notes}
    with pytest.raises(InputError, match="got no results"):
        lens.together()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("x.svg", InputError, "ends in .html"),
        ("x", InputError, "ends in .html"),
        ("no/x.html", NotFoundError, "no folder"),
    ],
)
def test_files_that_cannot_be(name, error, message, tmp_path):
    with pytest.raises(error, match=message):
        lens.together(lens.attention(loaded("gpt2"), TEXT)).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_stacks_that_have_the_layer_are_explained():
    page = lens.look(loaded("t5"), TEXT, target=TARGET, layer=2)  # its decoder has two
    assert [tab.group for result in page.results for tab in result.tabs() if isinstance(tab, StepsTab)] == ["encoder"]
    assert "group=encoder&layer=2&head=0&heads=0" in page.start


def test_a_long_text_makes_no_long_title():
    page = lens.look(loaded("gpt2"), "The film was good. " * 3 + "\x1b")
    assert len(lens.look(loaded("gpt2"), TEXT + " " + TEXT).title) < 150
    assert "\x1b" not in page.title
