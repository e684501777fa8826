"""The module DISYRE Training in the harness: healthy scans for it, and the clicks that its tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from harness.disyre import MODULE, PICTURES, ROOT, keep_none

TRAINING = ROOT / "DISYRETraining" / "DISYRETraining.py"
WIDTH = 350
NEXT, BACK = "nextButton", "backButton"


def load_training(desktop: Any) -> None:
    """Loads both modules and opens the wizard."""
    keep_none()
    if desktop.app.moduleManager().module(MODULE.stem) is None:
        desktop.load(MODULE)
    desktop.load(TRAINING)
    PICTURES.mkdir(parents=True, exist_ok=True)


def healthy_scans(folder: Path, count: int, coarser: int = 1) -> Path:
    """Writes FLAIR-like brains of so many people, all without a lesion, on a grid that is so many times coarser."""
    from DISYRECore.io.average_head import FOLDED_HEAD
    from DISYRECore.io.volume import Volume
    from DISYRECore.io.write import write_volume
    from DISYRECore.synthesis.anatomy import load_anatomies
    from DISYRECore.synthesis.test_set import synthesise_case

    folder.mkdir(parents=True, exist_ok=True)
    bank = load_anatomies([FOLDED_HEAD])
    for number in range(1, count + 1):
        scan = synthesise_case(bank, 0, 100 + number, contrast="FLAIR", kind="none").scan
        affine = scan.affine.copy()
        affine[:3, :3] *= coarser
        coarse = Volume(scan.voxels[::coarser, ::coarser, ::coarser].copy(), affine)
        write_volume(coarse, folder / f"person{number:02d}_FLAIR.nii.gz")
    return folder


def tiny_preset(path: Path, **changes: Any) -> Path:
    """A preset for a training of seconds, from scans alone."""
    values = yaml.safe_load((ROOT / "Resources" / "Configs" / "own-scans.yaml").read_text(encoding="utf-8"))
    values |= {"images": 1.0, "batch": 4, "steps": 4, "every": 2, "warmup": 1, **changes}
    values["settings"]["reuse"] = 1
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def page_of(desktop: Any) -> Any:
    """The page that is shown."""
    wizard = desktop.module.wizard
    return wizard.pages[wizard.parameters.page]


def wait(desktop: Any, begun: bool = False) -> None:
    """Waits until the worker of the wizard is idle, after it has begun something."""
    wizard = desktop.module.wizard
    if begun:
        desktop.wait_until(lambda: wizard.busy)
    desktop.wait_until(lambda: not wizard.busy)


def hint(desktop: Any) -> str:
    """What the wizard says is missing; empty when nothing is."""
    label = desktop.widget("hintLabel")
    return label.text if label.isVisible() else ""


def picture(desktop: Any, name: str) -> None:
    """Keeps a picture of the panel, which must not be wider than a narrow one."""
    desktop.grab(PICTURES / f"training_{name}.png", WIDTH)
    assert desktop.panel.width <= WIDTH


def choose_folders(desktop: Any, scans: Path, work: Path) -> None:
    """Types both folders, and leaves the look for anomalies out."""
    desktop.widget("scansEdit").currentPath = str(scans)
    desktop.widget("workEdit").currentPath = str(work)
    desktop.process()
    if desktop.widget("anomalousCheck").checked:
        desktop.click("anomalousCheck")


def give_data(desktop: Any, scans: Path, work: Path) -> None:
    """The page Data, by mouse."""
    choose_folders(desktop, scans, work)
    desktop.click("checkButton")
    wait(desktop)
    desktop.click("healthyCheck")
    assert hint(desktop) == ""


def prepare(desktop: Any) -> None:
    """The page Preparation, by mouse."""
    desktop.click(NEXT)
    desktop.click("prepareButton")
    wait(desktop)
    assert hint(desktop) == ""
