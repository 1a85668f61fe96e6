"""The operations as a kernel of Hugging Face's hub: a folder that its library `kernels` loads, without pauca.

Such a kernel is a package of its own that imports nothing but Python, torch and Triton, itself by relative imports
alone: so it is loaded from anywhere, and several versions of it in one process. What is written here is the source of
`pauca.moe.ops` with its imports turned so, `pauca.errors` beside it, and a stand-in for jaxtyping, whose annotations
say shapes and are not checked there.

Sources: the requirements of kernels and the format of build.toml in the documentation of `kernels` 0.17.
"""

import hashlib
import json
import re
import shutil
from pathlib import Path
from textwrap import dedent
from uuid import uuid4

import pauca.errors
from pauca.errors import InputError, PaucaError

NAME, VERSION, LICENSE = "pauca-moe", 1, "Apache-2.0"
BACKENDS = ("cpu", "cuda")
HERE = Path(__file__).parent

_STAND_IN = '''\
"""Annotations that say a tensor's shape and type, as jaxtyping has them, for readers alone."""


class _Shaped:
    def __class_getitem__(cls, item):
        return item[0]


{aliases}
'''


def lay_out_kernel(folder: str | Path, force: bool = False) -> None:
    """Write the operations into a folder as Hugging Face's library `kernels` loads them.

    Args:
        folder: gets build.toml, README.md, the source in torch-ext/ as `kernel-builder` wants it, and in build/ one
            variant for GPUs and one for CPUs, ready to be loaded or uploaded.
        force: replace what is there.

    Raises:
        InputError: there is something already, and `force` is not set.
        PaucaError: the disk refuses; nothing is replaced then.

    Examples:
        >>> lay_out_kernel(Path("pauca-moe"))  # then kernels.get_local_kernel(Path("pauca-moe"))
    """
    folder = Path(folder).resolve()
    if folder.exists() and not _is_ours(folder):
        raise InputError(f"{folder}: exists already, and is no kernel that was written here; choose another folder")
    if folder.exists() and not force:
        raise InputError(
            f"{folder}: exists already; choose another folder, or replace the kernel that was written there by --force "
            "(in Python force=True)"
        )
    source = sources()
    new = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}")
    try:
        _write(new / "torch-ext" / _module(), source)
        for backend in BACKENDS:
            variant = {**source, "metadata.json": _metadata(backend, source)}
            _write(new / "build" / f"torch-{backend}", variant)
        _write(new, {"build.toml": _build_toml(), "README.md": _card()})
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)
    except OSError as error:
        raise PaucaError(f"{folder}: could not be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds what was written here, and not another kernel of the hub."""
    toml = folder / "build.toml"
    return toml.is_file() and f'name = "{NAME}"' in toml.read_text(encoding="utf-8", errors="replace").splitlines()


def sources() -> dict[str, str]:
    """The package's files by their paths in it."""
    own = {path.relative_to(HERE): path for path in sorted(HERE.rglob("*.py")) if path != Path(__file__)}
    found = {str(path): _imports_turned(file.read_text(encoding="utf-8"), path) for path, file in own.items()}
    shapes = sorted({name for file in own.values() for name in _shapes_in(file.read_text(encoding="utf-8"))})
    found["_shapes.py"] = _STAND_IN.format(aliases=" = ".join([*shapes, "_Shaped"]))
    found["errors.py"] = Path(pauca.errors.__file__).read_text(encoding="utf-8")
    return found


def _imports_turned(text: str, path: Path) -> str:
    """A file's text with relative imports."""
    up = "." * len(path.parts)
    text = re.sub(r"^from jaxtyping import", f"from {up}_shapes import", text, flags=re.MULTILINE)
    text = re.sub(r"^from pauca\.errors import", f"from {up}errors import", text, flags=re.MULTILINE)
    return re.sub(
        r"^( *)from pauca\.moe\.ops(?:\.(\w[\w.]*))? import",
        lambda found: f"{found[1]}from {up}{found[2] or ''} import",
        text,
        flags=re.MULTILINE,
    )


def _shapes_in(text: str) -> list[str]:
    return [name.strip() for line in re.findall(r"^from jaxtyping import (.*)$", text, re.MULTILINE)
            for name in line.split(",")]  # fmt: skip


def _module() -> str:
    return NAME.replace("-", "_")


def _metadata(backend: str, source: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()[:8]
    said = {
        "name": NAME,
        "id": f"_{_module()}_{backend}_{digest}",
        "version": VERSION,
        "license": LICENSE,
        "python-depends": [],
        "backend": {"type": backend},
    }
    return json.dumps(said, indent=2) + "\n"


def _build_toml() -> str:
    backends = ", ".join(f'"{backend}"' for backend in BACKENDS)
    return dedent(f"""\
        [general]
        name = "{NAME}"
        version = {VERSION}
        edition = 5
        license = "{LICENSE}"
        backends = [{backends}]

        [torch-noarch]
        """)


def _card() -> str:
    return dedent(f"""\
        ---
        library_name: kernels
        license: {LICENSE.lower()}
        ---

        # {NAME}

        Operations of mixture-of-experts layers that train in few bits, from pauca (`pauca moe kernel`): conversions
        between BF16, FP8 (E4M3) and MXFP4 (E2M1 in blocks of 32), row by row and transposed, gathered or not; gated
        units with their gradients; the weighted sum over experts; RMSNorm; rotary positions. Triton kernels on GPUs of
        compute capability 9.0, plain PyTorch elsewhere. Python 3.11 or later.

        ```python
        from pathlib import Path
        import torch
        from kernels import get_local_kernel  # or get_kernel, from the hub

        ops = get_local_kernel(Path("{NAME}"))
        kept = ops.quantize_mxfp4(torch.randn(64, 256, dtype=torch.bfloat16))
        rows = ops.gather_mxfp4_to_fp8_rows(kept)
        ```
        """)


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
