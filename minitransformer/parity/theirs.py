"""transformers' side: its model for a checkpoint, read from disk, and its numbers by place."""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from posixpath import commonpath
from typing import Any

import torch
from torch import Tensor, nn

from minitransformer.checkpoint import Plan, make_plan
from minitransformer.errors import DependencyError, MismatchError
from minitransformer.families import Alias
from minitransformer.model import Transformer, build
from minitransformer.pretrained import Pretrained

# What a config.json may say about the form of the output, without changing a number in it.
OUTPUT = {"return_dict": True, "output_attentions": False, "use_cache": False}


def import_transformers() -> Any:
    """The library, or one line that says how to get it."""
    try:
        with warnings.catch_warnings(action="ignore"):
            import transformers
    except ImportError as error:
        raise DependencyError(
            f"parity compares with transformers, which is not installed ({error}); pip install 'minitransformer[demo]'"
        ) from None
    return transformers


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Within the `with`, transformers prints no warnings and no progress bars; then its settings are as before."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars

    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_bars = not are_progress_bars_disabled()
    with warnings.catch_warnings(action="ignore"):
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()  # and the hub's with them
            if bars and not hub_bars:
                disable_progress_bars()


@dataclass(frozen=True)
class Theirs:
    """transformers' model, and which of its tensors is which of ours."""

    model: Any
    blank: Transformer  # ours as its config says, without numbers: the loaded one may have been changed
    plan: Plan
    names: Mapping[str, str]  # a tensor's name in a file -> in transformers' model

    def state(self) -> dict[str, Tensor]:
        """Its tensors, by their names in a file."""
        state = self.model.state_dict()
        return {file: state[name] for file, name in self.names.items()}

    def weights(self) -> dict[str, Tensor]:
        """Its weights under our names, in our layout; what has two names is there twice."""
        state = self.state()
        lacking = [entry.ours[0] for entry in self.plan.entries if entry.file not in state]
        if lacking:
            raise MismatchError(f"{_some(lacking)}: transformers' model has no such weights; is it the same model?")
        weights = {name: x for entry in self.plan.entries for name, x in entry.read(state[entry.file]).items()}
        first: dict[int, str] = {}
        for name, x in self.blank.state_dict(keep_vars=True).items():
            weights[name] = weights[first.setdefault(id(x), name)]
        return weights

    def module(self, ours: str) -> Any:
        """Its module that holds what our module of that name holds."""
        entries = [entry for entry in self.plan.entries if any(name.startswith(f"{ours}.") for name in entry.ours)]
        names = [self.names[entry.file].rpartition(".")[0] for entry in entries]
        path = commonpath([name.replace(".", "/") for name in names]).replace("/", ".")
        while isinstance(self.model.get_submodule(path), nn.ModuleList):  # which computes nothing itself
            path = path.rpartition(".")[0]
        return self.model.get_submodule(path)


def load_theirs(transformers: Any, model: Pretrained, folder: Path, raw: Mapping[str, Any], *, own: bool) -> Theirs:
    """transformers' model of the same class, from the files in `folder` and the config `raw`, in float32.

    `own`: they are the files that ours came from, so that what was good enough for it, pickle, is for transformers.
    """
    config = model.transformer.config
    name = model.family.class_of(config)
    cls = getattr(transformers, name, None)
    if cls is None:
        raise DependencyError(f"transformers {transformers.__version__} has no class {name}; try a newer version")
    try:
        with torch.random.fork_rng(devices=[]):  # it draws first values for what the file has not
            theirs, found = cls.from_pretrained(
                folder,
                config=cls.config_class.from_dict({**raw, **OUTPUT}),
                attn_implementation="eager",
                dtype=next(model.parameters()).dtype,
                local_files_only=True,
                use_safetensors=None if own else True,
                output_loading_info=True,
            )
    except Exception as error:  # whatever it does not like about the files: they come from outside
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MismatchError(f"{folder}: transformers cannot load it as {name}: {reason}") from error
    blank = build(config, device="meta")
    plan = make_plan(model.family, blank, prefix="" if config.head is None else model.family.prefix_of(config.task))
    aliases = [rule for rule in model.family.rules(config) if isinstance(rule, Alias)]
    names = {_in_file(name, aliases): name for name in theirs.state_dict()}
    both = Theirs(theirs.float().eval(), blank, plan, names)
    _copy_fresh(model, both)
    missing = {_in_file(file, aliases) for file in found["missing_keys"]}
    drawn = {plan.files[file].ours[0] for file in missing if file in plan.files} - set(model.report.fresh)
    if drawn:
        raise MismatchError(f"{folder}: transformers finds no weights for {_some(drawn)}; nothing to compare")
    parameters = {_in_file(name, aliases) for name, _ in theirs.named_parameters()}
    extra = {name for name in parameters - plan.files.keys() - plan.ties.keys() if not plan.why_ignored(name)}
    if extra:
        raise MismatchError(f"{_some(extra)}: transformers' model has such weights, ours not; is it the same model?")
    return both


def _copy_fresh(model: Pretrained, theirs: Theirs) -> None:
    """What the file has not, both would draw at random: give transformers ours."""
    ours, state = model.transformer.state_dict(), theirs.state()
    for entry in theirs.plan.entries:
        if entry.ours[0] in model.report.fresh:
            state[entry.file].copy_(entry.write(ours))


def _in_file(name: str, aliases: Iterable[Alias]) -> str:
    """The name in a file, today, of a tensor that transformers' model may call otherwise."""
    for alias in aliases:
        name = re.sub(alias.pattern, alias.replacement, name)
    return name


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
