"""transformers' side: its model for a checkpoint, read from disk, and its numbers by place."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minitransformer.checkpoint import Plan, make_plan
from minitransformer.errors import DependencyError, MismatchError
from minitransformer.model import build
from minitransformer.parity.values import Values, head_values
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


def plan_of(model: Pretrained) -> Plan:
    """Which tensor of transformers' model is which of ours."""
    blank = build(model.transformer.config, device="meta")  # ours may have been changed
    prefix = "" if model.transformer.config.task == "base" else model.family.prefix
    return make_plan(model.family, blank, prefix=prefix)


def load_theirs(
    transformers: Any, model: Pretrained, plan: Plan, folder: Path, raw: Mapping[str, Any], *, allow_pickle: bool
) -> Any:
    """transformers' model of the same class, from the files in `folder` and the config `raw`, in float32."""
    name = model.family.classes[model.transformer.config.task]
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
                use_safetensors=None if allow_pickle else True,
                output_loading_info=True,
            )
    except Exception as error:  # whatever it does not like about the files: they come from outside
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MismatchError(f"{folder}: transformers cannot load it as {name}: {reason}") from error
    theirs = theirs.float().eval()
    _copy_fresh(model, plan, theirs)
    drawn = {plan.files[file].ours[0] for file in found["missing_keys"] if file in plan.files} - set(model.report.fresh)
    if drawn:
        raise MismatchError(
            f"{folder}: transformers finds no weights for {', '.join(sorted(drawn))}; nothing to compare"
        )
    return theirs


def _copy_fresh(model: Pretrained, plan: Plan, theirs: Any) -> None:
    """What the file has not, both would draw at random: give transformers ours."""
    ours, state = model.transformer.state_dict(), theirs.state_dict()
    for entry in plan.entries:
        if entry.ours[0] in model.report.fresh:
            state[entry.file].copy_(entry.write(ours))


def weights_of(theirs: Any, plan: Plan) -> dict[str, Tensor]:
    """transformers' weights under our names, in our layout."""
    state = theirs.state_dict()
    lacking = [entry.ours[0] for entry in plan.entries if entry.file not in state]
    if lacking:
        raise MismatchError(f"{', '.join(lacking[:5])}: transformers' model has no such weights; is it the same model?")
    return {name: x for entry in plan.entries for name, x in entry.read(state[entry.file]).items()}


def run_theirs(theirs: Any, batch: Mapping[str, Tensor], final_norm: str | None) -> Values:
    """transformers' numbers, by place. `final_norm`: the name of its last norm, where there is one."""
    seen: dict[str, Any] = {}
    with ExitStack() as undo:
        hook = theirs.base_model.register_forward_hook(lambda _, args, output: seen.update(base=output))
        undo.callback(hook.remove)
        if final_norm is not None:  # its hidden_states do not have what the last block gives to it
            norm = theirs.get_submodule(final_norm)
            hook = norm.register_forward_pre_hook(lambda _, args: seen.update(last_block=args[0]))
            undo.callback(hook.remove)
        output = theirs(**batch, output_hidden_states=True)
    embedding, *blocks = output.hidden_states
    last = blocks[-1]
    blocks[-1] = seen.get("last_block", last)
    pooled = getattr(seen["base"], "pooler_output", None)
    return {
        "embedding": embedding,
        **{f"block {i}": x for i, x in enumerate(blocks)},
        **({"final norm": last} if final_norm else {}),
        **({"pooler": pooled} if pooled is not None else {}),
        **head_values(output),
    }
