"""Tabs of every kind, with random numbers, for the tests of the page."""

import torch

from minitransformer.lens.table import Table
from minitransformer.lens.tabs import (
    AttentionGroup,
    AttentionTab,
    CompareTab,
    GridTab,
    LayersTab,
    Product,
    Step,
    StepsTab,
    TableTab,
)

WORDS = (
    "[CLS]",
    "the",
    "cat",
    "sat",
    "on",
    "the",
    "mat",
    "[SEP]",
    "it",
    "was",
    "un",
    "##believ",
    "##ably",
    "tired",
    "[SEP]",
)
SECOND = 8
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "\u202eabc",
    "\ud83d",
    "a\x00b\n",
    "",
    "   ",
    '"onload="alert(3)',
    "中文字符",
    "العربية",
    "W" * 300,
    "=1+1",
    "&lt;b&gt;",
    "__proto__",
)


def weights(layers, heads, queries, keys):
    return (torch.randn(layers, heads, queries, keys) * 3).softmax(-1)


def attention(size=15, layers=4, heads=8, tokens=None):
    tokens = tokens or (WORDS if size == len(WORDS) else tuple(f"t{i}" for i in range(size)))
    second = SECOND if tokens is WORDS else None
    return AttentionTab(
        (AttentionGroup("attention", weights(layers, heads, size, size), tokens, tokens, second, second),)
    )


def two_stacks():
    source, target = ("▁the", "▁house", "</s>"), ("<pad>", "▁Das", "▁Haus", ".")
    sides = {"encoder": (source, source), "decoder": (target, target), "cross": (target, source)}
    return AttentionTab(
        tuple(AttentionGroup(name, weights(3, 4, len(q), len(k)), q, k) for name, (q, k) in sides.items())
    )


def steps():
    x, w, b = torch.randn(15, 32), torch.randn(32, 8), torch.randn(8)
    q = x @ w + b
    scores = torch.cat([q[5:6] @ q[:14].T, torch.full((1, 1), -torch.inf)], dim=1)
    return StepsTab(
        2,
        3,
        5,
        "attention",
        WORDS,
        (
            Step(
                "q",
                "q = x W_Q + b_Q",
                "q = x @ W_Q + b_Q",
                "[T E] = [15 8]",
                q,
                WORDS,
                (),
                "",
                Product("x", "W_Q", x, w, 1.0, b),
            ),
            Step("s", "s = q kᵀ", "s = q @ k.T", "[1 T] = [1 15]", scores, (WORDS[5],), WORDS, "A masked key has −∞."),
        ),
    )


def layers():
    top = tuple(tuple(("ĠParis", "ĠRome", "Ġthe") for _ in range(4)) for _ in range(3))
    tokens = ("The", "Ġcity", "Ġof", "ĠcafÃ©")
    return LayersTab(("embedding", "block 0", "output"), tokens, top, torch.rand(3, 4, 3), "after", 3)


def grid(signed=True):
    values = torch.randn(4, 8)
    values[0, 0] = torch.nan
    return GridTab("Ablation", values, tuple("0123"), tuple("01234567"), "layer", "head", signed, "attention")


def compare():
    first, second = attention().groups[0], attention().groups[0]
    return CompareTab("before", "after", (first,), (second,), {"attention": torch.rand(4, 8)})


def table():
    rows = (("0.0", "previous", 0.9), ("0.1", "next", None), (None, "all", 12345))
    return TableTab("Head types", Table(("head", "kind", "score"), rows))


def everything():
    return [attention(), steps(), layers(), compare(), grid(), table()]
