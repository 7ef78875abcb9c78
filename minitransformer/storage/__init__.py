"""The only place that touches disk or network for checkpoints: names, folders, safetensors, atomic saves, the hub.

It knows files and tensors by name, nothing of models. Importing it imports neither torch nor huggingface_hub.
"""

from minitransformer.storage.atomic import atomic_folder
from minitransformer.storage.files import read_json
from minitransformer.storage.headers import TensorInfo, read_header
from minitransformer.storage.hub import download
from minitransformer.storage.resolve import resolve
from minitransformer.storage.weights import Weights, open_checkpoint, open_tensors, save_tensors

__all__ = [
    "TensorInfo",
    "Weights",
    "atomic_folder",
    "download",
    "open_checkpoint",
    "open_tensors",
    "read_header",
    "read_json",
    "resolve",
    "save_tensors",
]
