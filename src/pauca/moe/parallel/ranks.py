"""The ranks that share a model's experts, and what they must agree on before they start."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from pauca.errors import ConfigError, PaucaError
from pauca.moe.parallel.exchange import peers_answer
from pauca.runs.processes import first_line

Found = TypeVar("Found")
DIMENSION = "ep"
"""Name of the mesh dimension along which ranks divide the experts."""


class Ranks:
    """A mesh, and this rank's place in it."""

    def __init__(self, mesh: DeviceMesh) -> None:
        if DIMENSION not in (mesh.mesh_dim_names or ()):
            raise ConfigError(f"the mesh needs a dimension named {DIMENSION!r}, got {mesh.mesh_dim_names}")
        self.mesh = mesh
        self.names = cast(tuple[str, ...], mesh.mesh_dim_names)
        self.experts_mesh = mesh[DIMENSION]
        self.group: dist.ProcessGroup = self.experts_mesh.get_group()
        self.count = self.experts_mesh.size()
        self.place = self.experts_mesh.get_local_rank()
        self._parts: dict[str, DeviceMesh] = {}

    def __deepcopy__(self, memo: dict) -> "Ranks":
        return self  # process groups cannot be copied, and a copied model belongs to the same ranks

    @cached_property
    def group_of_cpus(self) -> dist.ProcessGroup:
        """The ranks that divide the experts, for tensors of CPUs; all of them must ask for it together at first."""
        if torch.device("cpu") in self.group._device_types:
            return self.group
        ranks = dist.get_process_group_ranks(self.group)
        with peers_answer("joining by gloo"):
            return cast(dist.ProcessGroup, dist.new_group(ranks, backend="gloo", use_local_synchronization=True))

    def sum(self, tensor: Tensor, over: tuple[str, ...] | None = None) -> None:
        """In place, over some dimensions of the mesh, or all."""
        with peers_answer("summing over ranks"):
            for name in self.names if over is None else over:
                dist.all_reduce(tensor, group=self.mesh[name].get_group())

    @property
    def replicas(self) -> tuple[str, ...]:
        """The dimensions along which ranks hold the same experts."""
        return tuple(name for name in self.names if name != DIMENSION)

    def mesh_of_parts(self, over: str) -> DeviceMesh | None:
        """A mesh for experts that are divided along "ep", and each rank's once more `over` another dimension.

        Its first dimension is the outer one of the division. None where the mesh has more than these two.
        """
        if over not in self.replicas or self.mesh.ndim != 2:
            return None
        if over not in self._parts:
            groups = [self.mesh[name].get_group() for name in (DIMENSION, over)]  # no new ones: nobody must wait
            ranks = self.mesh.mesh if self.names[0] == DIMENSION else self.mesh.mesh.t().contiguous()
            self._parts[over] = DeviceMesh.from_group(
                groups, self.mesh.device_type, mesh=ranks, mesh_dim_names=(DIMENSION, over)
            )
        return self._parts[over]

    def require_the_same(self, what: dict[str, object]) -> None:
        """Compare code and `what` with all ranks.

        Raises:
            PaucaError: ranks that differ, with the first difference, or that do not answer in time.
        """
        ours: dict[str, object] = {"torch": torch.__version__, "code": code_digest()} | what
        found: list[str | None] = []
        with peers_answer("comparing layers"):
            for name in self.names:
                found += [_difference(ours, other, place) for place, other in self._gather(name, ours)]
        first = self._first_told(next(filter(None, found), None))
        if first:
            raise PaucaError(f"expert parallelism: {first}; start all ranks with the same code, configuration and seed")

    def all_or_none(self, work: Callable[[], Found]) -> Found:
        """What `work` gives on this rank, once it is done on all: none goes on, or waits, where it failed on one.

        Raises:
            Exception: that of this rank's work.
            PaucaError: that of another rank's, in its words.
        """
        try:
            found = work()
        except Exception as error:
            with suppress(PaucaError):  # others may have stopped: that says less than this
                self._first_told(f"rank {dist.get_rank()} failed: {first_line(error)}")
            raise
        if told := self._first_told(None):
            raise PaucaError(f"expert parallelism: {told}; all ranks stop with it, and nothing is changed")
        return found

    def _first_told(self, ours: str | None) -> str | None:
        """What the first rank of the whole mesh that has something to say says; one that has says its own."""
        with peers_answer("comparing layers"):
            for name in self.names:  # along each dimension what was heard along those before
                told = self._gather(name, ours)
                ours = ours or next((text for _, text in told if text), None)
        return ours

    def _gather(self, name: str, ours: object) -> list[tuple[int, Any]]:
        """What each rank along a dimension has, beside the rank."""
        group = self.mesh[name].get_group()
        theirs: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(theirs, ours, group=group)
        return [(dist.get_global_rank(group, place), other) for place, other in enumerate(theirs)]


def _difference(ours: dict[str, object], other: dict[str, object], rank: int) -> str | None:
    """The first one, in words."""
    for name in [*ours, *(other.keys() - ours.keys())]:
        if ours.get(name) != other.get(name):
            return f"rank {rank} has {name}: {other.get(name)} where rank {dist.get_rank()} has {ours.get(name)}"
    return None


@cache
def code_digest(folder: Path = Path(__file__).parents[1]) -> str:
    """A digest of the sources of `pauca.moe`, which must be the same on all hosts."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
