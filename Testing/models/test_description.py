"""Descriptions of models: those of the format before, and which models are offered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from DISYRECore.models.description import (
    FORMAT,
    DetectionSettings,
    EnsembleMember,
    ModelDescription,
    migrated,
    read_description,
)

COMMON = {"title": "Old", "version": "1", "spacing_mm": 1.5, "training": {"seed": 1}, "profile": "brain-mri"}
UNUSED = {"score_scale": {}, "thresholds": {}, "false_positive_rate": 0.01, "normalise": {}}
RESTORATION = {
    **COMMON,
    "id": "brain-restoration",
    "method": "disyre-v2",
    "settings": {"severities": [0.5], "mirror": True, "score": "fused"},
    "network": {"channels": [32, 64], "blocks": 1, "region": True},
    "contrasts": ["T1", "FLAIR"],
    "score_scale": {"T1": 1.0, "FLAIR": 1.0},
    "thresholds": {"T1": 0.73, "FLAIR": 0.5},
    "false_positive_rate": 0.005,
    "normalise": {"T1": "robust"},
    "contrast_settings": {"T1": {"bright": 0.25, "spots": 2.0}, "FLAIR": {"zoom": 1.2}},
}
SKULL_STRIP = {
    **{k: v for k, v in COMMON.items() if k != "spacing_mm"},
    **UNUSED,
    "spacing_mm": 2.0,
    "id": "brain-extraction",
    "method": "extraction",
    "settings": {},
    "network": {"channels": [32, 32], "fold": 2},
    "contrasts": ["free", "T1"],
}
SMALL_LESIONS = {
    **COMMON,
    **UNUSED,
    "id": "brain-spots",
    "method": "spots",
    "settings": {},
    "network": {"widths": [72, 36], "looks": 3, "contrasts": ["T1", "T2"]},
    "contrasts": ["T1", "T2"],
    "contrast_settings": {},
}
SYNOMALY = {
    **COMMON,
    **UNUSED,
    "id": "brain-synomaly",
    "method": "synomaly",
    "settings": {"step": 60, "score": "residual", "draws": 2},
    "network": {"channels": [32, 48], "labelled": False},
    "contrasts": ["T1"],
    "contrast_settings": {"T1": {"bright": 0.25, "draws": 4}},
    "profile": "liver-ct",
}
BEFORE_CONTRAST_SETTINGS = {k: v for k, v in RESTORATION.items() if k not in ("contrast_settings", "profile")}


def opened(values: dict[str, Any], folder: Path) -> ModelDescription:
    (folder / "model.json").write_text(json.dumps(values))
    return read_description(folder)


def test_an_old_restoration_model_keeps_its_settings_and_its_helper_becomes_a_member(tmp_path: Path) -> None:
    found = opened(RESTORATION, tmp_path)
    assert found.network == {"kind": "restoration", **RESTORATION["network"]}
    assert (found.id, found.method, found.modality) == ("brain-restoration", "disyre-v2", "brain-mri")
    assert found.contrasts == ("T1", "FLAIR")
    assert found.training == {"seed": 1}
    assert found.detection == DetectionSettings(
        settings={"severities": [0.5], "score": "region"},
        by_contrast={"T1": {"bright": 0.25}, "FLAIR": {}},
        members=(EnsembleMember("brain-small-lesions", ("T1",), 2.0),),
        score_scale={"T1": 1.0, "FLAIR": 1.0},
        borders={"T1": 0.73, "FLAIR": 0.5},
    )


def test_old_helpers_get_the_new_names_of_their_kind(tmp_path: Path) -> None:
    strip, small = opened(SKULL_STRIP, tmp_path), opened(SMALL_LESIONS, tmp_path)
    assert (strip.method, strip.network) == ("skull-strip", {"kind": "skull-strip", "channels": [32, 32], "fold": 2})
    assert small.method == "small-lesions"
    expected = {"kind": "small-lesions", "widths": [72, 36], "stages": 3, "contrasts": ["T1", "T2"]}
    assert small.network == expected
    assert strip.detection == small.detection == DetectionSettings()


def test_an_old_synomaly_model_takes_samples(tmp_path: Path) -> None:
    found = opened(SYNOMALY, tmp_path)
    assert found.network["kind"] == "diffusion"
    assert found.modality == "liver-ct"
    assert found.detection.settings == {"step": 60, "score": "residual", "samples": 2}
    assert found.detection.by_contrast == {"T1": {"bright": 0.25, "samples": 4}}


def test_fields_that_came_late_may_be_absent(tmp_path: Path) -> None:
    found = opened(BEFORE_CONTRAST_SETTINGS, tmp_path)
    assert found.modality == "brain-mri"
    assert found.detection.by_contrast == {}
    assert found.detection.members == ()


@pytest.mark.parametrize("values", [RESTORATION, SKULL_STRIP, SMALL_LESIONS, SYNOMALY], ids=lambda v: v["method"])
def test_what_was_migrated_is_of_the_new_format_and_stays_as_it_is(values: dict[str, Any], tmp_path: Path) -> None:
    before = json.dumps(values)
    found = opened(values, tmp_path)
    written = json.loads(found.to_json())
    assert written["format"] == FORMAT
    assert opened(written, tmp_path) == found
    assert migrated(written) == {name: value for name, value in written.items() if name != "format"}
    assert json.dumps(values) == before
