"""BertViz's two views by their very signatures (BertViz 1.4.1), as one page without a network: change the import only.

They take what BertViz takes (a list of one tensor [1 H T S] for each layer), and also [H T S] for each layer, one
tensor [L H T S], and the weights of transformers' `generate`, which are nested by step.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.lens.page import frame, page
from minitransformer.lens.tabs import AttentionGroup, AttentionTab

Weights = Tensor | Sequence[Tensor] | Sequence[Sequence[Tensor]]
Tokens = Sequence[str]
NO_WEIGHTS = (
    "transformers gives none with its fused attention: load the model with attn_implementation='eager', or with "
    "minitransformer.load, and ask for output_attentions=True"
)


@dataclass(frozen=True)
class Page:
    """A page that a notebook shows in a frame; `data` is its HTML, as IPython's own HTML object has it."""

    data: str = field(repr=False)

    def _repr_html_(self) -> str:
        return frame(self.data)


@dataclass(frozen=True)
class _Arguments:
    """What the two views have in common."""

    attention: Weights | None
    tokens: Tokens | None
    sentence_b_start: int | None
    encoder_attention: Weights | None
    decoder_attention: Weights | None
    cross_attention: Weights | None
    encoder_tokens: Tokens | None
    decoder_tokens: Tokens | None
    layers: Sequence[int] | None
    heads: Sequence[int] | None = None

    def groups(self) -> tuple[AttentionGroup, ...]:
        """The kinds of attention given, each with its tokens."""
        pairs = (self.encoder_attention, self.decoder_attention, self.cross_attention)
        if self.attention is None and all(given is None for given in pairs):
            raise InputError(
                "attention: got none; give attention=, or encoder_attention=, decoder_attention=, cross_attention="
            )
        if self.attention is not None:
            if any(given is not None for given in (*pairs, self.encoder_tokens, self.decoder_tokens)):
                raise InputError("attention: got arguments of an encoder-decoder as well; give one or the other")
            return (self.group("attention", self.attention, "tokens", "tokens", self.sentence_b_start),)
        names = (("encoder", "encoder", "encoder"), ("decoder", "decoder", "decoder"), ("cross", "decoder", "encoder"))
        return tuple(
            self.group(name, given, f"{query}_tokens", f"{key}_tokens")
            for given, (name, query, key) in zip(pairs, names, strict=True)
            if given is not None
        )

    def group(self, name: str, given: Weights, queries: str, keys: str, second: int | None = None) -> AttentionGroup:
        """One kind of attention, with the layers and heads asked for."""
        weights = stacked(name, given)
        for side, size in ((queries, weights.shape[2]), (keys, weights.shape[3])):
            tokens = getattr(self, side)
            if tokens is None:
                raise InputError(f"{side}: got none, and the weights of {name} need them")
            if len(tokens) != size:
                raise InputError(f"{side}: got {len(tokens)} tokens, but the weights of {name} have {size} positions")
        if second is not None and not 0 < second < weights.shape[2]:
            raise InputError(f"sentence_b_start: got {second}, expected a place inside the {weights.shape[2]} tokens")
        layers = _chosen("include_layers", self.layers, len(weights))
        heads = _chosen("include_heads", self.heads, weights.shape[1])
        return AttentionGroup(
            name,
            weights[layers][:, heads],
            tuple(getattr(self, queries)),
            tuple(getattr(self, keys)),
            second,
            second,
            tuple(layers),
            tuple(heads),
        )


def head_view(
    attention: Weights | None = None,
    tokens: Tokens | None = None,
    sentence_b_start: int | None = None,
    prettify_tokens: bool = True,
    layer: int | None = None,
    heads: Sequence[int] | None = None,
    encoder_attention: Weights | None = None,
    decoder_attention: Weights | None = None,
    cross_attention: Weights | None = None,
    encoder_tokens: Tokens | None = None,
    decoder_tokens: Tokens | None = None,
    include_layers: Sequence[int] | None = None,
    html_action: str = "view",
) -> Page | None:
    """The heads of one layer as lines from query to key. Arguments as BertViz's `head_view` has them.

    html_action "view" shows the page in the notebook, "return" returns it. Raises InputError where weights and tokens
    do not fit.
    """
    given = (encoder_attention, decoder_attention, cross_attention, encoder_tokens, decoder_tokens)
    groups = _Arguments(attention, tokens, sentence_b_start, *given, include_layers).groups()
    shown = groups[0].layers or ()
    if layer is not None and layer not in shown:
        raise InputError(f"layer: got {layer}, expected one of {list(shown)}")
    tab = AttentionTab(groups, shown[0] if layer is None else layer, None if heads is None else tuple(heads))
    return _act(tab, "view=heads", prettify_tokens, html_action)


def model_view(
    attention: Weights | None = None,
    tokens: Tokens | None = None,
    sentence_b_start: int | None = None,
    prettify_tokens: bool = True,
    display_mode: str = "dark",
    encoder_attention: Weights | None = None,
    decoder_attention: Weights | None = None,
    cross_attention: Weights | None = None,
    encoder_tokens: Tokens | None = None,
    decoder_tokens: Tokens | None = None,
    include_layers: Sequence[int] | None = None,
    include_heads: Sequence[int] | None = None,
    html_action: str = "view",
) -> Page | None:
    """All heads of all layers as thumbnails. Arguments as BertViz's `model_view` has them; see `head_view`."""
    if display_mode not in ("dark", "light"):
        raise InputError(f"display_mode: got {display_mode!r}, expected 'dark' or 'light'")
    given = (encoder_attention, decoder_attention, cross_attention, encoder_tokens, decoder_tokens)
    groups = _Arguments(attention, tokens, sentence_b_start, *given, include_layers, include_heads).groups()
    return _act(AttentionTab(groups), f"view=model&theme={display_mode}", prettify_tokens, html_action)


def stacked(name: str, given: Weights) -> Tensor:
    """The weights in any of the forms above, as [L H T S]."""
    if not len(given):
        raise InputError(f"{name}: got no weights; {NO_WEIGHTS}")
    if any(layer is None for layer in given):
        raise InputError(f"{name}: got None in the place of weights; {NO_WEIGHTS}")
    if not isinstance(given[0], Tensor):
        return _stacked_steps(name, given)  # type: ignore[arg-type]  # layers by step
    return torch.stack([_one_text(name, layer) for layer in given])  # type: ignore[arg-type]


def _one_text(name: str, layer: Tensor) -> Tensor:
    """The weights of a layer without the dimension of the batch: [H T S]."""
    if layer.ndim == 4 and layer.shape[0] != 1:
        raise InputError(
            f"{name}: got a batch of {layer.shape[0]} texts; take one, [layer[row : row + 1] for layer in attention]"
        )
    if layer.ndim not in (3, 4):
        raise InputError(f"{name}: got a layer of shape {list(layer.shape)}, expected [1 H T S] or [H T S]")
    return layer.detach()[0] if layer.ndim == 4 else layer.detach()


def _stacked_steps(name: str, steps: Sequence[Sequence[Tensor]]) -> Tensor:
    """The weights of `generate`, nested by step and layer, as [L H T S]. What a step could not see yet is 0."""
    if any(not len(step) for step in steps):
        raise InputError(f"{name}: got a step without weights; {NO_WEIGHTS}")
    parts = [torch.stack([_one_text(name, layer) for layer in step]) for step in steps]  # [L H t s] of each step
    longest = max(part.shape[-1] for part in parts)
    padded = [torch.nn.functional.pad(part, (0, longest - part.shape[-1])) for part in parts]
    return torch.cat(padded, dim=2)


def _chosen(name: str, places: Sequence[int] | None, size: int) -> list[int]:
    """The layers or heads asked for; all where none are."""
    chosen = list(range(size)) if places is None else list(places)
    if not chosen or any(not 0 <= place < size for place in chosen):
        raise InputError(f"{name}: got {chosen}, expected some of 0 .. {size - 1}")
    return chosen


def _act(tab: AttentionTab, start: str, readable: bool, html_action: str) -> Page | None:
    """Returns the page, or shows it in the notebook that is running."""
    if html_action not in ("view", "return"):
        raise InputError(f"html_action: got {html_action!r}, expected 'view' or 'return'")
    shown = Page(page("Attention", (tab,), start=start if readable else f"{start}&tokens=raw"))
    if html_action == "return":
        return shown
    if "IPython" in sys.modules:
        importlib.import_module("IPython.display").display(shown)
    else:
        print("There is no notebook to show the page in; html_action='return' gives it, to be saved.")
    return None
