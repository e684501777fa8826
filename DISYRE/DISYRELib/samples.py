"""Scans to try the module with, offered by Slicer's Sample Data module."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

import slicer
from slicer.i18n import tr as _

from DISYRECore.errors import DisyreError

if TYPE_CHECKING:
    from DISYRE import DISYRELogic

CATEGORY, DEMO = "DISYRE", "DISYREDemo"
SUGGESTED = ("MRHead", "MRBrainTumor1", "MRBrainTumor2")
QUESTION = "Slicer downloads the sample {name} (some MB) from its own server. Download it now?"


def register(make_demo: Callable[[], slicer.vtkMRMLScalarVolumeNode], thumbnail: str) -> None:
    """Registers the demo, which is made on this computer, and suggests Slicer's own tumour samples."""
    try:
        import SampleData
    except ImportError:
        return
    logic = SampleData.SampleDataLogic
    logic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=DEMO,
        uris="",
        fileNames=f"{DEMO}.nii.gz",
        nodeNames=DEMO,
        thumbnailFileName=thumbnail,
        customDownloader=lambda _source=None: [make_demo()],
    )
    listed = slicer.modules.sampleDataSources[CATEGORY]
    listed += [source for source in _suggestions(logic) if source not in listed]


def _suggestions(logic: Callable[[], object]) -> list:
    logic()  # registers Slicer's own samples
    sources = [source for group in slicer.modules.sampleDataSources.values() for source in group]
    return [next(s for s in sources if s.sampleName == name) for name in SUGGESTED if _known(name, sources)]


def _known(name: str, sources: list) -> bool:
    return any(source.sampleName == name for source in sources)


def load_demo(logic: DISYRELogic) -> slicer.vtkMRMLScalarVolumeNode:
    """Has the worker make the demo scan, loads and shows it; returns its volume.

    Raises:
        DisyreError: It could not be made.
    """
    with tempfile.TemporaryDirectory(prefix="disyre-", ignore_cleanup_errors=True) as folder:
        paths = logic.request({"command": "demo", "output": folder})
        volume = slicer.util.loadVolume(paths["scan"], {"name": DEMO})
        storage = volume.GetStorageNode()
        volume.SetAndObserveStorageNodeID(None)
        if storage is not None:
            slicer.mrmlScene.RemoveNode(storage)
    return volume


def download(name: str) -> slicer.vtkMRMLScalarVolumeNode:
    """Asks, then has Slicer download and show one of its own samples; returns its volume.

    Raises:
        DisyreError: The user declined, or it could not be downloaded.
    """
    import SampleData

    if not slicer.util.confirmOkCancelDisplay(_(QUESTION).format(name=name)):
        raise DisyreError(_("Nothing was downloaded."))
    try:
        return SampleData.SampleDataLogic().downloadSample(name)
    except Exception as error:  # whatever the network comes up with
        sentence = _("{name} could not be downloaded ({reason}); check the network connection.")
        raise DisyreError(sentence.format(name=name, reason=error)) from error
