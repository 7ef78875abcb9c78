"""Several processes with one model: each computes its share of every batch, and the gradients are put together.

    torchrun --nproc-per-node 2 -m minitransformer finetune ...

torchrun starts the processes and tells each its rank, in environment variables. Where there is one process, `World` is
of size 1 and nothing here does anything.
"""

import math
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from minitransformer.errors import MiniTransformerError
from minitransformer.finetune.sharded import is_sharded

LOST = re.compile("Connection (closed|reset) by peer")
RUNS = count()  # those of this process: each needs names of its own in the store that all processes share


@dataclass(frozen=True)
class World:
    """Which of how many processes this is."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0


def world() -> World:
    """The place of this process among those that joined."""
    return World(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else World()


def own_device() -> torch.device:
    """Where this process computes: its own GPU, where there are any."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


@contextmanager
def joined() -> Iterator[World]:
    """Inside, the processes that torchrun has started know each other: over NCCL on GPUs, else over gloo.

    Where they fail, the first to do so says why, and the others end without a word: most often they would say the same,
    or that the first one is gone.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or dist.is_initialized():
        yield world()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, size = next(rendezvous("env://"))
    store = PrefixStore(f"run-{next(RUNS)}", store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # returns a view; nobody writes into it
            if rank:
                warnings.simplefilter("ignore")
            yield world()
    except Exception as error:
        if store.add("failed", 1) > 1:
            time.sleep(1)  # torchrun ends all processes once one has ended, and the first to fail is still talking
            raise SystemExit(1) from None
        if LOST.search(str(error)):
            raise MiniTransformerError("another process of this run has ended; torchrun tells which, and how") from None
        raise
    finally:
        dist.destroy_process_group()


def share(batch: Mapping[str, Tensor], rows: int) -> list[tuple[dict[str, Tensor], float]]:
    """The parts of a batch for this process, so many rows at a time, and how much each part counts.

    All processes get as many parts, since they work together in each: one that has no rows left gets one that counts 0.
    """
    here, size = world(), len(next(iter(batch.values())))
    mine = {name: x[here.rank :: here.size] for name, x in batch.items()}
    parts = [
        ({name: x[i : i + rows] for name, x in mine.items()}, 1.0)
        for i in range(0, len(range(here.rank, size, here.size)), rows)
    ]
    most = math.ceil(math.ceil(size / here.size) / rows)  # those of the first process
    nothing = ({name: x[:1] for name, x in batch.items()}, 0.0)
    return parts + [nothing] * (most - len(parts))


def parallel(module: nn.Module) -> nn.Module:
    """The module, with gradients averaged over the processes in the last backward pass of a step."""
    if world().size == 1 or is_sharded(module):
        return module
    return DistributedDataParallel(module, find_unused_parameters=True)


def without_averaging(module: nn.Module) -> AbstractContextManager[Any]:
    """Inside, gradients only add up in this process: for all but the last part of a step.

    Not those of a sharded model: a process keeps its share of them alone, the average, which adds up as well.
    """
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def summed(x: Tensor) -> Tensor:
    """The sum of this number over the processes."""
    if world().size > 1:
        dist.all_reduce(x)
    return x


def anyone(flag: bool) -> bool:
    """Whether it is so in any process: all of them stop at the same step."""
    return bool(summed(torch.tensor(int(flag))).item())


def gathered(value: Any) -> list[Any]:
    """Each process's value, by rank."""
    here = world()
    values: list[Any] = [value] * here.size
    if here.size > 1:
        dist.all_gather_object(values, value)
    return values


def of_first(value: Any) -> Any:
    """The first process's value, for all of them: so that they decide alike."""
    values = [value]
    if world().size > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def wait() -> None:
    """Until all processes are here."""
    if world().size > 1:
        dist.barrier()
