from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.datasets import read_dataset
from DISYRECore.synthesis import test_set as testset
from DISYRECore.synthesis.test_set import synthesise_case, write_test_set


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.nii.gz")}


def test_the_same_seed_gives_the_same_files_bit_for_bit(
    labelmaps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testset, "_BRAIN_MM", (110, 120, 60))
    maps = sorted(labelmaps.glob("*.nii.gz"))
    for name, count in (("first", 2), ("again", 2), ("shorter", 1)):
        write_test_set(tmp_path / name, maps, count, 5, contrasts=("T1",), kinds=("mass", "none"))
    first = files(tmp_path / "first")
    assert files(tmp_path / "again") == first
    assert len(first) == 6
    shorter = files(tmp_path / "shorter")
    assert shorter == {name: first[name] for name in shorter}
    cases = read_dataset(tmp_path / "first").cases
    assert [case.healthy for case in cases] == [False, True]
    assert [bool(case.load()[1].any()) for case in cases] == [True, False]
    assert json.loads((tmp_path / "first" / "dataset.json").read_text())["seed"] == 5


def test_another_seed_gives_other_files(bank, tmp_path: Path) -> None:
    one, other = (synthesise_case(bank, 0, seed, contrast="T2", kind="mass", spacing_mm=3.0) for seed in (1, 2))
    assert not np.array_equal(one.scan.voxels, other.scan.voxels)


def test_unknown_contrasts_and_kinds_are_named(labelmaps: Path, tmp_path: Path) -> None:
    with pytest.raises(DisyreError, match="'PD' is not known; choose from"):
        write_test_set(tmp_path, sorted(labelmaps.glob("*")), 1, 0, contrasts=("PD",))
    with pytest.raises(DisyreError, match="'cyst' is not known; choose from"):
        write_test_set(tmp_path, sorted(labelmaps.glob("*")), 1, 0, kinds=("cyst",))
