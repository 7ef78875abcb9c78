"""Several results of one run on one page."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from minitransformer.errors import InputError
from minitransformer.lens.attention import Attention, attention
from minitransformer.lens.explain import explain, query_place
from minitransformer.lens.logit_lens import logit_lens
from minitransformer.lens.page import frame, page
from minitransformer.lens.result import Result
from minitransformer.lens.saving import check_path, write
from minitransformer.lens.shapes import shapes
from minitransformer.lens.tabs import AttentionGroup
from minitransformer.lens.words import fit
from minitransformer.model.points import place_in

if TYPE_CHECKING:
    from minitransformer.images import Image
    from minitransformer.pretrained import Pretrained


@dataclass(frozen=True, eq=False)
class Page:
    """Results that share a page, and on it what is selected."""

    results: tuple[Result, ...]
    title: str
    start: str = ""  # what is selected at first, as the page's address says it: "layer=3&head=7"

    @property
    def notes(self) -> tuple[str, ...]:
        """What all of them do not show."""
        return tuple(dict.fromkeys(note for result in self.results for note in result.notes))

    def __str__(self) -> str:
        """One after the other."""
        return "\n\n\n".join(map(str, self.results))

    def html(self) -> str:
        """One HTML file, which loads nothing."""
        tabs = [tab for result in self.results for tab in result.tabs()]
        return page(self.title, tabs, notes=self.notes, start=self.start)

    def to_dict(self) -> dict[str, Any]:
        """Each result, ready for JSON."""
        return {"title": self.title, "results": [result.to_dict() for result in self.results]}

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the page: a name that ends in .html."""
        path = check_path(path, (".html",))
        write(path, self.html().encode("utf-8", "backslashreplace"))
        return path

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """What a notebook shows: the page in a frame of its own, or the text where it shows no pages."""
        return {"text/plain": str(self), "text/html": frame(self.html())}


def together(*results: Result, title: str | None = None) -> Page:
    """One page of these: `together(attention(model, text), explain(model, text, 3, 7, "sat")).save("run.html")`.

    title: by default that of the first.
    """
    if not results:
        raise InputError("together: got no results, expected at least one")
    return Page(results, results[0].title if title is None else title)


def look(
    model: Pretrained,
    text: str | Image,
    pair: str | None = None,
    *,
    target: str | None = None,
    layer: int = 0,
    head: int = 0,
    query: int | str | None = None,
) -> Page:
    """All there is to see of one text: attention, heads step by step, the logit lens, the shapes.

    layer, head, query: what is selected at first and explained: a head of the encoder, of the decoder and of the
    cross-attention, where the model has them and the text they ask from has that token; without a query, the last
    token is explained. There is a logit lens where there is a language model.
    """
    found = attention(model, text, pair, target=target)
    explained = [
        explain(model, text, *place, pair=pair, target=target, attention=None if len(found.groups) == 1 else group.name)
        for group, place in asking(found, layer, head, query)
    ]
    results: list[Result] = [found, *explained]
    if getattr(model.transformer.head, "lm", None) is not None:
        results.append(logit_lens(model, cast("str", text), pair, target=target))
    results.append(shapes(model, text, pair, target=target))
    texts = [fit(each, 80) for each in (text, pair) if isinstance(each, str)]
    said = " and ".join(f"“{each}”" for each in texts) or "an image"
    first = explained[0]
    start = f"group={first.attention}&layer={first.layer}&head={first.head}&heads={first.head}"
    start += "" if query is None else f"&query={first.query}"
    return Page(tuple(results), f"{model.base.rpartition('/')[2]}: {said}", start)


def asking(
    found: Attention, layer: int, head: int, query: int | str | None
) -> list[tuple[AttentionGroup, tuple[int, int, int]]]:
    """The kinds of attention that have that layer, head and token; by default the last token."""
    places, refusal = [], InputError("attention: got none")
    for group in found.groups:
        layers, heads = group.weights.shape[:2]
        try:
            of_token = query_place(-1 if query is None else query, group.query_tokens)
            of_head = place_in("layer", layer, layers), place_in("head", head, heads, from_the_end=False)
        except InputError as error:
            refusal = error
        else:
            places.append((group, (*of_head, of_token)))
    if not places:
        raise refusal
    return places
