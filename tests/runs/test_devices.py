import gc

import pytest
import torch

from pauca.errors import ConfigError, DeviceError
from pauca.runs import resolve_device
from pauca.runs.devices import garbage_waits


def test_auto_is_what_the_machine_has():
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == torch.device("cpu")


def test_a_missing_gpu_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="sees no CUDA GPU"):
        resolve_device("cuda")


def test_a_gpu_of_a_number_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(DeviceError, match="cuda:2: this machine has 2 GPUs, counted from 0"):
        resolve_device("cuda:2")


def test_each_rank_of_a_machine_takes_the_gpu_of_its_number(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resolve_device("cuda") == resolve_device("auto") == torch.device("cuda", 1)
    assert taken == [torch.device("cuda", 1)] * 2
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(DeviceError, match="rank 2 of this machine, counted from 0, which has 2 GPUs; start at most 2"):
        resolve_device("cuda")


def test_an_unknown_device_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match="'gpu' is not known; use auto, cpu, cuda or cuda:N"):
        resolve_device("gpu")


def test_garbage_is_collected_before_a_recording_and_not_within():
    died = []

    class Cycle:
        def __init__(self, name: str) -> None:
            self.name, self.itself = name, self

        def __del__(self) -> None:
            died.append(self.name)

    Cycle("before")
    with garbage_waits():
        assert died == ["before"]
        Cycle("within")
        [[] for _ in range(100_000)]  # enough to have it collected by itself
        assert died == ["before"]
    assert gc.isenabled()
    gc.collect()
    assert died == ["before", "within"]
