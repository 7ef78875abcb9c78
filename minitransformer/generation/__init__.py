"""Text out of a decoder: greedy, sampled, by beam search; whole or as it comes.

Read `sample.py` first. A model of two stacks, or of one, is a `Decoder` (`decoder.py`) that reads token after token;
`processors.py` says what is done to the scores before a token is chosen, `beams.py` how several texts are kept.
"""

from minitransformer.generation.chat import Chat
from minitransformer.generation.generate import generate
from minitransformer.generation.look_back import Generation
from minitransformer.generation.perplexity import Perplexity
from minitransformer.generation.settings import GenerationConfig
from minitransformer.generation.write import Writer

__all__ = ["Chat", "Generation", "GenerationConfig", "Perplexity", "Writer", "generate"]
