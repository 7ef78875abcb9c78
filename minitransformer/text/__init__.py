"""From text to token ids and back, with the tokenizer of a checkpoint, whichever files it came in."""

from minitransformer.text.batch import Batch
from minitransformer.text.load import load_tokenizer
from minitransformer.text.streaming import TextStream, with_text
from minitransformer.text.tokenizer import Tokenizer

__all__ = ["Batch", "TextStream", "Tokenizer", "load_tokenizer", "with_text"]
