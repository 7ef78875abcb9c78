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
    from minitransformer import lens
    from minitransformer.config import TransformerConfig, vaswani2017
    from minitransformer.errors import MiniTransformerError
    from minitransformer.finetune.check.inspect import inspect_rows
    from minitransformer.finetune.evaluate import evaluate
    from minitransformer.finetune.many.compare import compare
    from minitransformer.finetune.many.find_rate import find_rate
    from minitransformer.finetune.many.search import search
    from minitransformer.finetune.many.seeds import run_seeds
    from minitransformer.finetune.recipe import Recipe
    from minitransformer.finetune.ship.export import export
    from minitransformer.finetune.ship.merge import merge
    from minitransformer.generation import GenerationConfig, generate
    from minitransformer.lens import views
    from minitransformer.lessons import check, hint, progress, solution
    from minitransformer.loading import load
    from minitransformer.model import Output, Transformer, build, capture, hooks
    from minitransformer.modules import KVCache
    from minitransformer.pretrained import Pretrained
    from minitransformer.tasks import Row
    from minitransformer.text import Batch, Tokenizer

__version__ = "0.1.0"

_HOMES = {
    "TransformerConfig": "config",
    "vaswani2017": "config",
    "MiniTransformerError": "errors",
    "compare": "finetune.many.compare",
    "evaluate": "finetune.evaluate",
    "export": "finetune.ship.export",
    "inspect_rows": "finetune.check.inspect",
    "merge": "finetune.ship.merge",
    "find_rate": "finetune.many.find_rate",
    "run_seeds": "finetune.many.seeds",
    "search": "finetune.many.search",
    "Recipe": "finetune.recipe",
    "GenerationConfig": "generation",
    "generate": "generation",
    "Output": "model",
    "Transformer": "model",
    "build": "model",
    "capture": "model",
    "hooks": "model",
    "check": "lessons",
    "hint": "lessons",
    "progress": "lessons",
    "solution": "lessons",
    "KVCache": "modules",
    "Pretrained": "pretrained",
    "load": "loading",
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
    "Recipe",
    "Row",
    "Tokenizer",
    "Transformer",
    "TransformerConfig",
    "build",
    "capture",
    "check",
    "compare",
    "evaluate",
    "export",
    "find_rate",
    "finetune",
    "generate",
    "hint",
    "hooks",
    "inspect_rows",
    "lens",
    "load",
    "merge",
    "parity",
    "progress",
    "run_seeds",
    "search",
    "solution",
    "vaswani2017",
    "views",
]


_FOLDERS = {"lens": "lens", "views": "lens.views"}


def __getattr__(name: str) -> Any:
    if name in _FOLDERS:
        return import_module(f"{__name__}.{_FOLDERS[name]}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
