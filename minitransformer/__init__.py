"""One Transformer to read, load, check against transformers, look into and fine-tune.

The public names are loaded when they are first used, so that importing this package costs nothing and the command line
answers before torch is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Functions whose names are also the names of folders. These two folders import nothing heavy, and are imported here
# once so that the names below stay the functions whatever is imported later.
from minitransformer.finetune import finetune
from minitransformer.parity import parity

if TYPE_CHECKING:
    from minitransformer.config import TransformerConfig, vaswani2017
    from minitransformer.errors import MiniTransformerError
    from minitransformer.generation import GenerationConfig, generate
    from minitransformer.model import Output, Transformer, build, capture
    from minitransformer.modules import KVCache
    from minitransformer.pretrained import Pretrained, load
    from minitransformer.tasks import Row
    from minitransformer.text import Batch, Tokenizer

__version__ = "0.1.0"

_HOMES = {
    "TransformerConfig": "config",
    "vaswani2017": "config",
    "MiniTransformerError": "errors",
    "GenerationConfig": "generation",
    "generate": "generation",
    "Output": "model",
    "Transformer": "model",
    "build": "model",
    "capture": "model",
    "KVCache": "modules",
    "Pretrained": "pretrained",
    "load": "pretrained",
    "Row": "tasks",
    "Batch": "text",
    "Tokenizer": "text",
}

__all__ = [
    "Batch",
    "GenerationConfig",
    "KVCache",
    "MiniTransformerError",
    "Output",
    "Pretrained",
    "Row",
    "Tokenizer",
    "Transformer",
    "TransformerConfig",
    "build",
    "capture",
    "finetune",
    "generate",
    "load",
    "parity",
    "vaswani2017",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
