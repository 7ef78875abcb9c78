"""transformers' numbers, by place: read where they enter and leave its modules."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from minitransformer.parity.ours import prefix, sides
from minitransformer.parity.theirs import Theirs
from minitransformer.parity.values import Values, head_values

Seen = dict[str, list[Any]]  # what was read at a place, once for each time that its module computed


def run_theirs(theirs: Theirs, batch: Mapping[str, Tensor]) -> Values:
    """transformers' numbers, by place."""
    seen: Seen = {}
    with ExitStack() as undo:
        _watch_output(undo, theirs.model.base_model, seen, "base")
        for side, stack in sides(theirs.blank).items():
            for i in range(stack.config.layers):
                block = theirs.module(f"{side}.layers.{i}")
                enter = partial(_keep_input, seen, f"{side} in")
                undo.callback(block.register_forward_pre_hook(enter, with_kwargs=True).remove)
                _watch_output(undo, block, seen, f"{side} out")
            for name in ("relative_bias", "final_norm"):
                if getattr(stack, name) is not None:
                    _watch_output(undo, theirs.module(f"{side}.{name}"), seen, f"{side} {name}")
        output = theirs.model(**batch)
    values: Values = {}
    for side in sides(theirs.blank):
        places = _of_stack(seen, side)
        values.update({f"{prefix(side, theirs.blank)}{place}": x for place, x in places.items()})
    pooled = getattr(seen.get("base", [None])[-1], "pooler_output", None)
    return {**values, **({"pooler": pooled} if pooled is not None else {}), **head_values(output)}


def run_theirs_in_double(theirs: Theirs, batch: Mapping[str, Tensor]) -> Values:
    """The same in float64, from now on. The tables that it computes in float32 stay: it has them in no other form."""
    for weight in theirs.model.parameters():
        weight.data = weight.data.double()
    with Unrounded():
        return run_theirs(theirs, {name: x.double() if x.is_floating_point() else x for name, x in batch.items()})


class Unrounded(TorchFunctionMode):
    """Within the `with`, what is float64 stays float64.

    transformers' norms and softmaxes round to float32 on their way, even in a model of float64, which would hide a
    wrong formula that makes a smaller difference. Here this rounding is left out; nothing else changes.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`, and where it is asked to round a float64 tensor, ask it not to."""
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is Tensor.float:
                return args[0]
            args = tuple(torch.float64 if x is torch.float32 else x for x in args)
            kwargs = {name: torch.float64 if x is torch.float32 else x for name, x in kwargs.items()}
        return func(*args, **kwargs)


def _of_stack(seen: Seen, side: str) -> Values:
    """One stack's places, in the order of the computation."""
    args, kwargs = seen[f"{side} in"][0]
    values = {"embedding": args[0] if args else kwargs["hidden_states"]}  # [B T D]
    if kwargs.get("position_embeddings") is not None:
        values["rotary positions"] = torch.cat(kwargs["position_embeddings"], dim=-1)  # [1 T 2E]
    if f"{side} relative_bias" in seen:
        values["relative bias"] = seen[f"{side} relative_bias"][0].permute(2, 0, 1)[None]  # [T S H] -> [1 H T S]
    values.update({f"block {i}": x for i, x in enumerate(seen[f"{side} out"])})
    if f"{side} final_norm" in seen:
        values["final norm"] = seen[f"{side} final_norm"][0]
    return values


def _watch_output(undo: ExitStack, module: Any, seen: Seen, place: str) -> None:
    undo.callback(module.register_forward_hook(partial(_keep_output, seen, place)).remove)


def _keep_input(seen: Seen, place: str, _: Any, args: Any, kwargs: Any) -> None:
    seen.setdefault(place, []).append((args, kwargs))


def _keep_output(seen: Seen, place: str, _: Any, args: Any, output: Any) -> None:
    """Some modules give their numbers alone, some the first of several."""
    seen.setdefault(place, []).append(output[0] if isinstance(output, tuple | list) else output)
