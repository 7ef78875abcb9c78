"""What the page says, draws and saves is what went in: numbers are compared with tensors, lines with their tokens."""

import csv
import re
import xml.etree.ElementTree as ElementTree

import page_samples as samples
import pytest
import torch
from page_browser import Reader, start, wait_for

from minitransformer.lens.page import page
from minitransformer.lens.tabs import AttentionGroup, AttentionTab, CompareTab, LayersTab, Product, Step, StepsTab

SIDES = [f"text[font-size='16'][text-anchor={anchor}]" for anchor in ("end", "start")]
Image = pytest.importorskip("PIL.Image")

LINES = """
const [queries, keys] = arguments[0].map((side) => new Map(
  [...document.querySelectorAll(side)].map((token) => [token.getAttribute('y') - 5, token.textContent])));
return [...document.querySelectorAll('.picture line')].map((line) => {
  const [y1, y2, width] = ['y1', 'y2', 'stroke-width'].map((name) => Number(line.getAttribute(name)));
  return [line.getAttribute('stroke'), queries.get(y1) + keys.get(y2), (width - 0.6) / 3];
});
"""
REDS = """
Promise.all([...document.querySelectorAll('.picture image')].map(async (picture) => {
  const image = new Image();
  image.src = picture.getAttribute('href');
  await image.decode();
  const pen = new OffscreenCanvas(image.width, image.height).getContext('2d');
  pen.drawImage(image, 0, 0);
  const red = [...pen.getImageData(0, 0, image.width, image.height).data].filter((_, i) => i % 4 === 0);
  return [Number(picture.getAttribute('y')), Number(picture.getAttribute('x')), image.height, red];
})).then(arguments[0]);
"""


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    browser = start(folder)
    yield Reader(browser, folder)
    browser.quit()


def group(weights, second=None, name="attention"):
    """Queries a, b, c, ... and keys A, B, C, ..."""
    queries, keys = (tuple(letters[:n]) for letters, n in zip(("abcde", "ABCDE"), weights.shape[2:], strict=True))
    return AttentionGroup(name, weights, queries, keys, second, second)


def attention(reader, weights, address, second=None):
    reader.open(page("", [AttentionTab((group(weights, second),))]), address)


def go(reader, address):
    """To another place of the same page."""
    script = "addEventListener('hashchange', () => arguments[1](), {once: true}); location.hash = arguments[0]"
    reader.browser.execute_async_script(script, address)


def push(reader, name):
    reader.run("[...document.querySelectorAll('button')].find((b) => b.textContent === arguments[0]).click()", name)


def placed(reader, where, what, part=1):
    """What is said of these elements of one part of the picture, from top to bottom and from left to right."""
    found = f"[...document.querySelectorAll('.picture svg > g:nth-child({part}) ' + arguments[0])]"
    place = "Number(e.getAttribute('y')), Number(e.getAttribute('x'))"
    return [said for *_, said in sorted(reader.run(f"return {found}.map((e) => [{place}, e.{what}])", where))]


def texts(reader, where, part=1):
    return placed(reader, where, "textContent", part)


def cells(reader, part=1):
    return placed(reader, "rect[fill^=rgb]", "nextSibling.textContent", part)


def numbers(words):
    return [float(re.sub(r"^–$", "nan", re.sub(r"[ ,%+]", "", word)).replace("−", "-")) for word in words]


def near(tensor, places=2):
    return pytest.approx(tensor.flatten().tolist(), abs=0.66 * 10**-places, nan_ok=True)


def saved(reader, name):
    """The file that one of the buttons SVG, PNG and CSV makes."""
    file = reader.folder / name
    file.unlink(missing_ok=True)
    push(reader, file.suffix[1:].upper())
    wait_for(lambda: file.is_file() and file.stat().st_size)
    return file


def tables(reader, name):
    """The table under the picture, and the one in the CSV file; the first row is the head."""
    reader.run("document.querySelector('.of-picture[aria-pressed=false]')?.click()")
    rows = "[...document.querySelectorAll('.panel tr')]"
    yield reader.run(f"return {rows}.map((row) => [...row.cells].map((cell) => cell.textContent))")
    yield list(csv.reader(saved(reader, f"{name}.csv").read_text(encoding="utf-8").splitlines()))


def body(rows, first=1):
    """The numbers of a table from this column on."""
    return [value for row in rows[1:] for value in numbers(row[first:])]


def lines(reader):
    """The lines drawn, "aB" for one from query a to key B, and the weights that their widths stand for."""
    return {name: weight for _, name, weight in reader.run(LINES, SIDES)}


def test_the_largest_weights_belong_to_their_own_keys(reader):
    weights, tokens = torch.randn(1, 16, 512, 512).softmax(-1), tuple(f"t{i}" for i in range(512))
    reader.open(page("", [AttentionTab((AttentionGroup("attention", weights, tokens, tokens),))]), "#view=matrix")
    for head, query in ((0, 0), (5, 300), (15, 511)):
        values, keys = weights[0, head, query].topk(32)
        for rank in (0, 1, 31):
            go(reader, f"view=matrix&head={head}&query={query}&key={keys[rank]}")
            said = re.fullmatch(rf"layer 0, head {head}: “t{query}” attends (.*) to “t{keys[rank]}”\.", reader.said())
            assert numbers(said.groups()) == near(values[rank], 3)
        go(reader, f"view=heads&head={head}&query={query}")
        assert reader.said().endswith(f" to “t{keys[0]}”, most of all.")
    shares = 100 * weights.topk(32).values.sum(-1).mean(-1)
    said = re.search(r"the 32 largest .* row: (.* %) of this head's attention, (.* %) of all", reader.text(".panel"))
    assert numbers(said.groups()) == near(torch.stack([shares[0, 15], shares.mean()]), 1)


def test_two_models_and_their_difference_keep_their_order(reader):
    a, b, apart = samples.weights(3, 2, 3, 4), samples.weights(3, 2, 3, 4), torch.rand(3, 2)
    far = {"attention": apart, "other": 1 - apart}
    tab = CompareTab("before", "after", (group(b, name="other"), group(a)), (group(a, name="other"), group(b)), far)
    reader.open(page("", [tab]), "#group=attention&layer=2&head=1&query=1&key=3")
    assert [texts(reader, "text[font-weight]", part) for part in (2, 3, 4)] == [["A: before"], ["B: after"], ["B − A"]]
    a, b = a[2, 1], b[2, 1]
    for part, values in enumerate((apart, a, b, b - a), 1):
        assert numbers(cells(reader, part)) == near(values)
    sentence = r"layer 2, head 1: divergence (.*)\. “b” attends to “D”: (.*) in A, (.*) in B, ([+−].*)\."
    said = numbers(re.fullmatch(sentence, reader.said()).groups())
    assert said == near(torch.stack([apart[2, 1], a[1, 3], b[1, 3], (b - a)[1, 3]]), 3)
    for rows in tables(reader, "compare-attention-layer2-head1"):
        assert rows[0] == ["query", "key", "A", "B", "B − A"]
        assert [row[0] + row[1] for row in rows[1:]] == [q + k for q in "abc" for k in "ABCD"]
        assert body(rows, 2) == near(torch.stack([a, b, b - a], -1), 4)


def test_stages_stand_beside_their_own_predictions(reader):
    stages, chances = ("embedding", "block 0", "output"), torch.rand(3, 4, 3)
    top = tuple(tuple(tuple(f"{s[0]}{t}{k}" for k in "123") for t in "abcd") for s in stages)
    reader.open(page("", [LayersTab(stages, tuple("abcd"), top, chances, "after", 3)]), "#row=1&query=2")
    upwards = stages[::-1]
    assert texts(reader, "text[text-anchor=end]") == list(upwards)
    assert cells(reader) == [f"{s[0]}{t}1" for s in upwards for t in "abcd"]
    assert reader.said() == f"block 0, after “c”: “bc1” with {100 * chances[1, 2, 0]:.1f} %."
    reader.press("\ue013\ue012")  # arrows up and left
    assert reader.said() == f"output, after “b”: “ob1” with {100 * chances[2, 1, 0]:.1f} %."
    bars = reader.run("return [...document.querySelectorAll('.bars span')].map((said) => said.textContent)")
    assert bars[::2] == ["ob1", "ob2", "ob3"]
    assert numbers(bars[1::2]) == near(100 * chances[2, 1], 1)
    names = [[s, str(at), t, k, f"{s[0]}{t}{k}"] for s in upwards for at, t in enumerate("abcd") for k in "123"]
    for rows in tables(reader, "layers"):
        assert [row[:5] for row in rows[1:]] == names
        assert body(rows, 5) == near(chances.flip(0), 4)


def test_lines_lead_from_queries_to_their_keys(reader):
    weights = torch.zeros(1, 1, 3, 5)
    weights[0, 0, 0, 4], weights[0, 0, 2, 1], weights[0, 0, 0, 1], weights[0, 0, 2, 0] = 0.9, 0.3, 0.005, 0.0005
    attention(reader, weights, "#view=heads")
    assert lines(reader) == pytest.approx({"aE": 0.9, "aB": 0.005, "cB": 0.3}, abs=0.002)  # 0.0005 is too little
    go(reader, "view=heads&query=0")
    assert lines(reader) == pytest.approx({"aE": 0.9}, abs=0.002)  # of one token: what is above 0.01
    assert texts(reader, "text[font-size='13']") == ["0.90"]
    go(reader, "view=heads&key=1")
    assert lines(reader) == pytest.approx({"cB": 0.3}, abs=0.002)


def test_only_the_strongest_of_many_lines_are_drawn(reader):
    tab = samples.attention(80, 1, 1)
    reader.open(page("", [tab]))
    least = float(re.search(r"Only lines from (.*) up are drawn", reader.text(".panel"))[1])
    weights = (tab.groups[0].weights[0, 0] * 65535).round() / 65535  # as the page has them
    assert set(lines(reader)) == {f"t{q}t{k}" for q, k in (weights >= least).nonzero().tolist()}
    assert (weights >= least).sum() <= 1500 < (weights >= least - 0.001).sum()


def test_beside_a_key_stand_the_heads_that_attend_most(reader):
    weights = torch.zeros(1, 4, 2, 3)
    weights[0, :, 0, 1], weights[0, :, 0, 2] = torch.tensor([0.1, 0.4, 0.2, 0.3]), torch.tensor([0, 0, 0.06, 0.04])
    attention(reader, weights, "#query=0&head=2")
    beside = f"{SIDES[1]}, text[font-size='13']"
    assert texts(reader, beside) == ["A", "B", "1: 0.40 · 3: 0.30 · 2: 0.20 …", "C", "2: 0.06"]
    drawn = [line[:2] for line in reader.run(LINES, SIDES)]
    assert {ink for ink, _ in drawn[:-2]} == {"#8c959f"}
    assert drawn[-2:] == [["#0b5cad", "aB"], ["#0b5cad", "aC"]]  # the selected head's, above the others
    go(reader, "view=heads&query=0&heads=0,3&head=3")
    assert texts(reader, "text[font-size='13']") == ["3: 0.30 · 0: 0.10"]


def test_thumbnails_are_their_heads(reader):
    weights = torch.zeros(2, 3, 2, 4)
    for layer, head in torch.cartesian_prod(torch.arange(2), torch.arange(3)):
        weights[layer, head, layer, head + layer], weights[layer, head, 1 - layer, 0] = 1, 0.25 / (head + 1)
    attention(reader, weights, "#view=model&layer=1&head=2")
    wait_for(lambda: reader.run("return document.querySelectorAll('.picture image').length") == 6)
    drawn = torch.tensor([red for *_, red in sorted(reader.browser.execute_async_script(REDS))])
    assert drawn[0].tolist() == [8, 255, 255, 255, 127, 255, 255, 255]  # 1, 0 and 0.25, as the roots of the weights
    assert (drawn == 8).tolist() == (weights == 1).reshape(6, 8).tolist()
    assert reader.said() == "layer 1, head 2: the strongest key gets 54.2 % of a query's attention, on average."
    for rows in tables(reader, "model-attention-layer1-head2"):
        assert [row[0] for row in rows] == ["layer", "0", "1"]
        assert body(rows) == near(weights.amax(-1).mean(-1), 3)
    tab = samples.attention(200, 1, 1)
    tab.groups[0].weights.zero_()[0, 0, 150, 0] = 1
    reader.open(page("", [tab]), "#view=model")
    ((*_, size, red),) = reader.browser.execute_async_script(REDS)
    assert size < 200  # of several weights that share a pixel, the largest counts
    assert [divmod(at, size) for at, shade in enumerate(red) if shade == 8] == [(150 * size // 200, 0)]


def test_steps_show_how_they_are_computed_and_their_sums_are_right(reader):
    x, w, plus = torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[5.0, 6], [7, -8]]), torch.tensor([[0.0, 1], [2, 10]])
    code, rows, columns = ("s = x W_A / 2 + m", "s = x @ W / 2 + m", "[T E]"), ("a", "b"), ("A", "B")
    products = Product("x", "W_A", x, w, 0.5, plus), Product("x", "W_B", x, w, 1.0, plus[1])
    first = Step("s", *code, x @ w / 2 + plus, rows, columns, "A note.", products[0])
    second = Step("t", "x W_B", "x @ W", "[2]", x @ w + plus[1] + 1, rows, (), "", products[1])  # 1: sums tell
    steps = StepsTab(0, 0, 1, "attention", rows, (first, second))
    sums = (
        "s[b, B] = 3.00 = (3.00·6.00 + 4.00·(−8.00)) · 0.500 + 10.00; the sum of x·W_A, added up here, is 3.00.",
        "t[b, 1] = −3.00 = 3.00·6.00 + 4.00·(−8.00) + 10.00; the sum of x·W_B, added up here, is −4.00.",
    )
    reader.open(page("", [steps]))
    for number, (step, total) in enumerate(zip(steps.steps, sums, strict=True)):
        go(reader, f"view=steps&step={number}&row=1&column=1")
        assert reader.text("[aria-current=step]") == f"{number + 1} {step.symbol}"
        assert reader.text(".formula") == step.formula.replace("_", "") + step.code
        assert reader.text(".formula + p") == f"shape {step.shape}"
        assert step.note in reader.text(".panel")
        assert numbers(cells(reader)) == near(step.value)
        assert reader.said() == total


def test_themes_change_all_colours_and_stay_in_the_address(reader):
    def inks():
        picture = "document.querySelector('.picture text').getAttribute('fill')"
        page_ = "getComputedStyle(document.body).color"
        return reader.run(f"return [document.documentElement.dataset.theme, {picture}, {page_}]")

    dark, light = ["dark", "#e6edf3", "rgb(230, 237, 243)"], ["light", "#1b1f24", "rgb(27, 31, 36)"]
    html = page("", [samples.grid()])
    reader.open(html)
    assert inks() == light
    for after in (dark, light, dark):
        push(reader, "light or dark")
        assert inks() == after
        reader.address(f"theme={after[0]}")
    reader.open(html, reader.run("return location.hash"))
    assert inks() == dark


@pytest.mark.parametrize("view", ["steps", "layers", "compare", "grid"])
def test_saved_pictures_are_those_on_the_screen(reader, view):
    reader.open(page("", samples.everything()), f"#view={view}&layer=1&head=2")
    name = "compare-attention-layer1-head2" if view == "compare" else view
    root = ElementTree.parse(saved(reader, f"{name}.svg")).getroot()
    shown = reader.run("return [...document.querySelectorAll('.picture text')].map((text) => text.textContent)")
    assert ["".join(node.itertext()) for node in root.iter() if node.tag.endswith("}text")] == shown
    sides = [float(root.get(side)) for side in ("width", "height")]
    size = "['width', 'height'].map((side) => Number(document.querySelector('.picture svg').getAttribute(side)))"
    assert sides == [32 + side for side in reader.run(f"return {size}")]
    pixels = Image.open(saved(reader, f"{name}.png")).convert("RGB")
    assert list(pixels.size) == [2 * side for side in sides]
    assert pixels.getpixel((0, 0)) == (255, 255, 255)
    assert len(pixels.getcolors(1 << 24)) > 20


def test_saved_tables_have_all_digits(reader):
    steps, grid = samples.steps(), samples.grid()
    reader.open(page("", [steps, grid, samples.table()]), "#view=grid")
    shown, exact = tables(reader, "grid")
    assert [row[0] for row in exact] == ["layer", *"0123"]
    assert body(shown) == near(grid.values, 4)
    assert body(exact) == near(grid.values, 7)
    for number, step in enumerate(steps.steps):
        go(reader, f"view=steps&step={number}")
        assert body(list(tables(reader, "steps"))[1]) == near(step.value, 7)
    go(reader, "view=table")
    expected = [["head", "kind", "score"], ["0.0", "previous", "0.9"], ["0.1", "next", ""], ["", "all", "12345"]]
    assert list(tables(reader, "table"))[1] == expected


@pytest.mark.parametrize("pair", ["aa", "ab", "ba", "bb"])
def test_filters_of_pairs_show_the_sentences_they_name(reader, pair):
    weights, (rows, columns) = (torch.rand(1, 1, 5, 5) + 0.3) / 6, ({"a": slice(2), "b": slice(2, 5)}[x] for x in pair)
    queries, keys, part = "abcde"[rows], "ABCDE"[columns], weights[0, 0, rows, columns]
    attention(reader, weights, f"#view=heads&pair={pair}", second=2)
    assert ["".join(texts(reader, side)) for side in SIDES] == [queries, keys]
    names = [q + k for q in queries for k in keys]
    assert lines(reader) == pytest.approx(dict(zip(names, part.flatten().tolist(), strict=True)), abs=0.002)
    go(reader, f"view=matrix&pair={pair}&query={'abcde'.index(queries[-1])}&key={'ABCDE'.index(keys[0])}")
    assert reader.said() == f"layer 0, head 0: “{queries[-1]}” attends {part[-1, 0]:.4f} to “{keys[0]}”."
    assert numbers(cells(reader)) == near(part)
    assert "".join(texts(reader, "text[text-anchor=end]") + texts(reader, "text[y='-6']")) == queries + keys
    for table in tables(reader, "matrix-attention-layer0-head0"):
        assert [table[0][1:], [row[0] for row in table[1:]]] == [list(keys), list(queries)]
        assert body(table) == near(part, 4)
    reader.click("#tab-heads")
    assert numbers(texts(reader, "text[font-size='13']")) == near(part[-1])  # beside the keys


def test_groups_show_their_own_tokens_and_weights(reader):
    tab = samples.two_stacks()
    reader.open(page("", [tab]), "#view=matrix&layer=2&head=1")
    for shown in tab.groups[::-1]:
        reader.click(f"[data-control='group {shown.name}']")
        queries, keys = ([t.replace("▁", "") for t in tokens] for tokens in (shown.query_tokens, shown.key_tokens))
        assert numbers(cells(reader)) == near(shown.weights[2, 1])
        reds = [int(fill[4:].split(",")[0]) for fill in placed(reader, "rect[fill^=rgb]", "getAttribute('fill')")]
        assert torch.stack([shown.weights[2, 1].flatten(), -torch.tensor(reds)]).corrcoef().min() > 0.95
        assert texts(reader, "text[text-anchor=end]") == queries
        assert next(tables(reader, ""))[0] == ["query", *keys]
        reader.click("#tab-heads")
        assert [texts(reader, side) for side in SIDES] == [queries, keys]
        reader.click("#tab-model")
        assert body(next(tables(reader, ""))) == near(shown.weights.amax(-1).mean(-1), 3)
        reader.click("#tab-matrix")
