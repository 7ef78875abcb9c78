"""The page in a real browser: it opens from disk alone, every view works by keyboard, exports are files."""

import dataclasses
import json
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import page_samples as samples
import pytest
import torch
from page_browser import Reader, start, wait_for

from minitransformer.lens.page import frame, page
from minitransformer.lens.tabs import AttentionGroup, AttentionTab, Step, StepsTab

VIEWS = ["heads", "model", "matrix", "steps", "layers", "compare", "grid", "table"]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    browser = start(folder)
    yield Reader(browser, folder)
    browser.quit()


@pytest.fixture(scope="module")
def everything():
    return page("everything", samples.everything(), notes=["A note."])


def selected(reader):
    return reader.run("return document.querySelector('[role=tab][aria-selected=true]').id")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_view_opens_without_complaint_and_asks_for_nothing(reader, everything, theme):
    for view in VIEWS:
        reader.open(everything, f"#view={view}&theme={theme}")
        assert selected(reader) == f"tab-{view}"
        assert reader.run("return document.documentElement.dataset.theme") == theme
        entries = [json.loads(entry["message"])["message"] for entry in reader.browser.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]
        assert asked
        assert all(url.startswith(("file:///", "data:")) for url in asked)
        assert not reader.complaints()
        if view != "table":
            assert reader.run("return document.querySelectorAll('.picture svg *').length") > 10


def test_tabs_by_keyboard(reader, everything):
    reader.open(everything)
    for view in VIEWS[1:]:
        reader.press("\ue014", "[aria-selected=true]")  # arrow right
        assert selected(reader) == f"tab-{view}"
    assert reader.run("return document.querySelectorAll('[role=tab][tabindex=\"0\"]').length") == 1


def test_selection_is_shared_and_kept_in_the_address(reader, everything):
    reader.open(everything, "#view=heads&layer=3&head=7")
    reader.press("\ue015\ue015\ue015")  # arrow down: the third query
    assert "layer 3, head 7: “cat” attends 0." in reader.said()
    reader.address("query=2")
    reader.click("#tab-matrix")
    assert "layer 3, head 7: “cat” attends 0." in reader.said()
    reader.press("\ue014")  # arrow right
    reader.address("key=0")
    address = reader.run("return location.hash")
    said = reader.said()
    reader.open(everything, address)
    assert reader.said() == said
    reader.run("location.hash = '#view=model&layer=1&head=2'")
    wait_for(lambda: selected(reader) == "tab-model")
    assert "layer 1, head 2" in reader.said()
    reader.press("\ue015\ue007")  # arrow down, Enter: opens the head
    assert selected(reader) == "tab-heads"
    assert "layer 2, head 2" in reader.said()


@pytest.mark.parametrize(
    "bad", ["view=none&layer=99&head=-1&query=x", "%%%&heads=a,b&theme=<b>&row=9999999", "layer=1e9&step=77&key=444444"]
)
def test_nonsense_in_the_address_counts_as_absent(reader, everything, bad):
    for view in ("heads", "steps", "grid"):
        reader.open(everything, f"#{bad}&view={view}")
        assert not reader.complaints()


def test_sentence_is_the_real_weight(reader):
    tab = samples.attention()
    reader.open(page("", [tab]), "#view=matrix&layer=1&head=2&query=3&key=4")
    weight = tab.groups[0].weights[1, 2, 3, 4].item()
    assert reader.said() == f"layer 1, head 2: “sat” attends {weight:.4f} to “on”."


def test_pairs_groups_and_raw_tokens(reader, everything):
    reader.open(everything, "#view=matrix&pair=ab")
    texts = reader.run("return [...document.querySelectorAll('.picture text')].map((text) => text.textContent)")
    assert texts.count("[CLS]") == 1  # a query, and no key
    reader.open(everything, "#view=heads")
    assert "believ" in reader.text(".picture svg")
    assert "##believ" not in reader.text(".picture svg")
    reader.click("[data-control=tokens]")
    assert "##believ" in reader.text(".picture svg")
    reader.open(page("", [samples.two_stacks()]), "#view=heads&group=cross")
    assert reader.text("[aria-label=attention] [aria-pressed=true]") == "cross"
    reader.open(page("", [samples.layers()]))
    assert "café" in reader.text(".picture svg")


def test_layers_share_the_query_and_the_rule_for_tokens(reader):
    tabs = [samples.attention(4, 2, 2, samples.layers().tokens), samples.layers()]
    reader.open(page("", tabs), "#view=layers")
    assert "after “café”: “Paris”" in reader.said()  # where the lens says that it is read
    reader.press("\ue012")  # arrow left
    assert "after “of”: “Paris”" in reader.said()
    reader.click("[data-control=tokens]")
    assert "after “Ġof”: “ĠParis”" in reader.said()
    reader.click("#tab-heads")
    assert "“Ġof” attends" in reader.said()


def test_a_page_opens_where_it_is_told_to(reader):
    reader.open(page("", [samples.two_stacks()], start="group=cross&layer=2&head=1&heads=1&query=1"))
    assert "layer 2, head 1: “Das” attends" in reader.said()
    on = "return document.querySelectorAll('[role=toolbar] [aria-pressed=true]').length"
    assert reader.run(on) == 1
    reader.click("[data-control='all heads']")
    reader.address("heads=all")
    reader.browser.refresh()
    reader.first_picture()
    assert reader.run(on) == 4


def test_an_address_says_all_that_is_selected(reader):
    reader.open(page("", [samples.steps()]), "#step=1&column=5")
    assert reader.said().startswith("s[the, the] = ")
    reader.run("location.hash = '#view=steps'")
    wait_for(lambda: reader.said().startswith("q[[CLS], 0] = "))


def test_the_numbers_of_a_long_vector_can_be_seen(reader):
    vector = Step("x", "x", "x", "[1 D] = [1 384]", torch.randn(1, 384), ("cat",), ())
    reader.open(page("", [StepsTab(0, 0, 0, "attention", ("cat",), (vector,))]))
    assert reader.run("return document.querySelector('.picture image').getAttribute('height')") == "24"


def test_steps_add_up_each_number(reader):
    tab = samples.steps()
    reader.open(page("", [tab]))
    value = tab.steps[0].value[0, 1].item()
    reader.press("\ue014")
    assert reader.said().endswith(f"is {shown(value)}.")
    assert "(32 terms)" in reader.said()
    reader.press("n")
    assert reader.text("[aria-current]") == "2 s"


def shown(value):
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}".replace("-", "−")


def test_a_grid_chooses_the_head_of_all_views(reader, everything):
    reader.open(everything, "#view=grid")
    reader.press("\ue015\ue014")
    reader.click("#tab-heads")
    assert "layer 1, head 1" in reader.said()
    reader.press("\ue014")
    reader.click("#tab-grid")
    assert "layer 1, head 2:" in reader.said()
    reader.press("\ue00f")  # Page Down: this view has all layers
    assert "layer 1, head 2:" in reader.said()


def test_a_grid_knows_which_layers_the_other_views_have(reader):
    some = dataclasses.replace(samples.attention(layers=2).groups[0], layers=(1, 3))
    reader.open(page("", [AttentionTab((some,)), samples.grid()]), "#view=grid")
    assert "layer 1, head 0:" in reader.said()
    reader.press("\ue015\ue015")  # past layer 2, which the page has not
    reader.click("#tab-heads")
    assert "layer 3, head 0:" in reader.said()
    reader.run("[...document.querySelectorAll('button')].find((b) => b.textContent === 'CSV').click()")
    wait_for((reader.folder / "heads-attention-layer3-head0.csv").is_file)


def test_what_is_cut_off_is_said_of_this_head(reader):
    weights = samples.weights(1, 2, 504, 504)
    weights[0, 1] = 1 / 504
    tokens = tuple(f"t{i}" for i in range(504))
    tab = AttentionTab((AttentionGroup("attention", weights.repeat(8, 1, 1, 1), tokens, tokens),))
    reader.open(page("", [tab]), "#view=matrix&head=1&query=3")
    assert "layer 0, head 1: “t3” attends 0.002 to " in reader.said()
    assert f"{100 * 32 / 504:.1f} % of this head's attention" in reader.text(".panel")
    reader.open(page("", [tab]), "#view=matrix&query=3")
    share = weights[0, 0].topk(32).values.sum().item() / 504
    assert f"{100 * share:.1f} % of this head's attention" in reader.text(".panel")
    least = weights[0, 0, 3].argmin().item()
    reader.address("query=3")
    reader.open(page("", [tab]), f"#view=matrix&query=3&key={least}")
    assert "attends too little to be shown" in reader.said()


def test_layers_that_are_rounded_alike_keep_their_places(reader):
    weights = (torch.randn(2, 12, 512, 512) * 3e-4).softmax(-1)
    tokens = tuple(f"t{i}" for i in range(512))
    reader.open(
        page("", [AttentionTab((AttentionGroup("attention", weights, tokens, tokens),))]), "#view=matrix&query=3"
    )
    for layer in (0, 1):
        reader.run(f"location.hash = '#view=matrix&layer={layer}&head=0&query=3'")
        kept = {f"“t{place}”" for place in weights[layer, 0, 3].topk(32).indices.tolist()}
        wait_for(lambda layer=layer: f"layer {layer}," in reader.said())
        assert any(f"to {token}," in reader.said() for token in kept)


def test_the_keyboard_reaches_keys_and_takes_the_window_along(reader):
    reader.open(page("", [samples.attention(512, 1, 1)]), "#view=heads&query=3")
    reader.press("k")
    assert "the tokens that attend to “t3”" in reader.said()
    reader.press("\ue015")
    assert "the tokens that attend to “t4”" in reader.said()
    reader.press("\ue015" * 40)
    assert reader.run("return scrollY") > 200


def test_a_filter_hides_what_was_selected(reader):
    reader.open(page("", [samples.attention()]), "#view=heads&query=2")
    reader.run("location.hash = '#view=heads&pair=ba&query=2'")
    wait_for(lambda: "choose a token" in reader.said())


def test_a_filter_acts_where_it_is_seen(reader):
    tab = samples.attention()
    weights = tab.groups[0].weights[0, 0]
    reader.open(page("", [tab, samples.layers()]), "#view=heads&pair=ab&query=1")
    best = weights[1, samples.SECOND :].argmax().item() + samples.SECOND
    assert f"“the” attends {weights[1, best]:.4f} to" in reader.said()
    reader.click("#tab-model")
    mean = weights[: samples.SECOND, samples.SECOND :].amax(1).mean().item()
    assert f"gets {100 * mean:.1f} %" in reader.said()
    reader.open(page("", [samples.compare()]), "#view=compare&pair=aa&query=9&key=10")
    assert "“was” attends to “un”" in reader.said()


def test_even_attention_says_why_no_line_is_drawn(reader):
    even = dataclasses.replace(samples.attention(64, 1, 12).groups[0], weights=torch.full((1, 12, 64, 64), 1 / 64))
    reader.open(page("", [AttentionTab((even,))]))
    assert "No weight stands out: choose a token." in reader.text(".panel")
    reader.press("\ue015")
    assert reader.run("return document.querySelectorAll('.picture line').length") == 12 * 64


def test_numbers_and_titles_are_not_cut(reader):
    grid = dataclasses.replace(
        samples.grid(), values=-torch.rand(4, 32) - 0.01, column_labels=tuple(map(str, range(32)))
    )
    reader.open(page("", [grid]))
    texts = reader.run("return [...document.querySelectorAll('.picture text')].map((text) => text.textContent)")
    assert sum(len(text) == 5 and text[0] == "−" for text in texts) >= 4 * 32
    narrow = dataclasses.replace(grid, values=torch.rand(4, 1), column_labels=("m",), column_name="feed-forward")
    reader.open(page("", [narrow]))
    inside = "const [svg, title] = ['svg', 'text'].map((name) => document.querySelector(`.picture ${name}`))"
    box = "svg.getBoundingClientRect().right - title.getBoundingClientRect().right"
    assert reader.run(f"{inside}; return title.textContent.endsWith('…') ? -1 : {box}") >= 0


def test_keys_are_listed_and_the_table_is_beside_the_picture(reader, everything):
    reader.open(everything, "#view=matrix")
    reader.press("?", "body")
    assert reader.run("return document.querySelector('dialog').open")
    reader.press("\ue00c", "dialog")
    assert reader.run("return document.querySelectorAll('table').length") == 0
    reader.click(".of-picture")
    assert reader.run("return document.querySelectorAll('tbody tr').length") == len(samples.WORDS)


def test_exports_are_files(reader, everything):
    for view in ("heads", "matrix", "model"):
        reader.open(everything, f"#view={view}&layer=1&head=2")
        for kind in ("SVG", "PNG", "CSV"):
            reader.run(
                "[...document.querySelectorAll('button')].find((b) => b.textContent === arguments[0]).click()", kind
            )
        files = [reader.folder / f"{view}-attention-layer1-head2.{kind}" for kind in ("svg", "png", "csv")]
        wait_for(lambda files=files: all(file.is_file() and file.stat().st_size for file in files))
        texts = ["".join(node.itertext()) for node in ElementTree.parse(files[0]).iter() if node.tag.endswith("}text")]
        assert ("0" if view == "model" else "[CLS]") in texts
        assert "var(" not in files[0].read_text(encoding="utf-8")
        data = files[1].read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert int.from_bytes(data[16:20]) > 400
        assert len(files[2].read_text(encoding="utf-8").splitlines()) == (5 if view == "model" else 16)


def test_hostile_words_are_shown_as_words(reader):
    tokens = samples.HOSTILE
    tabs = [samples.attention(len(tokens), 2, 2, tokens)]
    reader.open(page("<img src=x>", tabs, notes=["<b>n</b>"]), "#view=matrix&query=0&key=1")
    reader.click(".of-picture")
    assert reader.run("return document.querySelectorAll('img, b, a, iframe, object, [onerror], [onload]').length") == 0
    assert reader.text("h1") == "<img src=x>"
    assert "<img src=x onerror=alert(2)>" in reader.said()
    assert "⟨U+202E⟩abc" in reader.text("table")
    assert not reader.complaints()
    reader.run("[...document.querySelectorAll('button')].find((b) => b.textContent === 'CSV').click()")
    file = reader.folder / "matrix-attention-layer0-head0.csv"
    wait_for(file.is_file)
    assert "'=1+1" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(("size", "limit"), [(64, 1000), (512, 2000)])
def test_first_picture_comes_soon(reader, size, limit):
    html = page("", [samples.attention(size, 12, 12)])
    took = min(reader.open(html) for _ in range(3))
    print(f"first picture of 12 x 12 x {size}: {took:.0f} ms, {len(html) / 1e6:.2f} MB")
    assert took < limit
    assert not reader.complaints()


def test_works_in_a_frame(reader, everything):
    reader.browser.get("about:blank")
    (reader.folder / "frame.html").write_text(f"<!doctype html>{frame(everything)}", encoding="utf-8")
    reader.browser.get((reader.folder / "frame.html").as_uri())
    reader.browser.switch_to.frame(0)
    reader.first_picture()
    reader.press("\ue015")
    assert "attends" in reader.said()
    reader.browser.switch_to.default_content()
    assert not reader.complaints()


def test_a_page_that_had_no_size_at_first_is_drawn_anew(reader, everything):
    """As in a frame that nobody has scrolled to: its script may run before it is laid out."""
    reader.open(everything.replace("<head>", "<head><style>.sizeless { display: none }</style>"), "#view=heads")
    width = "return document.querySelector('.picture svg').getBoundingClientRect().width"
    whole = reader.run(width)
    assert whole > 500
    a_frame = "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
    reader.run("document.documentElement.classList.add('sizeless'); draw()")
    reader.browser.execute_async_script(a_frame)
    reader.run("document.documentElement.classList.remove('sizeless')")
    wait_for(lambda: reader.run(width) == whole)
    reader.browser.set_window_size(900, 900)
    try:
        wait_for(lambda: 500 < reader.run(width) < whole)
    finally:
        reader.browser.set_window_size(1280, 900)
    wait_for(lambda: reader.run(width) == whole)
    assert not reader.complaints()


@pytest.fixture(scope="module")
def axe():
    file = os.environ.get("MINITRANSFORMER_AXE")
    if not file:
        pytest.skip("MINITRANSFORMER_AXE names no axe.min.js; npm install axe-core gives one")
    return Path(file).read_text(encoding="utf-8")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(reader, everything, axe, theme):
    for view in VIEWS:
        reader.open(everything, f"#view={view}&theme={theme}")
        reader.run("document.querySelector('.of-picture').click()")
        reader.run(axe)
        script = "axe.run().then((found) => arguments[0](found.violations.map((v) => v.id + v.nodes[0].html)))"
        assert reader.browser.execute_async_script(script) == [], view
