"""The files of sentence-transformers beside a checkpoint, which say how token vectors become one vector.

    modules.json                        the steps, in order, each with its type and its folder
    1_Pooling/config.json               which poolings
    2_Dense/config.json, model.safetensors
    3_Normalize/                        no number in it
    sentence_bert_config.json           how long a text may be
    config_sentence_transformers.json   what is put before a text

Old and new versions name the types and fields differently; both are read. What is not implemented is refused by name.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import normalizers
from torch import Tensor

from minitransformer.errors import ConfigError, InputError, MismatchError, UnsafeFileError
from minitransformer.storage import open_checkpoint, read_json, save_tensors
from minitransformer.storage.files import MAX_JSON_BYTES, open_regular, quote
from minitransformer.storage.resolve import PLAIN_NAME
from minitransformer.tasks.embed import ACTIVATIONS, POOLING, Dense, Embedder, normalize
from minitransformer.text import Tokenizer

MODULES = "modules.json"
PROMPTS = "config_sentence_transformers.json"
KINDS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
LIMITS = [f"sentence_{kind}_config.json" for kind in KINDS]  # the first that is there counts
OLD_POOLING = {  # in the order in which several are put side by side
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
ONE_VECTOR = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}


@dataclass(frozen=True)
class SentenceFolder:
    """What the files say, and the files themselves, to be written again."""

    embedder: Embedder
    lowers_case: bool  # texts are to be brought to lower case before all else
    documents: Mapping[str, Any]  # the JSON by path
    tensors: Mapping[str, Mapping[str, Tensor]]

    def write(self, folder: Path) -> None:
        """Write all files as they were read."""
        for path in [*self.documents, *self.tensors]:
            (folder / path).parent.mkdir(exist_ok=True)
        for path, value in self.documents.items():
            (folder / path).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        for path, tensors in self.tensors.items():
            save_tensors(tensors, folder / path)


def read_sentence_folder(folder: Path, width: int) -> SentenceFolder | ConfigError | None:
    """The files in `folder`; None where there is no modules.json. `width`: of a token's vector, D.

    Where they ask for what is not implemented, the error is given, not raised: the model is of use without them.
    """
    try:
        return _read(folder, width) if os.path.lexists(folder / MODULES) else None
    except ConfigError as error:
        return error


def _read(folder: Path, width: int) -> SentenceFolder:
    modules = _read_modules(folder)
    documents: dict[str, Any] = {MODULES: modules}
    tensors: dict[str, dict[str, Tensor]] = {}

    def read(path: str, *, needed: bool = False) -> dict[str, Any]:
        if os.path.lexists(folder / path):
            documents[path] = read_json(folder / path)
        elif needed:
            raise ConfigError(f"{folder / path} is missing, and {MODULES} speaks of it; download it")
        return documents.get(path, {})

    (_, path), *rest = _kinds_and_paths(folder, modules)
    pooling, pools_prompt = _pooling(f"{path}/config.json", read(f"{path}/config.json", needed=True), width)
    width *= len(pooling)
    steps: list[Callable[[Tensor], Tensor]] = []
    for kind, path in rest:
        raw = read(f"{path}/config.json", needed=kind == "Dense")
        if kind == "Normalize":
            _only(f"{path}/config.json", raw, ONE_VECTOR)
            steps.append(normalize)
        else:
            tensors[f"{path}/model.safetensors"] = _tensors(folder / path)
            steps.append(_dense(path, raw, tensors[f"{path}/model.safetensors"], width))
            width = raw["out_features"]
    limits = next((name for name in LIMITS if os.path.lexists(folder / name)), LIMITS[0])
    max_length, lowers_case = _limits(limits, read(limits))
    prompts, default = _prompts(read(PROMPTS))
    embedder = Embedder(
        pooling=pooling,
        steps=tuple(steps),
        pools_prompt=pools_prompt,
        max_length=max_length,
        prompts=prompts,
        default_prompt=default,
    )
    return SentenceFolder(embedder, lowers_case, documents, tensors)


def embedder_of(files: SentenceFolder | ConfigError | None, pooling: str | None) -> Embedder:
    """What a folder says, the error where it cannot be read or, where it says nothing, the pooling that was chosen."""
    if isinstance(files, ConfigError):
        raise files
    if files is not None:
        if pooling is not None:
            raise InputError(f"pooling: got {pooling!r}, but the model's own {MODULES} says what it is; leave it out")
        return files.embedder
    if pooling not in POOLING:
        problem = f"pooling: got {pooling!r}" if pooling is not None else f"embed: this model has no {MODULES}"
        raise InputError(f"{problem}; choose how: embed(texts, pooling='mean'), or another of {', '.join(POOLING)}")
    return Embedder(pooling=(pooling,))


def lower_case(tokenizer: Tokenizer) -> None:
    """Have texts brought to lower case before all else."""
    backend = tokenizer.backend
    if not isinstance(backend, tokenizers.Tokenizer):
        raise ConfigError(f"{LIMITS[0]}: do_lower_case is not supported for this kind of tokenizer")
    own = backend.normalizer
    steps = [] if own is None else [own]
    if isinstance(own, normalizers.Sequence):
        steps = [own[i] for i in range(len(own))]
    if not any(isinstance(step, normalizers.Lowercase) for step in steps):
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])


def _read_modules(folder: Path) -> list[Any]:
    """The list in modules.json."""
    with open_regular(folder / MODULES) as file:
        data = file.read(MAX_JSON_BYTES)
    try:
        modules = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{folder / MODULES}: not JSON ({error}); download the file again") from None
    if not isinstance(modules, list):
        raise ConfigError(f"{folder / MODULES}: got {quote(modules)}, expected a list of modules")
    return modules


def _kinds_and_paths(folder: Path, modules: list[Any]) -> list[tuple[str, str]]:
    """What follows the transformer: (kind, folder), a pooling first. Each folder is one inside `folder`."""
    found = []
    for module in modules:
        path, type_ = (module.get("path"), module.get("type")) if isinstance(module, dict) else (None, None)
        if not isinstance(path, str) or not isinstance(type_, str):
            raise ConfigError(f"{MODULES}: got {quote(module)}, expected a module's type and path")
        if path and not (PLAIN_NAME.fullmatch(path) and (folder / path).resolve().is_relative_to(folder.resolve())):
            raise UnsafeFileError(f"{MODULES}: path: got {quote(path)}, expected the name of a folder beside it")
        package, _, kind = type_.rpartition(".")
        known = package.startswith("sentence_transformers.") and kind in (
            "Transformer",
            "Pooling",
            "Dense",
            "Normalize",
        )
        if not known:
            raise ConfigError(f"{MODULES}: a module of type {quote(type_)} is not supported; it was not imported")
        found.append((kind, path))
    kinds = [kind for kind, _ in found]
    if kinds[:2] != ["Transformer", "Pooling"] or {"Transformer", "Pooling"} & set(kinds[2:]) or found[0][1] != "":
        raise ConfigError(
            f"{MODULES}: got {quote(found)}, expected a Transformer with the path '', a Pooling, "
            f"then any of Dense and Normalize"
        )
    return found[1:]


def _only(path: str, raw: Mapping[str, Any], expected: Mapping[str, Any], free: tuple[str, ...] = ()) -> None:
    """Refuse fields that say anything but what is expected, or nothing at all; those in `free` are read elsewhere."""
    for name, value in raw.items():
        if name not in free and value not in (None, False, "", [], {}) and value != expected.get(name):
            raise ConfigError(f"{path}: {quote(name)}: {quote(value)} is not supported")


def _pooling(path: str, raw: Mapping[str, Any], width: int) -> tuple[tuple[str, ...], bool]:
    """The names of the poolings, and whether the tokens of a prompt are pooled."""
    widths = ("embedding_dimension", "word_embedding_dimension")
    _only(path, raw, dict.fromkeys(widths, width), ("pooling_mode", "include_prompt", *OLD_POOLING.values()))
    flags = {field: raw.get(field, field == "include_prompt") for field in ("include_prompt", *OLD_POOLING.values())}
    for field, value in flags.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{path}: {field}: got {quote(value)}, expected true or false")
    named = raw.get("pooling_mode", [name for name, field in OLD_POOLING.items() if flags[field]] or "mean")
    names = named if isinstance(named, list) else [named]
    if not names or not all(isinstance(name, str) and name in POOLING for name in names):
        raise ConfigError(f"{path}: pooling_mode: got {quote(named)}, expected some of {', '.join(POOLING)}")
    return tuple(names), flags["include_prompt"]


def _tensors(folder: Path) -> dict[str, Tensor]:
    with open_checkpoint(folder) as weights:
        return {name: weights.read(name) for name in weights.infos}


def _dense(path: str, raw: Mapping[str, Any], tensors: Mapping[str, Tensor], width: int) -> Dense:
    """The dense layer in a folder, for vectors of this width."""
    _only(f"{path}/config.json", raw, ONE_VECTOR, ("in_features", "out_features", "bias", "activation_function"))
    activation = raw.get("activation_function", "torch.nn.modules.activation.Tanh")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ConfigError(
            f"{path}/config.json: activation_function: {quote(activation)} is not supported and was not imported; "
            f"expected one of {', '.join(ACTIVATIONS)}"
        )
    rows = raw.get("out_features")
    expected: dict[str, tuple[Any, ...]] = {"linear.weight": (rows, raw.get("in_features"))}
    if raw.get("bias", True):
        expected["linear.bias"] = (rows,)
    shapes = {name: tuple(x.shape) for name, x in tensors.items()}
    if shapes != expected or raw.get("in_features") != width:
        raise MismatchError(f"{path}: got tensors {shapes}, expected {expected} for vectors of width {width}")
    return Dense(tensors["linear.weight"], tensors.get("linear.bias"), activation)


def _limits(path: str, raw: Mapping[str, Any]) -> tuple[int | None, bool]:
    """The tokens kept of each text, None for as many as the model takes; and whether texts become lower case."""
    usual = {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        "module_output_name": "token_embeddings",
    }
    _only(path, raw, usual, ("max_seq_length", "do_lower_case", "unpad_inputs"))
    limit, lowers_case = raw.get("max_seq_length"), raw.get("do_lower_case", False)
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ConfigError(f"{path}: max_seq_length: got {quote(limit)}, expected a number from 1 up")
    if not isinstance(lowers_case, bool):
        raise ConfigError(f"{path}: do_lower_case: got {quote(lowers_case)}, expected true or false")
    return limit, lowers_case


def _prompts(raw: Mapping[str, Any]) -> tuple[dict[str, str], str | None]:
    """Prompts by name, and the name of the one that is used unasked."""
    if raw.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        raise ConfigError(f"{PROMPTS}: model_type: {quote(raw['model_type'])} is not supported")
    prompts, default = raw.get("prompts") or {}, raw.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str | None) for prompt in prompts.values()):
        raise ConfigError(f"{PROMPTS}: prompts: got {quote(prompts)}, expected texts by name")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        raise ConfigError(f"{PROMPTS}: default_prompt_name: got {quote(default)}, expected the name of a prompt")
    return {name: prompt or "" for name, prompt in prompts.items()}, default
