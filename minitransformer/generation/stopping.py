"""When a text has ended: an end token, the greatest length, or a text that it was told to stop at."""

from collections.abc import Sequence

from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.generation.settings import GenerationConfig
from minitransformer.text import Tokenizer, with_text


class Stopping:
    """Says of each text whether its last token was its last. `longest`: the greatest length, in tokens."""

    def __init__(self, config: GenerationConfig, longest: int, tokenizer: Tokenizer | None) -> None:
        self.ends = frozenset(config.eos_token_id or ())
        self.longest = longest
        self.strings = config.stop_strings or ()
        if self.strings and tokenizer is None:
            raise InputError("stop_strings: got some, and no tokenizer to read tokens with; try eos_token_id")
        self.tokenizer = tokenizer
        sizes = [len(string.encode(errors="replace")) for string in self.strings]
        self.reach = max(sizes, default=0) + 1  # tokens to look at: each has a byte or more; and the one before them

    def __call__(self, ids: Tensor) -> list[bool]:
        """ids int [R T] -> R answers."""
        if ids.shape[1] >= self.longest:
            return [True] * len(ids)
        ended = [token in self.ends for token in ids[:, -1].tolist()]
        if self.strings:
            ended = [done or self._stops(row) for done, row in zip(ended, ids[:, -self.reach :].tolist(), strict=True)]
        return ended

    def _stops(self, tail: Sequence[int]) -> bool:
        """Whether a stop string ends within the last token."""
        if self.tokenizer is None:
            return False
        before, text = (self.tokenizer.decode(with_text(self.tokenizer, ids)) for ids in (tail[:-1], tail))
        known = len(before.rstrip("\ufffd"))  # without what may be half a character
        return any(text.find(string, max(0, known - len(string) + 1)) >= 0 for string in self.strings)
