"""Slice and 3D views drawn without a screen by Slicer's own displayable managers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from PIL import Image
from vtk.util.numpy_support import vtk_to_numpy

SLICE_MANAGERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
    "vtkMRMLMarkupsDisplayableManager",
)
VIEW_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
)
_registered: set[str] = set()
SLICES = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}


def _factory(kind: str, managers: tuple[str, ...], app_logic: Any) -> Any:
    factory = getattr(slicer, kind).GetInstance()
    factory.SetMRMLApplicationLogic(app_logic)
    for manager in managers:
        if f"{kind}.{manager}" not in _registered:
            _registered.add(f"{kind}.{manager}")
            factory.RegisterDisplayableManager(manager)
    return factory


class Canvas:
    """A render window off the screen, with the displayable managers of one view node."""

    def __init__(self, factory: Any, node: Any, size: tuple[int, int], background: tuple[float, float, float]) -> None:
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetAlphaBitPlanes(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(*size)
        self.renderer = vtk.vtkRenderer()
        self.renderer.SetBackground(*background)
        self.window.AddRenderer(self.renderer)
        self.interactor = vtk.vtkRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())
        self.interactor.Initialize()
        self.group = slicer.vtkMRMLDisplayableManagerGroup()
        self.group.SetRenderer(self.renderer)
        self.group.Initialize(factory, self.renderer)
        self.group.SetMRMLDisplayableNode(node)

    def pixels(self) -> np.ndarray:
        """Draws and returns (H, W, 3) uint8, first row on top."""
        self.window.Render()
        self.window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        width, height, _ = image.GetDimensions()
        values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)
        return np.ascontiguousarray(values[::-1, :, :3])


class SliceView:
    """One slice view."""

    def __init__(self, name: str, orientation: str, size: tuple[int, int], app_logic: Any) -> None:
        self.name, self.orientation, self.size = name, orientation, size
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(app_logic)
        self.logic.SetMRMLScene(slicer.mrmlScene)
        app_logic.GetSliceLogics().AddItem(self.logic)
        node = self.logic.AddSliceNode(name)
        node.SetOrientation(orientation)
        self.logic.ResizeSliceNode(*size)
        factory = _factory("vtkMRMLSliceViewDisplayableManagerFactory", SLICE_MANAGERS, app_logic)
        self._canvas = Canvas(factory, node, size, (0.0, 0.0, 0.0))
        self._canvas.renderer.GetActiveCamera().ParallelProjectionOn()
        self._add_image()

    def _add_image(self) -> None:
        """The volumes themselves, which no displayable manager draws."""
        self._mapper, self._image = vtk.vtkImageMapper(), vtk.vtkActor2D()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._image.SetMapper(self._mapper)
        self._image.GetProperty().SetDisplayLocationToBackground()
        self._canvas.renderer.AddActor2D(self._image)

    def _layers(self) -> bool:
        composite = self.logic.GetSliceCompositeNode()
        ids = (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID(), composite.GetLabelVolumeID())
        return any(slicer.mrmlScene.GetNodeByID(identifier) for identifier in ids if identifier)

    def _draw(self) -> Canvas:
        connection = self.logic.GetImageDataConnection() if self._layers() else None
        self._mapper.SetInputConnection(connection)
        self._image.SetVisibility(connection is not None)
        return self._canvas

    def straighten(self) -> None:
        """Turns the view back to the orientation that it has at the start."""
        self.logic.GetSliceNode().SetOrientation(self.orientation)

    def pixels(self) -> np.ndarray:
        """Draws the view: (H, W, 3) uint8, first row on top."""
        return self._draw().pixels()

    def save(self, path: Path) -> None:
        """Writes the view as PNG."""
        Image.fromarray(self.pixels()).save(path)

    def fit(self) -> None:
        """Fits the slice to its background volume."""
        self.logic.FitSliceToBackground()

    def jump(self, ras: tuple[float, float, float]) -> None:
        """Moves the slice through a point in mm."""
        self.logic.GetSliceNode().JumpSliceByOffsetting(*ras)

    def pixel_of(self, ras: tuple[float, float, float]) -> tuple[float, float]:
        """Row and column of a point in mm in the picture."""
        matrix = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.logic.GetSliceNode().GetXYToRAS(), matrix)
        x, y, _, _ = matrix.MultiplyPoint((*ras, 1.0))
        return self.size[1] - 1 - y, x


class ThreeDView:
    """The 3D view."""

    def __init__(self, size: tuple[int, int], app_logic: Any) -> None:
        self.size = size
        self.node = slicer.vtkMRMLViewNode()
        self.node.SetLayoutName("1")
        self.node.SetSingletonTag("1")
        self.node.SetName("View1")
        self.node = slicer.mrmlScene.AddNode(self.node)
        factory = _factory("vtkMRMLThreeDViewDisplayableManagerFactory", VIEW_MANAGERS, app_logic)
        self._canvas = Canvas(factory, self.node, size, (0.76, 0.76, 0.91))
        self._canvas.renderer.ResetCamera()

    def pixels(self) -> np.ndarray:
        """Draws the view: (H, W, 3) uint8, first row on top."""
        return self._canvas.pixels()

    def reset(self) -> None:
        """Shows everything."""
        self.pixels()
        self._canvas.renderer.ResetCamera()

    def save(self, path: Path) -> None:
        """Writes the view as PNG."""
        Image.fromarray(self.pixels()).save(path)


class Views:
    """The four-up layout, and the slice views of layouts that modules describe."""

    def __init__(self, app_logic: Any, size: tuple[int, int] = (400, 400)) -> None:
        self._app_logic, self._size = app_logic, size
        self.slices = {name: SliceView(name, axis, size, app_logic) for name, axis in SLICES.items()}
        self.three_d = ThreeDView(size, app_logic)

    def add(self, name: str, orientation: str) -> None:
        """Makes a further slice view, if it is not there yet."""
        if name not in self.slices:
            self.slices[name] = SliceView(name, orientation, self._size, self._app_logic)

    def save(self, path: Path) -> None:
        """Writes Red, 3D, Green and Yellow side by side, as the four-up layout places them."""
        top = np.hstack([self.slices["Red"].pixels(), self.three_d.pixels()])
        bottom = np.hstack([self.slices["Green"].pixels(), self.slices["Yellow"].pixels()])
        Image.fromarray(np.vstack([top, bottom])).save(path)
