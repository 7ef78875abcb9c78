"""Pictures of a run are sound SVG: whatever the numbers and names, and nothing stands outside."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitransformer.finetune.report.drawing import axis
from minitransformer.finetune.report.pictures import confusion_matrix_svg, loss_curve, rate_curve

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = [
    '"><script>alert(1)</script>',
    "a & b",
    "]]>",
    "\x00\x1b[31m",
    "\ud800",
    "‮evil",
    "x" * 500,
    "中文" * 50,
    "",
    "{}%s",
]


def read(svg):
    """The picture's tree, once every number in it is known to be inside."""
    svg.encode("utf-8")
    root = ElementTree.fromstring(svg)
    width, height = (float(root.get(side)) for side in ("width", "height"))
    assert root.get("viewBox") == f"0 0 {width:.0f} {height:.0f}"
    for element in root.iter():
        places = [(element.get(x), element.get(y)) for x, y in (("x", "y"), ("cx", "cy")) if element.get(x) is not None]
        places += re.findall(r"[ML]([-\d.]+) ([-\d.]+)", element.get("d", ""))
        for x, y in places:
            assert 0 <= float(x) <= width
            assert 0 <= float(y) <= height
    drawn = "".join(f"{name}={value}" for element in root.iter() for name, value in element.items())
    assert not re.search(r"\b(nan|inf)\b", drawn)
    return root


def words_of(root):
    return ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]


def lines_of(root, kind):
    return [e.get("d") for e in root.iter(f"{SVG}path") if e.get("class") == kind]


def steps(losses):
    return [{"step": i + 1, "loss": loss, "learning_rate": 1e-5 * i} for i, loss in enumerate(losses)]


def test_a_curve_shows_each_number_where_it_stands():
    evaluations = [{"step": 2, "loss": 3.0, "f1": 0.5}, {"step": 4, "loss": 1.0, "f1": 0.75}]
    root = read(loss_curve(steps([4.0, 3.0, 2.0, 1.0, 0.0]), evaluations, "f1"))
    raw = [tuple(map(float, p)) for p in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", lines_of(root, "raw")[0])]
    assert np.diff([x for x, _ in raw]) == pytest.approx([148] * 4, abs=0.2)  # 592 wide
    assert np.ptp(np.diff([y for _, y in raw])) <= 0.2  # evenly, and down
    assert raw[0][1] < raw[-1][1]
    dots = {
        k: [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter(f"{SVG}circle") if c.get("class") == k]
        for k in ("dev", "score")
    }
    assert dots["dev"] == [raw[1], raw[3]]
    assert dots["score"][0][1] > dots["score"][1][1]
    told = words_of(root)
    assert {"0", "1", "2", "3", "4", "5", "0.5", "0.6", "0.7", "step", "loss"} <= set(told)
    assert any(
        all(name in text for name in ("training loss", "smoothed", "dev loss", "f1", "learning rate, up to 4e-05"))
        for text in told
    )


def test_only_what_there_is_is_drawn():
    told = " ".join(words_of(read(loss_curve([{"step": 1, "loss": 2.0}], []))))
    assert "training loss" in told
    assert "dev loss" not in told
    assert "learning rate" not in told
    root = read(loss_curve([], [{"step": 1, "loss": 3.0}], "loss"))
    assert not lines_of(root, "raw")
    assert lines_of(root, "dev")
    assert not lines_of(root, "score")
    assert "h0" in lines_of(read(loss_curve([{"step": 1, "loss": 2.0}], [])), "raw")[0]  # one point is a dot


def test_the_smoothed_line_is_smoother_and_starts_at_the_first_loss():
    rng = np.random.default_rng(0)
    root = read(loss_curve(steps((2 + rng.normal(0, 0.3, 500)).tolist()), []))
    y = {
        kind: [float(p) for p in re.findall(r"[ML][-\d.]+ ([-\d.]+)", lines_of(root, kind)[0])]
        for kind in ("raw", "loss")
    }
    assert np.std(y["loss"][100:]) < np.std(y["raw"]) / 3
    assert y["loss"][0] == y["raw"][0]
    assert np.mean(y["loss"]) == pytest.approx(np.mean(y["raw"]), abs=8)


def test_many_points_are_thinned_and_spikes_stay():
    losses = [2.0] * 10_000
    losses[5_000], losses[7_001] = 9.0, 0.5
    svg = loss_curve(steps(losses), [{"step": i, "acc": i / 10_000} for i in range(10_000)], "acc")
    assert len(svg) < 300_000
    heights = [float(y) for y in re.findall(r"[ML][-\d.]+ ([-\d.]+)", lines_of(read(svg), "raw")[0])]
    assert sorted(heights)[0] < sorted(heights)[1] - 100
    assert sorted(heights)[-1] > sorted(heights)[-2] + 30


def test_what_is_no_number_leaves_a_gap():
    root = read(
        loss_curve(steps([3.0, 2.0, math.nan, math.inf, 1.0, None, "x", 1e300, True, 2.0]), [{"step": math.nan}])
    )
    assert lines_of(root, "raw")[0].count("M") == 3
    assert lines_of(root, "loss")[0].count("M") == 3


NUMBERS = st.floats() | st.integers() | st.none() | st.booleans() | st.text(max_size=3) | st.floats(-5, 5, width=32)
ROWS = st.lists(st.dictionaries(st.sampled_from(["step", "loss", "learning_rate", "f1"]), NUMBERS), max_size=12)


@settings(max_examples=40, deadline=None)
@given(ROWS, ROWS)
def test_any_numbers_give_a_sound_picture(training, evaluations):
    read(loss_curve(training, evaluations, "f1"))
    read(
        rate_curve(
            [row.get("learning_rate") for row in training],
            [row.get("loss") for row in training],
            training[0].get("f1") if training else None,
        )
    )


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3, 17), (0.123, 0.1231), (1e9, 1e9 + 1), (5, 5), (0, 0), (-1e-12, 1e-12), (1e29, -1e29)]
)
def test_ticks_are_round_on_the_axis_and_enough(low, high):
    scale = axis([low, high], 0, 100)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 8
    assert all(0 <= scale.place(tick) <= 100 for tick in ticks)
    assert np.diff(ticks) == pytest.approx(np.diff(ticks)[0], rel=1e-3)
    assert re.fullmatch(r"[125]\.0+e[+-]\d+", f"{ticks[1] - ticks[0]:.1e}")


@pytest.mark.parametrize("label", HOSTILE)
def test_names_are_only_text(label):
    for svg in (
        loss_curve(steps([1, 2]), [{"step": 1, label: 0.5}], label),
        confusion_matrix_svg([[1, 2], [3, 4]], [label, "b"]),
    ):
        root = read(svg)
        assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
            "svg", "title", "style", "rect", "text", "tspan", "path", "circle",
        }  # fmt: skip
        told = " ".join(words_of(root))
        assert told.isprintable()
        assert "x" * 30 not in told
        assert "中文" * 15 not in told


def test_a_name_is_cut_and_stays_as_it_is():
    root = read(confusion_matrix_svg([[1, 1], [1, 1]], ["<b>&amp;</b>", "a long name of a label"]))
    assert words_of(root).count("<b>&amp;</b>") == words_of(root).count("a long name of a la…") == 2


def test_a_confusion_matrix_shows_counts_and_shares_of_rows():
    root = read(confusion_matrix_svg([[3, 1], [0, 20_000]], ["cat", "dog"]))
    told = words_of(root)
    assert {"3", "1", "20k"} <= set(told)
    assert told.count("cat") == told.count("dog") == 2
    assert "0" not in told
    cells = [
        (float(e.get("x")), float(e.get("y")), float(e.get("fill-opacity")))
        for e in root.iter(f"{SVG}rect")
        if e.get("class") == "cell"
    ][1:]
    (x1, y1, three), (x2, y2, one), (x3, y3, all_) = cells
    assert (three, one, all_) == (0.76, 0.29, 1.0)
    assert x1 < x2 == x3
    assert y1 == y2 < y3


@pytest.mark.parametrize("count", [0, 1, 2, 21, 50, 51, 300])
def test_any_number_of_labels_has_room(count):
    matrix = np.random.default_rng(count).integers(0, 90, (count, count)).tolist()
    svg = confusion_matrix_svg(matrix, [f"label {i}" for i in range(count)])
    told = words_of(read(svg))
    assert sum(text.startswith("label") for text in told) == 2 * min(count, 50)
    assert any("the 50 most frequent of" in text for text in told) == (count > 50)
    assert len(svg) < 500_000


def test_the_labels_with_most_rows_are_kept():
    matrix = [[0] * 51 for _ in range(51)]
    for i in range(51):
        matrix[i][50] = 1 if i == 7 else 5
    told = words_of(read(confusion_matrix_svg(matrix, [f"<{i}>" for i in range(51)])))
    assert "<7>" not in told
    assert told.count("<50>") == 2


def test_rates_stand_on_a_logarithmic_axis():
    root = read(rate_curve([1e-6, 1e-5, 1e-4, 1e-3], [3.0, 2.0, 1.0, 9.0], suggested=1e-4))
    x = [float(p) for p in re.findall(r"[ML]([-\d.]+) ", lines_of(root, "loss")[0])]
    assert np.diff(x) == pytest.approx([np.diff(x)[0]] * 3, abs=0.2)
    assert lines_of(root, "mark")[0].startswith(f"M{x[2]} ")
    assert {"1e-06", "1e-05", "1e-04", "1e-03", "suggested: 1.0e-04", "learning rate"} <= set(words_of(root))
    assert not lines_of(read(rate_curve([1e-6, 1e-5], [1.0, 2.0])), "mark")


def test_light_and_dark():
    svg = loss_curve(steps([1, 2]), [])
    assert "@media (prefers-color-scheme:dark)" in svg
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
