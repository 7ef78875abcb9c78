"""Why a part diverges: by trial. What makes the difference vanish is what was wrong."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from minitransformer.parity.changes import Weights
from minitransformer.parity.ours import borrowed, open_book
from minitransformer.parity.parts import Part
from minitransformer.parity.suspects import SUSPECTS
from minitransformer.parity.values import badness
from minitransformer.parity.weights import describe, put_right, unlike

UNKNOWN = "no single known change explains it"
TOGETHER = (
    "alone and in float64 each part agrees with transformers: rounding that grows from part to part, "
    "or the way the model puts its parts together"
)


def likely_cause(part: Part, weights: Weights) -> str:
    """What is wrong with this part, in words; `weights` are transformers', under our names, in float64."""
    if not part.expected.isfinite().all():
        return "transformers' own numbers are NaN or infinite here"
    alone = part.alone()
    book = max(alone, key=lambda name: badness(alone[name]))
    with borrowed(part.module):
        open_book(part.module.double(), book)
        if _fits(part):
            return TOGETHER
        found = _wrong_weights(part, part.own(weights))
        if _fits(part):
            return "; ".join(found)
        for suspect in SUSPECTS:
            for claim, change in suspect(part, weights):
                with _given_back(part):
                    if _fits(part, change):
                        return "; ".join([*found, claim])
    return "; ".join([*found, UNKNOWN])


def _wrong_weights(part: Part, theirs: Weights) -> list[str]:
    """Put transformers' weights into the part, and say which of them were wrong and made a difference."""
    ours = {name: weight.detach() for name, weight in part.module.state_dict(keep_vars=True).items()}
    wrong = unlike(ours, theirs)
    put_right(part.module, {name: theirs[name] for name in wrong})
    guilty = [name for name in wrong if name not in ours and _fits(part)]
    for name in set(wrong) & set(ours):
        with _given_back(part):
            if not _fits(part, partial(put_right, part.module, {name: ours[name]})):
                guilty.append(name)
    return describe(sorted(guilty), ours, theirs)


def _fits(part: Part, change: Callable[[], object] = lambda: None) -> bool:
    """Whether the numbers are transformers' after this change. A change that cannot be run does not fit."""
    try:
        change()
        return part.difference() <= part.tolerance
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return False


@contextmanager
def _given_back(part: Part) -> Iterator[None]:
    """Within the `with`, change the part, its module and its inputs; then all is as before."""
    module, args, kwargs = part.module, part.args, dict(part.kwargs)
    with borrowed(module):
        yield
    part.module, part.args, part.kwargs = module, args, kwargs
