"""A model alone: what was saved comes back, and what is no model is refused."""

import json
import multiprocessing
import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pauca.errors import InputError, PaucaError
from pauca.moe import LM_SIZES, MoELM, Recipe, RouterConfig
from pauca.moe.training.model_files import load_model, save_model


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_comes_back_from_safetensors(tmp_path, tied):
    config = replace(LM_SIZES["toy"], tied=tied, recipe=Recipe.fp4(), router=RouterConfig(scoring="sigmoid"))
    torch.manual_seed(0)
    model = MoELM(config)
    save_model(str(tmp_path / "model.safetensors"), model.state_dict(), config)
    loaded = load_model(str(tmp_path / "model.safetensors"))
    assert loaded.config == config
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    assert (loaded.head.weight is loaded.embedding.weight) == tied


def _save_with_small_files(path: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing fails with EFBIG, as it does on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    model = MoELM(LM_SIZES["toy"])
    with pytest.raises(PaucaError, match=r"model\.safetensors: could not be written \(.*File too large"):
        save_model(path, model.state_dict(), model.config)


def test_a_model_that_the_disk_refuses_leaves_the_earlier_one(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"earlier")
    process = multiprocessing.get_context("fork").Process(target=_save_with_small_files, args=(path,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_no_model_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        load_model(path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        load_model(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="holds no language model of pauca"):
        load_model(path)
    save_file({"weight": torch.zeros(2)}, path, metadata={"pauca.moe.lm": json.dumps({})})
    with pytest.raises(InputError, match="do not fit the configuration"):
        load_model(path)
