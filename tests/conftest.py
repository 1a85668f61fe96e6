"""Shared test setup: shapes and types are checked at run time, real data is found or its absence is said."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from jaxtyping import install_import_hook

# One thread a test process: the suite runs in parallel (xdist), and torch would oversubscribe the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")


def _checked_modules() -> list[str]:
    """All modules but kernels, which numba and Triton compile from their own source, and the faces of packages."""
    source = Path(__file__).resolve().parent.parent / "src"
    files = [path.relative_to(source).with_suffix("") for path in (source / "pauca").rglob("*.py")]
    return [".".join(file.parts) for file in files if "kernels" not in file.parts and file.name != "__init__"]


install_import_hook(_checked_modules(), "beartype.beartype")

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# The time of an example says what else the machine does, and that kernels compile in the first one. All else stays as
# the profile has it that Hypothesis chose: under `CI` the same examples in every run.
settings.register_profile(
    "unhurried",
    settings.get_profile(settings.get_current_profile_name()),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("unhurried")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def pauca_data() -> Path:
    """The folder of real recordings, images and text (environment variable PAUCA_DATA)."""
    folder = Path(os.environ.get("PAUCA_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}: set PAUCA_DATA to the folder that holds it")
    return folder


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory of torch holds 0xA5, so that whatever a kernel leaves unwritten shows."""
    import torch

    empty = torch.empty

    def poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
        tensor = empty(*args, **kwargs)
        tensor.view(torch.uint8).fill_(0xA5)
        return tensor

    monkeypatch.setattr(torch, "empty", poisoned)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where there is no GPU, saying so."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU, and this machine has none"))


Together = Callable[..., list[Any]]


def _rank(rank: int, world: int, folder: Path, timeout_s: float, work: Callable[..., Any], arguments: tuple) -> None:
    import torch
    from torch import distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=timeout_s),
    )
    dist.barrier()  # a rank with nothing to do would leave while the others are still connecting to it
    torch.save(work(rank, *arguments), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Together:
    """`together(work, world, *arguments)`: what `work(rank, *arguments)` returns on each rank, or on one."""

    def run(
        work: Callable[..., Any], world: int, *arguments: Any, timeout_s: float = 60, only: int | None = None
    ) -> list[Any]:
        import torch
        import torch.multiprocessing as mp

        folder = tmp_path_factory.mktemp("together")
        mp.start_processes(_rank, (world, folder, timeout_s, work, arguments), nprocs=world, start_method="fork")
        ranks = range(world) if only is None else [only]
        return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in ranks]

    return run
