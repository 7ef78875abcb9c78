"""The boxes put together: blocks into stacks, stacks and a head into a Transformer; and the seam for looking inside."""

from minitransformer.model.activations import ActivationCache
from minitransformer.model.capture import capture, hooks
from minitransformer.model.inside import run_with_cache, run_with_hooks
from minitransformer.model.muting import muted
from minitransformer.model.transformer import Output, Transformer, build

__all__ = [
    "ActivationCache",
    "Output",
    "Transformer",
    "build",
    "capture",
    "hooks",
    "muted",
    "run_with_cache",
    "run_with_hooks",
]
