"""Against transformers, layer by layer: are these the same numbers, and if not, where do they part, and why."""

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minitransformer.parity.report import ParityReport
    from minitransformer.pretrained import Pretrained

__all__ = ["parity"]


def parity(
    model: "str | PathLike[str] | Pretrained",
    texts: str | Sequence[str] | None = None,
    *,
    head: str | None = None,
    reference: str | PathLike[str] | None = None,
    double: bool = False,
) -> "ParityReport":
    """Run one batch through `model` (both books) and through transformers, and compare them place by place.

    `model`: a name that `load` takes, or a loaded model, which is left as it was. `texts`: what to run; by default a
    few built-in pairs of texts, of which a decoder behind an encoder reads the second. A checkpoint without a tokenizer
    runs random tokens, a model of images random pixels. `head`: as in `load`. `reference`: what transformers reads; by
    default the folder that the model came from, with the config it was loaded with. `double`: run both sides as a whole
    in float64, too. Everything is computed on the CPU.

    `print` the result, or ask it: `.equal`, `.first_divergence`, `.cause`, `.rows`, `.to_dict()`.
    """
    from minitransformer.parity.check import check

    return check(model, texts, head=head, reference=reference, double=double)
