"""Ensembles: how a model listens to the small-lesion detector."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import ONE_SENTENCE, TINY, ball, small_lesion_network, smooth_field, tiny_description
from torch import Tensor

from DISYRECore.detection.detector import Detector, smooth
from DISYRECore.detection.ensemble import Marker, any_of, load_members, mark_all
from DISYRECore.errors import DisyreError
from DISYRECore.io.volume import Volume
from DISYRECore.methods.base.score import either
from DISYRECore.models import description as descriptions
from DISYRECore.models.description import (
    DEFAULT_METHOD,
    SMALL_LESIONS,
    DetectionSettings,
    EnsembleMember,
    list_models,
    usual_detection,
)
from DISYRECore.models.restoration_unet import RestorationNetwork
from DISYRECore.models.store import load_model, save_model
from DISYRECore.preprocessing.prepare import prepare

CPU = torch.device("cpu")
HELPER = "small"
MEMBER = EnsembleMember(HELPER, ("T2",), 3.0)
LISTENING = tiny_description(
    "listening",
    spacing_mm=3.0,
    contrasts=("T1", "T2"),
    detection=DetectionSettings(
        settings={"severities": [0.5], "score": "region"},
        members=(MEMBER,),
        score_scale={"T1": 1.0, "T2": 1.0},
        borders={"T1": 0.5, "T2": 0.5},
    ),
)
ALONE = replace(LISTENING, id="alone", detection=replace(LISTENING.detection, members=()))


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model that listens, one that does not, and the network to listen to."""
    network = small_lesion_network()
    helper = replace(ALONE, id=HELPER, method=SMALL_LESIONS, network=network.settings.to_dict())
    save_model(tmp_path / HELPER, helper, network.state_dict())
    for description in (LISTENING, ALONE):
        save_model(tmp_path / description.id, description, fresh_weights())
    monkeypatch.setenv("DISYRE_MODELS", str(tmp_path))
    return tmp_path


def fresh_weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return RestorationNetwork(TINY).state_dict()


@pytest.fixture
def scan() -> Volume:
    shape = (32, 36, 28)
    voxels = (100 + 200 * smooth_field(shape)) * ball(shape, (16, 18, 14), 13)
    return Volume(voxels.numpy().astype(np.float32), np.diag([3.0, 3.0, 3.0, 1.0]))


def scores(model: str, scan: Volume, contrast: str, **how: str) -> tuple[Tensor, Detector]:
    detector = Detector(model, device="cpu", **how)  # type: ignore[arg-type]
    brain = prepare(scan, detector.spacing_mm, scan.voxels > 0, contrast)
    return detector.restoration(brain)[0].score, detector


def test_one_or_the_other_is_a_probability_that_neither_can_lower() -> None:
    p, q, r = torch.rand(3, 100)
    both = any_of(p, [q])
    assert torch.equal(both, either(p, q))
    assert torch.allclose(both, 1 - (1 - p) * (1 - q))
    assert (both >= torch.maximum(p, q) - 1e-6).all()
    assert (both <= 1).all()
    assert torch.equal(any_of(p, [torch.zeros(100)]), p)
    assert torch.equal(any_of(p, []), p)
    assert torch.allclose(any_of(p, [q, r]), 1 - (1 - p) * (1 - q) * (1 - r))


def test_members_mark_with_their_weight_in_their_contrasts_and_within_the_mask(models: Path) -> None:
    network = small_lesion_network()
    x, mask = smooth_field((12, 14, 16)), ball((12, 14, 16), (6, 7, 8), 5)
    markers = load_members(LISTENING, CPU)
    assert [marker.member for marker in markers] == [MEMBER]
    assert mark_all(markers, x, mask, "T1") == ([], [])
    (marked,), warnings = mark_all([Marker(replace(MEMBER, weight=1.5), markers[0].model)], x, mask, "T2")
    assert torch.allclose(marked, torch.sigmoid(network.mark(x, mask, "T2") + 1.5) * mask, atol=1e-2)
    assert not marked[~mask].any()
    assert warnings == []


def test_small_lesions_count_in_the_contrast_that_says_so(models: Path, scan: Volume) -> None:
    for contrast, listens in (("T1", False), ("T2", True)):
        heard, detector = scores("listening", scan, contrast)
        plain, _ = scores("alone", scan, contrast)
        assert torch.equal(heard, plain) is not listens
        assert (heard >= plain - 1e-6).all()
    brain = prepare(scan, 3.0, scan.voxels > 0, "T2")
    x, mask = brain.tensors()
    (marker,) = detector.markers
    small = torch.sigmoid(marker.model.network.mark(x, mask, "T2") + 3.0) * mask
    assert torch.allclose(heard, either(plain, smooth(small)) * mask, atol=1e-5)
    made, _ = detector.unsmoothed(brain)
    assert torch.allclose(detector.finish(made, brain, median=False), either(made.score, small), atol=1e-5)


@pytest.mark.parametrize("how", [{"method": "disyre"}, {"score": "residual"}])
def test_other_methods_and_scores_do_not_listen(models: Path, scan: Volume, how: dict[str, str]) -> None:
    assert torch.equal(scores("listening", scan, "T2", **how)[0], scores("alone", scan, "T2", **how)[0])


def test_the_hash_and_the_record_tell_of_it(models: Path, scan: Volume) -> None:
    listening, alone = Detector("listening", device="cpu"), Detector("alone", device="cpu")
    assert listening.model_sha256 != alone.model_sha256 == load_model("alone").sha256
    assert alone.markers == []
    for detector, contrast, members in ((listening, "T2", [HELPER]), (listening, "T1", []), (alone, "T2", [])):
        record = detector.detect(scan, mask=scan.voxels > 0, contrast=contrast).record
        assert record["members"] == members


def test_a_helper_of_another_grid_is_named(models: Path) -> None:
    save_model(models / "fine", replace(LISTENING, id="fine", spacing_mm=1.0), fresh_weights())
    with pytest.raises(DisyreError, match=ONE_SENTENCE) as refusal:
        Detector("fine", device="cpu")
    assert HELPER in str(refusal.value)


def test_a_missing_helper_is_named(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptions, "model_folders", lambda: [models])
    assert Detector("listening", device="cpu").markers
    (models / HELPER / "model.json").unlink()
    with pytest.raises(DisyreError, match=ONE_SENTENCE) as refusal:
        Detector("listening", device="cpu")
    assert HELPER in str(refusal.value)
    assert Detector("alone", device="cpu").markers == []


def test_a_helper_detects_nothing_by_itself(models: Path) -> None:
    with pytest.raises(DisyreError, match="only helps others"):
        Detector(HELPER, device="cpu")


def test_new_models_listen_to_the_members_of_the_installed_one_on_its_grid(models: Path) -> None:
    shutil.rmtree(models / ALONE.id)
    for spacing_mm, members in ((3.0, (MEMBER,)), (1.5, ())):
        assert usual_detection(DEFAULT_METHOD, spacing_mm).members == members


def test_helpers_are_not_offered() -> None:
    offered = [one.id for one in list_models()]
    assert "brain-restoration" in offered
    assert not {"brain-small-lesions", "brain-extraction"} & set(offered)
