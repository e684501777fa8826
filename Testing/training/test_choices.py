"""What a front end lets its user choose, as a config for any command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import ONE_SENTENCE

from DISYRECore.errors import DisyreError
from DISYRECore.io.files import resources
from DISYRECore.training.choices import SMALL, STANDARD_STEPS, Choices, write_config
from DISYRECore.training.config import read_config

UNTOUCHED: dict[str, Any] = {"size_mm": 70.0, "faintest": 0.5, "textured": 0.3, "bias": 0.4}
"""The sliders of the wizard before anybody moves them."""


def written(tmp_path: Path, **chosen: Any) -> Any:
    write_config(Choices("mine", **chosen), tmp_path / "config.yaml")
    return read_config(tmp_path / "config.yaml")


def test_sliders_that_nobody_moved_change_nothing(tmp_path: Path) -> None:
    preset = read_config(resources() / "Configs" / f"{SMALL}.yaml")
    made = written(tmp_path, **UNTOUCHED)
    assert made.settings == preset.settings
    assert made.name == "mine"
    assert made.steps == preset.steps


def test_the_standard_preset_is_longer(tmp_path: Path) -> None:
    assert written(tmp_path, preset="standard").steps == STANDARD_STEPS * written(tmp_path).steps


def test_what_is_chosen_stands_in_the_config(tmp_path: Path) -> None:
    made = written(
        tmp_path,
        contrasts=("T1",),
        exclude=("a [1]/b*.nii",),
        steps=7,
        title="Mine",
        start="",
        size_mm=12.0,
        textured=1.0,
    )
    assert made.contrasts == ("T1",)
    assert made.exclude == ("a [[]1]/b[*].nii",)
    assert (made.steps, made.title, made.start) == (7, "Mine", "")
    corruption = made.settings.corruption
    assert max(corruption.largest_mm) == 12.0
    assert corruption.families["flat"] == 0
    assert sum(corruption.families.values()) == pytest.approx(1)


@pytest.mark.parametrize("bias", [0.2, 0.5, 0.8])
def test_bias_is_the_mean_change_of_brightness(tmp_path: Path, bias: float) -> None:
    power = written(tmp_path, bias=bias).settings.corruption.bias_power
    assert 1 / (1 + power) == pytest.approx(bias, abs=1e-3)


@pytest.mark.parametrize("name", ["", "../x", "Mine", "a b", "a" * 65])
def test_names_that_are_no_folders_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        write_config(Choices(name), tmp_path / "config.yaml")
    assert not list(tmp_path.iterdir())
