from importlib.metadata import PackageNotFoundError

import pytest

from pauca import doctor


def test_every_group_of_things_is_looked_at():
    checks = doctor.examine()
    assert [*dict.fromkeys(check.group for check in checks)] == [
        "machine",
        "packages",
        "accelerator",
        "systems",
        "data",
    ]
    assert all(check.remedy for check in checks if not check.available)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    def no_torch(name: str) -> str:
        if name == "torch":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor, "version", no_torch)
    torch = next(check for check in doctor.examine() if check.name == "torch")
    assert (torch.available, torch.remedy) == (False, "pip install 'pauca[all]'")


@pytest.mark.parametrize("exists", [True, False])
def test_the_data_folder_is_looked_at(monkeypatch, tmp_path, exists):
    folder = tmp_path if exists else tmp_path / "gone"
    monkeypatch.setenv("PAUCA_DATA", str(folder))
    data = next(check for check in doctor.examine() if check.group == "data")
    assert data.available is exists
    assert str(folder) in data.detail


def test_the_table_is_for_people(capsys):
    doctor.print_table([doctor.Check("machine", "torch", False, "none", "install pauca[all]")])
    assert {"machine", "torch", "no", "none", "install", "pauca[all]"} <= set(capsys.readouterr().out.split())
