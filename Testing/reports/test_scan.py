from __future__ import annotations

import base64
import io
import re
import time
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from support import SHARED

from DISYRECore.detection.evidence import HealthyFindings
from DISYRECore.detection.findings import label_findings
from DISYRECore.errors import DisyreError
from DISYRECore.io.read import read_volume
from DISYRECore.io.volume import Volume
from DISYRECore.reports.scan import write_report

BORDER = 0.3
REAL_SCAN = SHARED / "pathology/tumour_TCGA-DU-7294/FLAIR.nii.gz"


@dataclass
class Panel:
    text: str
    shape: tuple[int, int]
    aspect: float
    images: list[np.ndarray] = field(default_factory=list)
    uses: list[str] = field(default_factory=list)
    path: str = ""


class Report(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.text, self.panels, self.tags = html, "", [], []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if values.get("class") == "panel":
            width, height = re.search(r"aspect-ratio:([\d.]+)/([\d.]+)", values["style"]).groups()
            self.aspect = float(width) / float(height)
        elif tag == "svg":
            columns, rows = map(int, values["viewbox"].split()[2:])
            self.panels.append(Panel(values["aria-label"], (rows, columns), self.aspect))
        elif tag == "image":
            data = base64.b64decode(values["href"].removeprefix("data:image/png;base64,"))
            self.panels[-1].images.append(np.array(Image.open(io.BytesIO(data))))
        elif tag == "use":
            self.panels[-1].uses.append(values["href"])
        elif tag == "path":
            self.panels[-1].path = values["d"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        self.text += data

    def panel(self, start: str, end: str) -> Panel:
        return next(p for p in self.panels if p.text.startswith(start) and p.text.endswith(end))


Lesion = tuple[tuple[int, int, int], int, float]


def phantom(*lesions: Lesion, spacing: tuple[float, float, float] = (2, 2, 2)) -> Volume:
    """Scores in RAS order: boxes given by their corner, size and score, in a brain of 50 x 60 x 40 voxels."""
    score = np.zeros((50, 60, 40), np.float32)
    for (i, j, k), size, value in lesions:
        score[i : i + size, j : j + size, k : k + size] = value
    return Volume(score, np.diag([*spacing, 1.0]))


def write(score: Volume, path: Path, **changes: object) -> Report:
    rng = np.random.default_rng(0)
    image = Volume(rng.gamma(9, 10, score.shape).astype(np.float32), score.affine, "/home/jane/doe.nii")
    brain = np.ones(score.shape, bool)
    labels, findings = label_findings(score, BORDER, brain)
    arguments = {
        "title": "scan.nii.gz",
        "image": image,
        "score": score,
        "restored": image,
        "brain_mask": brain,
        "labels": labels,
        "findings": findings,
        "border": BORDER,
        "score_scale": 1.0,
        "settings": {"method": "z-score", "border": BORDER},
    }
    write_report(path, **{**arguments, **changes})
    return Report(path.read_text(encoding="utf-8"))


def test_report_is_one_file_that_asks_for_nothing(tmp_path: Path) -> None:
    report = write(phantom(((10, 10, 10), 6, 0.8)), tmp_path / "report.html")
    assert "Research use only. Not a medical device." in report.text
    assert not {"script", "link", "iframe", "object", "img"} & set(report.tags)
    assert not re.search(r"https?:|url\(|@import|jane", report.html)
    assert len(report.html) < 3_000_000
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("lesions", "sentence"),
    [
        ((), "Nothing unusual found. This does not rule out disease."),
        (
            (((9, 9, 9), 1, 0.9),),
            "Nothing unusual found. Some voxels are above the border, but in no finding that is unusual or large "
            "enough. This does not rule out disease.",
        ),
        ((((5, 9, 9), 5, 0.9),), "1 finding; 1.0 mL, left."),
        (
            (((5, 9, 9), 5, 0.9), ((38, 9, 9), 6, 0.4), ((24, 30, 30), 3, 0.4)),
            "3 findings; the first: 1.0 mL, left.",
        ),
    ],
)
def test_one_sentence_says_what_was_found(lesions: tuple, sentence: str, tmp_path: Path) -> None:
    assert sentence in write(phantom(*lesions), tmp_path / "report.html").text


def test_it_says_how_unusual_a_finding_is_and_which_contrast_shows_it(tmp_path: Path) -> None:
    score = phantom(((5, 9, 9), 5, 0.9), ((38, 9, 9), 6, 0.4))
    healthy = HealthyFindings(0.05, 20, (4.0, 2.0, 1.0))
    labels, findings = label_findings(score, BORDER, np.ones(score.shape, bool), healthy=healthy, false_findings=9.0)
    told = [replace(one, contrasts=("FLAIR", "T1")) for one in findings]
    text = write(score, tmp_path / "report.html", labels=labels, findings=told).text
    assert f"2 findings; the first: 1.0 mL, left, {findings[0].rarity}." in text
    assert "so strong in" in findings[0].rarity
    assert "shown by FLAIR, T1" in text
    assert "not calibrated" not in text
    assert "not calibrated" in write(score, tmp_path / "report.html").text


@pytest.mark.parametrize("axes", permutations(range(3)))
def test_patients_left_is_on_the_right_and_front_and_head_up(axes: tuple[int, ...], tmp_path: Path) -> None:
    canonical = phantom(((8, 40, 28), 6, 0.8))
    for flips in product([1, -1], repeat=3):
        turned = np.flip(canonical.voxels, [a for a in range(3) if flips[a] < 0]).transpose(axes)
        affine = np.eye(4)
        affine[:3, :3] = np.diag([2.0 * flip for flip in flips])[:, list(axes)]
        report = write(Volume(turned, affine), tmp_path / "report.html")
        for plane, columns, rows in (("Axial", (36, 42), (14, 20)), ("Coronal", (36, 42), (6, 12))):
            heat = report.panel(plane, "score on scan").images[1][..., 3] > 0
            box = ndimage.find_objects(heat.astype(int))[0]
            assert box == (slice(*rows), slice(*columns))
        heat = report.panel("Sagittal", "score on scan").images[1][..., 3] > 0
        assert ndimage.find_objects(heat.astype(int))[0] == (slice(6, 12), slice(14, 20))


def test_thick_slices_keep_their_proportions(tmp_path: Path) -> None:
    report = write(phantom(((10, 10, 10), 6, 0.8), spacing=(0.5, 1, 4)), tmp_path / "report.html")
    for plane, shape, aspect in (
        ("Axial", (60, 50), 25 / 60),
        ("Coronal", (40, 50), 25 / 160),
        ("Sagittal", (40, 60), 60 / 160),
    ):
        panel = report.panel(plane, "score on scan")
        assert panel.shape == shape == panel.images[0].shape
        assert panel.aspect == pytest.approx(aspect, rel=0.01)


def test_heat_is_transparent_up_to_the_border_and_brightens(tmp_path: Path) -> None:
    score = phantom(((10, 10, 10), 10, 0.8))
    score.voxels[10:20, 10:20, 15] = np.linspace(0, 1, 100).reshape(10, 10)
    score.voxels[10, 19, 15] = BORDER
    panel = write(score, tmp_path / "report.html").panel("Axial", "score on scan")
    heat = panel.images[1][::-1, ::-1].transpose(1, 0, 2)
    values = score.voxels[:, :, 15]
    assert np.array_equal(heat[..., 3] > 0, values > BORDER)
    order = np.argsort(values[values > BORDER])
    luminance = (heat[..., :3] @ [0.3, 0.6, 0.1])[values > BORDER][order]
    assert (np.diff(luminance) >= -1).all()
    assert luminance[0] < 50
    assert luminance[-1] > 230


def test_the_outline_runs_along_every_voxel_border_of_a_finding(tmp_path: Path) -> None:
    score = phantom(((10, 10, 10), 6, 0.8))
    score.voxels[12, 12, 10:16] = 0
    score.voxels[30, 30, 10] = 0.9
    score.voxels[46:, 56:, 10:14] = 0.7
    panel = write(score, tmp_path / "report.html").panel("Axial", "score on scan")
    assert sum(map(int, re.findall(r"[vh](\d+)", panel.path))) == 4 * 6 + 4 + 4 * 4


def test_restored_and_plain_slice_stand_beside_in_one_window(tmp_path: Path) -> None:
    score = phantom(((10, 10, 10), 6, 0.8))
    report = write(score, tmp_path / "report.html")
    for plane in ("Axial", "Coronal", "Sagittal"):
        overlaid, restored = report.panel(plane, "score on scan"), report.panel(plane, "restored")
        assert np.array_equal(overlaid.images[0], restored.images[0])
        (use,) = report.panel(plane, "scan").uses or report.panel(plane, ", scan").uses
        assert f"id={use[1:]} " in report.html
    assert 0.005 < np.mean(overlaid.images[0] == 255) < 0.02
    without = write(score, tmp_path / "report.html", restored=None)
    assert "Restored" not in without.text
    assert not [panel for panel in without.panels if panel.text.endswith("restored")]


def test_the_overview_shows_fifteen_slices_and_numbers_the_findings(tmp_path: Path) -> None:
    report = write(phantom(((10, 10, 10), 8, 0.8), ((30, 30, 30), 8, 0.7)), tmp_path / "report.html")
    assert sum(panel.text.startswith("Axial slice") for panel in report.panels) == 15
    assert set(re.findall(r"<em [^>]*>(\d+)</em>", report.html)) == {"1", "2"}
    assert "the patient's left (L) is on the right" in report.text


def test_ten_findings_are_pictured_and_all_listed(tmp_path: Path) -> None:
    corners = [(i, j, 5) for i in (2, 12, 22, 32) for j in (2, 12, 22)]
    report = write(phantom(*((corner, 4, 0.8) for corner in corners)), tmp_path / "report.html")
    assert sum(panel.text.endswith("score on scan") for panel in report.panels) == 30
    assert report.tags.count("tr") == 1 + 12 + 2
    assert "The first 10 of 12 findings are pictured." in report.text


def test_every_text_is_escaped(tmp_path: Path) -> None:
    evil = '<script>"&</script>'
    report = write(phantom(), tmp_path / "report.html", title=evil, settings={evil: evil}, quality=[evil])
    assert "script" not in report.tags
    assert report.text.count(evil) == 5


def test_a_high_resolution_scan_stays_small(tmp_path: Path) -> None:
    large = Volume(np.zeros((400, 480, 24), np.float32), np.diag([0.4, 0.4, 6, 1]))
    large.voxels[100:140, 100:140, 5:9] = 0.8
    report = write(large, tmp_path / "report.html")
    assert report.panel("Axial", "score on scan").shape == (480, 400)
    assert report.panel("Axial", "score on scan").images[0].shape == (240, 200)


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    score = phantom()
    with pytest.raises(DisyreError, match="mask"):
        write(score, tmp_path / "report.html", brain_mask=np.zeros(score.shape, bool))
    with pytest.raises(DisyreError, match="Cannot write"):
        write(score, tmp_path / "nowhere" / "report.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not REAL_SCAN.exists(), reason="needs the shared data")
def test_a_real_tumour_makes_a_small_report_quickly(tmp_path: Path) -> None:
    image = read_volume(REAL_SCAN)
    brain = image.voxels > 0
    low, high = np.percentile(image.voxels[brain], (50, 99.9))
    brightness = np.clip((image.voxels - low) / (high - low), 0, 1)
    score = replace(image, voxels=ndimage.median_filter(brightness, 3))
    labels, findings = label_findings(score, 0.5, brain)
    start = time.perf_counter()
    given = {"image": image, "brain_mask": brain, "labels": labels, "findings": findings}
    report = write(score, tmp_path / "report.html", **given)
    assert time.perf_counter() - start < 10
    assert len(report.html) < 3_000_000
    assert findings[0].side == "right"
    heat = report.panel("Axial", "score on scan").images[1][..., 3] > 0
    assert ndimage.center_of_mass(heat)[1] < heat.shape[1] / 2
