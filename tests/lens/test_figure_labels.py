"""What stands at the edges of a figure belongs to the numbers beside it."""

import pytest
import torch
from lens_models import TARGET, TEXT, fresh, loaded

from minitransformer import lens
from minitransformer.lens import figures

ROWS, COLUMNS = ("cat", "dog"), ("one", "two", "three")
VALUES = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])


def labels(axes):
    """Those of the rows, from the top, and those of the columns, from the left."""
    return tuple(tuple(tick.get_text() for tick in edge.get_ticklabels()) for edge in (axes.yaxis, axes.xaxis))


def names(axes):
    """What the rows and the columns are."""
    return axes.get_ylabel(), axes.get_xlabel()


def colours(*several):
    return torch.stack([torch.tensor(axes.images[0].get_array().data) for axes in several])


def test_rows_and_columns_of_a_heat_map():
    axes = figures.heatmap(VALUES, ROWS, COLUMNS, row_name="animal", column_name="number", numbers=True).axes[0]
    assert (labels(axes), names(axes)) == ((ROWS, COLUMNS), ("animal", "number"))
    assert torch.equal(colours(axes)[0], VALUES)
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert (written[2, 0], written[0, 1]) == ("0.30", "0.40")


def test_each_of_several_heat_maps_stands_below_its_name():
    values, titles = torch.stack([VALUES + part for part in range(3)]), ["head 0", "head 1", "head 2"]
    panels = figures.heatmaps(values, ROWS, COLUMNS, titles).axes[:3]
    assert [axes.get_title() for axes in panels] == titles
    assert torch.equal(colours(*panels), values)
    assert [labels(axes) for axes in panels] == [(ROWS, ()), ((), COLUMNS), (ROWS, COLUMNS)]


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_queries_are_rows_and_keys_are_columns(kind):
    found, reading = lens.attention(loaded(kind), TEXT, target=TARGET), loaded(kind).read(TEXT, target=TARGET)
    queries, keys = reading.decoder_tokens, reading.tokens
    assert len(queries) != len(keys)
    one = found.figure(layer=1, head=1, group="cross").axes[0]
    assert (labels(one), names(one)) == ((queries, keys), ("query", "key"))
    weights = found.group("cross").weights[1]
    panels = found.figure(layer=1, group="cross").axes[: len(weights)]
    assert [axes.get_title() for axes in panels] == [f"head {head}" for head in range(len(weights))]
    assert torch.equal(colours(*panels), weights)
    assert (labels(panels[0])[0], labels(panels[-1])[1]) == (queries, keys)


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_of_two_models_the_first_is_a(kind):
    a, b, target = loaded(kind), fresh(kind), TARGET if kind == "t5" else None
    with torch.no_grad():
        for parameter in b.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    found = lens.compare(a, b, TEXT, target=target)
    tab = found.tabs()[0]
    for model, groups, shown in ((a, found.groups[0], tab.a), (b, found.groups[1], tab.b)):
        own = lens.attention(model, TEXT, target=target).groups
        assert all(torch.equal(x.weights, y.weights) for x, y in zip(groups, own, strict=True))
        assert shown is groups
    assert [name[-3:] for name in (tab.name_a, tab.name_b)] == ["(A)", "(B)"]
    axes = found.figure().axes[0]
    assert names(axes) == ("layer", "head")
    for label, row in zip(labels(axes)[0], colours(axes)[0], strict=True):
        *group, layer = label.split()
        values = found.divergence[group[0] if group else "attention"][int(layer)].float()
        assert torch.equal(row[: len(values)], values)


def test_the_logit_lens_writes_each_token_on_its_cell():
    found = lens.logit_lens(loaded("gpt2"), "The cat was", top=2)
    axes = found.figure().axes[0]
    assert (labels(axes), names(axes)) == ((found.stages, found.tokens), ("stage", "token"))
    assert torch.equal(colours(axes)[0], found.probabilities[..., 0])
    words = {text.get_position(): text.get_text() for text in axes.texts}
    for stage, row in enumerate(found.top_tokens):
        assert [words[place, stage] for place in range(len(row))] == [figures.drawable(best, 10) for best, _ in row]


def test_bars_stand_in_order_each_with_its_own_value():
    values, others = [0.3, -0.1, 0.2], [0.5, 0.6, 0.7]
    axes = figures.bars(COLUMNS, values, others=others, names_of_both=("now", "then")).axes[0]
    now, then = axes.containers
    assert (now.get_label(), then.get_label()) == ("now", "then")
    assert [[bar.get_width() for bar in each] for each in (now, then)] == [values, others]
    assert labels(axes)[0] == COLUMNS
    height = lambda at: axes.transData.transform((0, at))[1]
    ticks = [height(at) for at in axes.get_yticks()]
    assert ticks == sorted(ticks, reverse=True)
    for tick, *pair in zip(ticks, now, then, strict=True):
        above, below = (height(bar.get_y() + bar.get_height() / 2) for bar in pair)
        assert above > tick > below
        assert above - tick == pytest.approx(tick - below)


def test_an_explanations_bars_are_its_keys():
    found = lens.explain(loaded("gpt2"), TEXT, 1, 2, 5)
    axes = found.figure().axes[0]
    assert labels(axes)[0] == tuple(f"{place} {token}" for place, token in enumerate(found.key_tokens))
    assert [bar.get_width() for bar in axes.containers[0]] == found.weights.tolist()


def test_a_notebook_shows_a_figure_without_pyplot():
    from IPython.core.formatters import DisplayFormatter

    shown, _ = DisplayFormatter().format(figures.bars(["a", "b"], [1.0, 2.0], title="Two bars"))
    assert shown["image/svg+xml"].lstrip().startswith("<?xml")
    assert "Two bars" in shown["image/svg+xml"]
