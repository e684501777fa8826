"""The module DISYRE Training: trains a model of what is normal on the healthy scans of one's own scanner."""

import os
import sys
from pathlib import Path
from typing import Annotated

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

try:
    import DISYRELib

    import DISYRECore
except ModuleNotFoundError:  # a source checkout, where the core and the other module lie one folder up
    _ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not os.path.isfile(os.path.join(_ROOT, "DISYRECore", "__init__.py")):
        raise
    sys.path += [folder for folder in (_ROOT, os.path.join(_ROOT, "DISYRE")) if folder not in sys.path]
    import DISYRELib  # noqa: F401 -- what both modules share

    import DISYRECore

from DISYRELib.options import Device
from DISYRETrainingLib.options import LARGEST_MM, Preset

CORE = Path(DISYRECore.__file__).resolve().parent
HELP = (
    "Trains a model on scans of healthy people from your own scanner, in six steps; it then stands in the list of the "
    "module DISYRE. Research use only; not a medical device. Everything runs on this computer. "
    '<a href="https://github.com/SlicerDISYRE/SlicerDISYRE">Manual</a>.'
)


class DISYRETraining(ScriptedLoadableModule):
    """What Slicer lists."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "DISYRE Training"
        parent.categories = [translate("qSlicerAbstractCoreModule", "Neuroimaging")]
        parent.dependencies = []
        parent.contributors = ["SlicerDISYRE contributors"]
        parent.helpText = _(HELP)
        parent.acknowledgementText = ""


@parameterNodeWrapper
class DISYRETrainingParameterNode:
    """What is saved with a scene.

    Attributes:
        page: That is shown, counted from 0.
        scansFolder: With healthy scans.
        mapsFolder: With label maps; may be empty.
        workFolder: Prepared scans, and a folder for each run.
        excluded: Scans that are left out, a path relative to their folder in each line.
        lookForAnomalies: Whether the check looks for scans that look anomalous to the present model.
        healthy: Whether the user says that all scans are of healthy people.
        size: Diameter of the largest anomalies in mm.
        strength: Of the faintest anomalies.
        texture: Share of anomalies with a texture.
        bias: Mean change of brightness.
        seed: Of the anomalies that are shown.
        name: Id of the model.
        start: Id of the model to start from; empty for random weights.
        preset: How long the training is.
        device: Where it runs.
        steps: Of the training; 0 for those of the preset.
        falseFindings: Per healthy scan, at the mark in the histogram.
        title: Of the model.
        data: What it was trained on.
        licence: Of its weights.
    """

    page: Annotated[int, WithinRange(0, 5)] = 0
    scansFolder: str = ""
    mapsFolder: str = ""
    workFolder: str = ""
    excluded: str = ""
    lookForAnomalies: bool = True
    healthy: bool = False
    size: Annotated[float, WithinRange(10, LARGEST_MM)] = 70
    strength: Annotated[float, WithinRange(0, 1)] = 0.5
    texture: Annotated[float, WithinRange(0, 1)] = 0.3
    bias: Annotated[float, WithinRange(0.1, 0.9)] = 0.4
    seed: int = 0
    name: str = "my-scanner"
    start: str = "brain-restoration"
    preset: Preset = Preset.SMALL
    device: Device = Device.AUTOMATIC
    steps: Annotated[int, WithinRange(0, 10_000_000)] = 0
    falseFindings: Annotated[float, WithinRange(0.02, 5)] = 0.5
    title: str = ""
    data: str = ""
    licence: str = ""


class DISYRETrainingWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The wizard; what it does is in `DISYRETrainingLib`."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.wizard = None

    def setup(self) -> None:
        """Builds the wizard."""
        ScriptedLoadableModuleWidget.setup(self)
        from DISYRETrainingLib.wizard import Wizard

        view = slicer.util.loadUI(self.resourcePath("UI/DISYRETraining.ui"))
        self.layout.addWidget(view)
        self.ui = slicer.util.childWidgetVariables(view)
        view.setMRMLScene(slicer.mrmlScene)
        self.logic = DISYRETrainingLogic()
        self.wizard = Wizard(self.ui, self.logic)
        scene = slicer.mrmlScene
        for event, slot in (
            (scene.StartCloseEvent, self.onSceneStart),
            (scene.EndCloseEvent, self.onSceneEnd),
            (scene.StartImportEvent, self.onSceneStart),
            (scene.EndImportEvent, self.onSceneEnd),
        ):
            self.addObserver(scene, event, slot)
        self.wizard.bind(self.logic.getParameterNode())

    def enter(self) -> None:
        """Called when the user opens the module."""
        if self.wizard.parameters is None:
            self.wizard.bind(self.logic.getParameterNode())
        self.wizard.enter()

    def exit(self) -> None:
        """Called when the user opens another module; a training goes on."""
        self.wizard.exit()

    def cleanup(self) -> None:
        """Called when the module is about to be unloaded."""
        self.removeObservers()
        if self.wizard:
            self.wizard.exit()
            self.wizard.unbind()
        if self.logic:
            self.logic.close()

    def onSceneStart(self, *_args) -> None:
        """The scene is about to be closed or loaded: lets go of everything that belongs to it."""
        self.wizard.unbind()
        self.logic.forgetParameters()

    def onSceneEnd(self, *_args) -> None:
        """Takes up the parameters of the new scene; when another module is open, `enter` does it later."""
        if self.parent.isEntered:
            self.wizard.bind(self.logic.getParameterNode())

    def onReload(self) -> None:
        """Reloads the helpers and the core too."""
        self.cleanup()
        for name in [name for name in sys.modules if name.split(".")[0] in ("DISYRECore", "DISYRETrainingLib")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class DISYRETrainingLogic(ScriptedLoadableModuleLogic):
    """Starts trainings and asks the worker; knows nothing of the wizard."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self.core = CORE
        self._client = self._parameters = None

    def getParameterNode(self) -> DISYRETrainingParameterNode:
        """The parameters of the scene; those of an unreadable older scene are set back to their defaults."""
        node = super().getParameterNode()
        if self._parameters is None or self._parameters.parameterNode is not node:
            try:
                self._parameters = DISYRETrainingParameterNode(node)
            except (KeyError, ValueError):
                node.UnsetAllParameters()
                self._parameters = DISYRETrainingParameterNode(node)
        return self._parameters

    def forgetParameters(self) -> None:
        """Has the parameter node read anew: it outlives its scene, and an import changes what it holds."""
        self._parameters = None

    @property
    def client(self):
        """The worker process, started when it is first asked for something."""
        if self._client is None:
            from DISYRELib.client import WorkerClient

            self._client = WorkerClient(self.core / "apps" / "training_worker.py")
        return self._client

    def train(self, run: Path, images: Path, labelmaps: Path | None, cache: Path, device: str = "auto"):
        """Begins or resumes a training that needs nobody to go on; its config lies in its folder.

        Args:
            run: Folder of the run, with a `DISYRECore.training.follow.CONFIG`.
            images: Folder of healthy scans.
            labelmaps: Folder of label maps, or None.
            cache: Folder of prepared scans.
            device: ``auto``, ``cpu`` or ``cuda``.

        Returns:
            The `subprocess.Popen` of the training.

        Raises:
            DisyreError: It cannot be started.
        """
        from DISYRETrainingLib.detached import start

        return start(self.core, run, images, labelmaps, cache, device)

    def close(self) -> None:
        """Ends the worker; a training goes on."""
        if self._client is not None:
            self._client.stop()
        self._client = None


class DISYRETrainingTest(ScriptedLoadableModuleTest):
    """Checks what can be checked without a training."""

    def runTest(self) -> None:
        """Runs every test."""
        self.test_a_run_is_followed_from_outside()

    def test_a_run_is_followed_from_outside(self) -> None:
        """What a run has told is found again by who was not there."""
        import tempfile

        from DISYRECore.training.follow import EVENTS, Follower

        with tempfile.TemporaryDirectory() as folder:
            told = '{"event": "start", "name": "a", "step": 0, "steps": 9, "device": "cpu"}\n'
            (Path(folder) / EVENTS).write_text(told, encoding="utf-8")
            follower = Follower(Path(folder))
            self.assertTrue(follower.read())
            self.assertEqual((follower.view.state, follower.view.steps), ("running", 9))
            self.assertFalse(follower.is_alive())
        self.delayDisplay("Found the run")
