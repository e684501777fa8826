"""One detection, from the export of a volume to the nodes in the scene."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import slicer
import vtk
from slicer.i18n import tr as _

from DISYRECore.errors import DisyreError
from DISYRELib.checks import problem_with
from DISYRELib.client import ENDINGS, WorkerClient
from DISYRELib.study import contrast_of

GONE = "The volume was deleted during the run; nothing was added to the scene."
CHANGED = "The volume changed during the run, so the result was not added; detect again."
CLOSED = "The scene was closed, so the detection was stopped."
CANCELLED = "Cancelled; the scene is as before."


@dataclass(frozen=True)
class Settings:
    """What a detection is made with; words as `DISYRECore.apps.worker` takes them.

    Attributes:
        model: Id or folder, or ``auto``.
        method: None for the model's own.
        contrast: None to have it recognised.
        further: More scans of the patient, taken together with the volume; contrasts as said in the panel.
        mask: None to have the brain found, ``stripped``, or a segmentation or label map node.
        device: ``auto``, ``cpu`` or ``cuda``.
        batch: Slices at a time.
        false_findings: Per healthy scan that are accepted.
    """

    model: str = "auto"
    method: str | None = None
    contrast: str | None = None
    further: tuple[slicer.vtkMRMLScalarVolumeNode, ...] = ()
    mask: str | slicer.vtkMRMLNode | None = None
    device: str = "auto"
    batch: int = 16
    false_findings: float = 0.5


class Run:
    """The worker's part of a detection.

    Stops by itself when the volume is deleted or the scene closed.

    Args:
        client: Runs the worker.
        volume: The input.
        settings: See `Settings`.
        listener: Gets the worker's events; the last one is ``result``, ``error`` or ``cancelled``.

    Attributes:
        folder: Where the worker writes; removed by `close`.
        reason: Why it was stopped; empty when it was not.

    Raises:
        DisyreError: The volume cannot be used or not be exported.
    """

    def __init__(
        self,
        client: WorkerClient,
        volume: slicer.vtkMRMLScalarVolumeNode,
        settings: Settings,
        listener: Callable[[dict], None],
    ) -> None:
        self.volumes = (volume, *settings.further)
        if sentence := next(filter(None, map(problem_with, self.volumes)), ""):
            raise DisyreError(sentence)
        self.client, self.listener = client, listener
        self.folder, self.reason = _scratch(), ""
        self._observed: list[tuple[vtk.vtkObject, int]] = []
        try:
            request = self._request(settings)
        except Exception:
            self.close()
            raise
        self._before = [fingerprint(one) for one in self.volumes]
        self._observe("StartCloseEvent", lambda *_args: self.stop(_(CLOSED)))
        self._observe("NodeAboutToBeRemovedEvent", self._on_removed)
        client.request(request, self._on_event)

    def _observe(self, event: str, slot: Callable[..., None]) -> None:
        scene = slicer.mrmlScene
        self._observed.append((scene, scene.AddObserver(getattr(scene, event), slot)))

    def _request(self, settings: Settings) -> dict:
        folder, volume = Path(self.folder.name), self.volumes[0]
        self._names = _file_names(settings, self.volumes)
        for one, name in zip(self.volumes, self._names, strict=True):
            export_volume(one, folder / name)
        mask = settings.mask or "auto"
        if not isinstance(mask, str):
            mask = str(export_mask(settings.mask, volume, folder / "mask.nrrd"))
        names = ("model", "method", "contrast", "device", "batch", "false_findings")
        chosen = {name: getattr(settings, name) for name in names}
        scan, *further = (str(folder / name) for name in self._names)
        files = {"input": scan, "output": str(folder), "mask": mask, "files": False, "arrays": True}
        return {"command": "detect", **files, "further": further, **chosen}

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_removed(self, _scene: slicer.vtkMRMLScene, _event: str, node: slicer.vtkMRMLNode) -> None:
        if node in self.volumes:
            self.stop(_(GONE))

    def stop(self, reason: str = "") -> None:
        """Asks the worker to stop; the listener hears ``cancelled`` when it has."""
        self.reason = self.reason or reason or _(CANCELLED)
        self.client.cancel()

    def close(self) -> None:
        """Removes everything that was only for this run."""
        for subject, tag in self._observed:
            subject.RemoveObserver(tag)
        self._observed.clear()
        self.folder.cleanup()

    def _on_event(self, event: dict) -> None:
        if self.reason and event["event"] in ENDINGS:
            event = {"event": "cancelled", "message": self.reason}
        elif event["event"] == "result" and [fingerprint(one) for one in self.volumes] != self._before:
            event = {"event": "error", "kind": "changed", "message": _(CHANGED)}
        if event["event"] == "error":
            event = {**event, "message": self._with_names(event["message"])}
        self.listener(event)

    def _with_names(self, message: str) -> str:
        for volume, name in zip(self.volumes, self._names, strict=True):
            message = message.replace(name, volume.GetName())
        return message


def _file_names(settings: Settings, volumes: tuple[slicer.vtkMRMLScalarVolumeNode, ...]) -> list[str]:
    """A file for each scan; of a study, with the contrast that was said of it, which the worker reads there."""
    said = [contrast_of(volume).word() for volume in volumes]
    if len(volumes) == 1:
        return ["scan.nrrd"]
    said[0] = settings.contrast or said[0]
    return [f"scan-{n}{'-' + word if word else ''}.nrrd" for n, word in enumerate(said, start=1)]


def _scratch() -> tempfile.TemporaryDirectory:
    try:
        return tempfile.TemporaryDirectory(prefix="disyre-", ignore_cleanup_errors=True)
    except OSError as error:
        sentence = _("No temporary folder can be made ({reason}); free some disk space.")
        raise DisyreError(sentence.format(reason=error.strerror), "output") from error


def fingerprint(volume: slicer.vtkMRMLScalarVolumeNode) -> tuple:
    """Changes when the voxels of a volume or their place do, not when its display does."""
    image, matrix = volume.GetImageData(), vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    scalars = image.GetPointData().GetScalars() if image else None
    time = scalars.GetMTime() if scalars else 0
    return time, image and image.GetDimensions(), [matrix.GetElement(i, j) for i in range(3) for j in range(4)]


def export_volume(volume: slicer.vtkMRMLScalarVolumeNode, path: Path) -> None:
    """Writes a volume without its parent transform, uncompressed.

    Raises:
        DisyreError: It cannot be written.
    """
    storage = slicer.vtkMRMLNRRDStorageNode()
    storage.SetFileName(str(path))
    storage.SetUseCompression(0)
    if not storage.WriteData(volume) or not path.is_file():
        raise DisyreError(_("The volume cannot be written to the temporary folder; free some disk space."), "output")


def export_mask(node: slicer.vtkMRMLNode, volume: slicer.vtkMRMLScalarVolumeNode, path: Path) -> Path:
    """Writes a brain mask, from all segments of a segmentation or from a label map; returns its path.

    Raises:
        DisyreError: It marks nothing, or lies under another transform than the volume.
    """
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        if node.GetParentTransformNode() is not volume.GetParentTransformNode():
            raise DisyreError(_("Brain mask and volume are under different transforms; put both under the same one."))
        export_volume(node, path)
        return path
    export_volume(_merged(node, volume), path)
    return path


def _merged(
    segmentation: slicer.vtkMRMLSegmentationNode, volume: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkMRMLScalarVolumeNode:
    import numpy as np

    inside = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    for segment in segmentation.GetSegmentation().GetSegmentIDs():
        inside |= slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment, volume).astype(np.uint8)
    if not inside.any():
        raise DisyreError(_("The brain mask is empty; segment the brain or set the mask to Automatic."))
    merged = slicer.vtkMRMLScalarVolumeNode()
    slicer.util.updateVolumeFromArray(merged, inside)
    merged.CopyOrientation(volume)
    return merged
