"""One model spread over the processes: each keeps a share of every weight, and a block is whole only while it computes.

So a model can train that does not fit into one GPU: its gradients and the optimizer's moments are spread likewise.
Rajbhandari et al. 2020, "ZeRO", stage 3; Zhao et al. 2023, "PyTorch FSDP".
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from minitransformer.errors import ConfigError
from minitransformer.finetune.recipe import Recipe
from minitransformer.model import Transformer
from minitransformer.model.stack import Block


def shard(model: Transformer, device: torch.device, recipe: Recipe) -> None:
    """Spread the weights over the processes, block by block: no GPU ever holds more than its share and one block."""
    if recipe.optimizer == "adafactor":
        raise ConfigError("shard: adafactor needs whole matrices; try adamw or sgd")
    if recipe.compile:
        raise ConfigError("shard: a model whose weights come and go is not compiled; leave out one of the two")
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for weight in model.parameters():
        weight.data = weight.data.contiguous()  # a share is a number of rows; some files keep matrices transposed
    for block in [part for part in model.modules() if isinstance(part, Block)]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)


def is_sharded(module: nn.Module) -> bool:
    """Whether the weights of this module, or of one in it, are spread over the processes."""
    return any(isinstance(part, FSDPModule) for part in module.modules())


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Inside, each process has all weights, and none needs the others: to judge, where no gradients take up memory."""
    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(isinstance(part, Block), recurse=False)


def own_share(x: Tensor) -> Tensor:
    """What of a tensor this process keeps: of one that is not spread, all."""
    return x.to_local() if isinstance(x, DTensor) else x


def spread_as(x: Tensor, pattern: Tensor) -> Tensor:
    """A whole tensor on the pattern's device, spread as that is; a number stays one."""
    if not isinstance(pattern, DTensor) or x.ndim == 0:
        return x.to(pattern.device)
    return distribute_tensor(x, pattern.device_mesh, pattern.placements)


def gradient_norm(weights: Iterable[nn.Parameter]) -> float:
    """The length of the gradient of all weights together."""
    norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()


def clip(weights: Iterable[nn.Parameter], longest: float, norm: float) -> None:
    """Cut the gradient of all weights together, which is so long, to `longest`."""
    nn.utils.clip_grads_with_norm_(weights, longest, torch.tensor(norm, dtype=torch.float64))
