"""The boxes put together: blocks into stacks, stacks and a head into a Transformer; and the seam for looking inside."""

from minitransformer.model.capture import capture
from minitransformer.model.transformer import Output, Transformer, build

__all__ = ["Output", "Transformer", "build", "capture"]
