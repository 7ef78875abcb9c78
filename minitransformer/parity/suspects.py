"""What may be wrong with a part: each suspect is a claim, and the change that puts the part right if the claim is true.

A suspect is a function from a part, and all of transformers' weights under our names, to such pairs. To add one, write
it and put it into SUSPECTS. It need not clean up: after each change the part is given back as it was.
"""

from minitransformer.config import ACTIVATIONS
from minitransformer.parity.changes import Suspect
from minitransformer.parity.suspects_of_attention import heads, kv_groups, mask, score_scale
from minitransformer.parity.suspects_of_modules import (
    EPS,
    attribute,
    formula,
    missing,
    norm_kind,
    swapped,
    tied_table,
    transposed,
)
from minitransformer.parity.suspects_of_positions import (
    dropped,
    head_scale,
    relative_bias,
    rotary_base,
    shifted_positions,
    token_scale,
)

SUSPECTS: tuple[Suspect, ...] = (
    attribute("activation", "the activation", ACTIVATIONS),
    attribute("eps", "eps", EPS),
    attribute("order", "the norm order", ("pre", "post")),
    attribute("formula", "the formula", ("sinusoidal", "sinusoidal_halves")),
    norm_kind,
    token_scale,
    head_scale,
    score_scale,
    heads,
    kv_groups,
    swapped,
    transposed,
    mask,
    shifted_positions,
    dropped,
    rotary_base,
    relative_bias,
    missing,
    tied_table,
    formula,
)
