"""The operations as a kernel of Hugging Face's hub: loaded without pauca, they give the same bits."""

import ast
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pauca import cli
from pauca.errors import InputError
from pauca.moe import ops
from pauca.moe.ops.hub import lay_out_kernel

VARIANTS = ("torch-cpu", "torch-cuda")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "pauca-moe"
    lay_out_kernel(folder)
    return folder


def loaded(variant: Path):
    """As the library loads it: by its path, under the name that its metadata give it."""
    name = json.loads((variant / "metadata.json").read_text())["id"]
    spec = importlib.util.spec_from_file_location(name, variant / "__init__.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def same(found, expected) -> bool:
    if isinstance(expected, torch.Tensor):
        return torch.equal(found, expected)
    return all(same(part, getattr(expected, name)) for name, part in vars(found).items() if hasattr(part, "dtype"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_kernel_gives_the_same_bits(folder, variant):
    kernel = loaded(folder / "build" / variant)
    assert set(ops.__all__) <= set(dir(kernel))
    x = torch.randn(48, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    index, offsets = torch.tensor([3, -1, 5] * 16, dtype=torch.int32), torch.tensor([16, 48], dtype=torch.int32)
    found, expected = kernel.quantize_mxfp4(x), ops.quantize_mxfp4(x)
    assert type(found) is not type(expected)
    assert same(found, expected)
    assert same(
        kernel.gather_mxfp4_to_fp8_columns(found, index, offsets),
        ops.gather_mxfp4_to_fp8_columns(expected, index, offsets),
    )
    probability = torch.rand(48)
    assert same(kernel.swiglu(x, probability), ops.swiglu(x, probability))
    with pytest.raises(kernel.errors.InputError, match="32"):
        kernel.quantize_mxfp4(x[:, :48].contiguous())


def test_its_card_runs(folder, monkeypatch):
    """Without the library, whose loader takes a path."""
    library = ModuleType("kernels")
    library.get_local_kernel = lambda path: loaded(folder.parent / path / "build" / "torch-cpu")
    monkeypatch.setitem(sys.modules, "kernels", library)
    shown = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    found = {}
    exec(shown, found)
    assert isinstance(found["rows"], found["ops"].Fp8Tensor)
    assert 'get_local_kernel(Path("pauca-moe"))' in shown


def test_its_triton_kernels_are_there(folder):
    pytest.importorskip("triton")
    kernel = loaded(folder / "build" / "torch-cuda")
    kernels = importlib.import_module(f"{kernel.__name__}.kernels")
    assert set(importlib.import_module("pauca.moe.ops.kernels").__all__) == set(kernels.__all__)
    assert kernels.combine.__module__.startswith(kernel.__name__)


def test_it_imports_nothing_but_python_torch_and_triton(folder):
    sources = [*folder.rglob("*.py")]
    assert len(sources) > 3 * 20
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                assert name.split(".")[0] in sys.stdlib_module_names | {"torch", "triton"}, (path, name)


def test_the_library_itself_loads_it(folder):
    library = pytest.importorskip("kernels")
    rust = importlib.import_module("kernels._rust")
    assert len(rust.Build.open(folder).general.backends) == 2
    kernel = library.get_local_kernel(folder)
    assert same(kernel.quantize_fp8_rowwise(torch.ones(16, 32)), ops.quantize_fp8_rowwise(torch.ones(16, 32)))


def test_only_a_kernel_is_replaced(folder, tmp_path, capsys):
    with pytest.raises(InputError, match="exists already"):
        lay_out_kernel(folder)
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    lay_out_kernel(folder, force=True)
    assert sorted(path.relative_to(folder) for path in folder.rglob("*") if "__pycache__" not in str(path)) == [
        path for path in before if "__pycache__" not in str(path)
    ]
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        lay_out_kernel(tmp_path, force=True)
    (tmp_path / "build.toml").write_text('[general]\nname = "mine"\n')
    with pytest.raises(InputError, match="exists already"):
        lay_out_kernel(tmp_path, force=True)
    (tmp_path / "build.toml").unlink()
    assert cli.main(["moe", "kernel", "--out", str(tmp_path / "new")]) == 0
    assert "kernels.get_local_kernel" in capsys.readouterr().out
    assert (tmp_path / "new" / "README.md").read_text().startswith("---\nlibrary_name: kernels")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letters.txt", "new"]


def test_a_kernel_is_replaced_where_one_stands_in_it(folder, monkeypatch):
    monkeypatch.chdir(folder)
    lay_out_kernel(Path(), force=True)
    assert (folder / "build.toml").exists()
