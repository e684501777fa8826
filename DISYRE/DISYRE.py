"""The module DISYRE: finds what is abnormal in a brain MRI after having learnt only what is normal."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Union

import slicer
from slicer import vtkMRMLLabelMapVolumeNode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
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
    import DISYRECore
except ModuleNotFoundError:  # a source checkout, where the core lies one folder up
    _ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not os.path.isfile(os.path.join(_ROOT, "DISYRECore", "__init__.py")):
        raise
    sys.path.append(_ROOT)
    import DISYRECore

from DISYRELib.checks import scene_is_busy
from DISYRELib.migration import drop_unreadable, migrate_contrast, migrate_parameters
from DISYRELib.options import CONTRAST, Device, MaskMode, Method, Show

CORE = Path(DISYRECore.__file__).resolve().parent
HELP = (
    "Finds anomalies in brain MRI (T1, T2, FLAIR): a network restores the scan towards healthy anatomy, and where it "
    "had to change the scan, the scan is anomalous. Research use only; not a medical device. Everything runs on this "
    'computer. <a href="https://github.com/SlicerDISYRE/SlicerDISYRE">Manual</a>.'
)
ACKNOWLEDGEMENT = (
    "Methods: Naval Marimont et al., DISYRE (ISBI 2024) and Ensembled cold-diffusion restorations (MICCAI 2024). "
    "Label maps: SynthSeg (Billot et al., Medical Image Analysis 2023). Code and weights: Apache-2.0."
)


class DISYRE(ScriptedLoadableModule):
    """What Slicer lists."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "DISYRE"
        parent.categories = [translate("qSlicerAbstractCoreModule", "Neuroimaging")]
        parent.dependencies = []
        parent.contributors = ["SlicerDISYRE contributors"]
        parent.helpText = _(HELP)
        parent.acknowledgementText = _(ACKNOWLEDGEMENT)
        slicer.app.connect("startupCompleted()", self.onStartup)

    def onStartup(self) -> None:
        """Registers sample data and terminology, and lets `slicer.modules.disyre.logic()` detect."""
        from DISYRELib import samples, terminology

        self._cppLogic = slicer.modules.disyre.logic()
        publish(DISYRELogic())
        samples.register(lambda: self._cppLogic.makeDemo(), self.resourcePath("Icons/DISYRE.png"))
        terminology.load()


def publish(logic: "DISYRELogic") -> None:
    """Lets `slicer.modules.disyre.logic()` detect with this logic from now on."""
    offered = slicer.modules.disyre.logic()
    getattr(offered, "close", lambda: None)()
    slicer.app.connect("aboutToQuit()", logic.close)
    for name in ("detect", "cancel", "close", "results", "makeDemo"):
        setattr(offered, name, getattr(logic, name))


@parameterNodeWrapper
class DISYREParameterNode:
    """What is saved with a scene.

    Attributes:
        inputVolume: The MRI.
        model: Id of a model, or ``auto``.
        method: How the model is used.
        maskMode: Where the brain mask comes from.
        maskNode: The brain mask when it is given.
        falseFindings: Per healthy scan that are accepted.
        border: Display score above which a finding is drawn.
        smallestFinding: In mL.
        show: What is drawn.
        heatOpacity: Of the heat map.
        scoreVolume: The result that is shown and that the next detection replaces.
        segmentation: Where its findings go.
        withRestored: Whether the restored image is added to the scene.
        device: Where the network runs.
        batchSize: Slices at a time, 0 for automatic.
        keepMinutes: How long the model is kept ready.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    model: str = "auto"
    method: Method = Method.MODEL
    maskMode: MaskMode = MaskMode.AUTOMATIC
    maskNode: Union[vtkMRMLSegmentationNode, vtkMRMLLabelMapVolumeNode, None]  # noqa: UP007
    falseFindings: Annotated[float, WithinRange(0.02, 5)] = 0.5
    border: Annotated[float, WithinRange(0, 1)] = 0.5
    smallestFinding: Annotated[float, WithinRange(0, 5)] = 0.1
    show: Show = Show.OUTLINE
    heatOpacity: Annotated[float, WithinRange(0, 1)] = 0.4
    scoreVolume: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    withRestored: bool = True
    device: Device = Device.AUTOMATIC
    batchSize: Annotated[int, WithinRange(0, 64)] = 0
    keepMinutes: Annotated[int, WithinRange(0, 60)] = 5


class DISYREWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel; what it does is in `DISYRELib.panel`."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None

    def setup(self) -> None:
        """Builds the panel."""
        ScriptedLoadableModuleWidget.setup(self)
        from DISYRELib.panel import Panel

        view = slicer.util.loadUI(self.resourcePath("UI/DISYRE.ui"))
        self.layout.addWidget(view)
        self.ui = slicer.util.childWidgetVariables(view)
        view.setMRMLScene(slicer.mrmlScene)
        self.logic = DISYRELogic()
        self.panel = Panel(self.ui, self.logic)
        scene = slicer.mrmlScene
        for change in ("Close", "Import", "Restore", "Undo", "Redo"):
            self.addObserver(scene, getattr(scene, f"Start{change}Event"), self.onSceneStart)
            self.addObserver(scene, getattr(scene, f"End{change}Event"), self.onSceneEnd)
        self.addObserver(scene, scene.EndBatchProcessEvent, self.onBatchEnd)
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent):
            self.addObserver(scene, event, self.onNodes)
        self.panel.bind(self.logic.getParameterNode())
        if self.parent.isEntered:  # it was reloaded while it was open
            self.panel.enter()

    def enter(self) -> None:
        """Called when the user opens the module."""
        if self.panel.parameters is None:
            self.panel.bind(self.logic.getParameterNode())
        self.panel.enter()

    def exit(self) -> None:
        """Called when the user opens another module; a detection continues."""
        self.panel.exit()

    def cleanup(self) -> None:
        """Called when the module is about to be unloaded."""
        self.removeObservers()
        if self.panel:
            self.panel.unbind()
            self.panel.exit()
        if self.logic:
            self.logic.close()
            self.logic.forgetParameters()

    def onSceneStart(self, *_args) -> None:
        """The scene is about to be closed or loaded: lets go of everything that belongs to it."""
        self.panel.unbind()
        self.logic.forgetParameters()

    def onSceneEnd(self, *_args) -> None:
        """Takes up the parameters of the new scene; when another module is open, `enter` does it later."""
        if self.parent.isEntered:
            self.panel.bind(self.logic.getParameterNode())

    def onBatchEnd(self, *_args) -> None:
        """Does what the panel left undone while the scene was being edited."""
        self.panel.catch_up()

    def onNodes(self, *_args) -> None:
        """Takes up volumes that were loaded, once they are complete."""
        self.panel.look_again()

    def onReload(self) -> None:
        """Reloads the helpers and the core too."""
        self.cleanup()
        for name in [name for name in sys.modules if name.split(".")[0] in ("DISYRECore", "DISYRELib")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)
        module = sys.modules[__name__]
        module.publish(module.DISYRELogic())


class DISYRELogic(ScriptedLoadableModuleLogic):
    """Detects in a volume of the scene and keeps the results; knows nothing of the panel."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self.core = CORE
        self._client = self._parameters = None
        self.detection = None

    def getParameterNode(self) -> DISYREParameterNode:
        """The parameters of the scene; what an older scene holds and nobody can read is set back to its default.

        They are kept until the scene is closed or another is loaded, since they keep the nodes that they refer to.
        """
        node = super().getParameterNode()
        if self._parameters is not None and self._parameters.parameterNode is node:
            return self._parameters
        migrate_parameters(node)
        migrate_contrast(node, CONTRAST)
        drop_unreadable(node, DISYREParameterNode)
        parameters = DISYREParameterNode(node)
        if not scene_is_busy():
            self._parameters = parameters
        return parameters

    def forgetParameters(self) -> None:
        """Has the parameter node read anew: it outlives its scene, and an import changes what it holds."""
        self._parameters = None

    @property
    def client(self):
        """The worker process, started when it is first asked for something."""
        if self._client is None:
            from DISYRELib.client import WorkerClient

            self._client = WorkerClient(self.core / "apps" / "worker.py")
        return self._client

    @property
    def running(self) -> bool:
        """Whether the worker has something to do, or its result is being added to the scene."""
        detecting = self.detection is not None and self.detection.running
        return detecting or (self._client is not None and self._client.busy)

    def cancel(self) -> None:
        """Stops what is running; within three seconds."""
        if self.detection is not None and self.detection.running:
            self.detection.cancel()
        elif self._client is not None:
            self._client.cancel()

    def close(self) -> None:
        """Ends the worker, and what is running with it."""
        if self.detection is not None:
            self.detection.close()
        if self._client is not None:
            self._client.stop()
        self._client = None

    def detect(self, volumeNode, model: str = "auto", wait: bool = True, onEvent=None, border=None, **options):
        """Detects anomalies in a volume and adds the result to the scene.

        Args:
            volumeNode: A scalar volume.
            model: Id or folder of a model, or ``auto``.
            wait: Whether to return only when it is done.
            onEvent: Called with the events of the worker, if given.
            border: Display score above which a finding is drawn; the model's own when None.
            options: ``method``, ``contrast``, ``further``, ``mask``, ``device``, ``batch`` as in
                `DISYRELib.run.Settings`;
                ``smallestFinding`` in mL; ``falseFindings`` per healthy scan; ``score`` and ``segmentation``, nodes to
                write to; ``withRestored``.

        Returns:
            The `DISYRELib.scene.Result` with the nodes; None when not waiting (then ``onEvent`` gets it as the
            ``result`` of the last event).

        Raises:
            DisyreError: One sentence that says why it could not be done.
        """
        from DISYRELib.detection import Detection

        from DISYRECore.errors import DisyreError

        if self.running:
            raise DisyreError(_("A detection is running; wait for it or cancel it."), "busy")
        self.detection = Detection(self.client, volumeNode, model, border, onEvent, options)
        return self.detection.wait() if wait else None

    def results(self, volumeNode) -> list:
        """The results of a volume that are in the scene, oldest first."""
        from DISYRELib.scene import results_of

        return results_of(volumeNode)

    def request(self, request: dict) -> dict:
        """Asks the worker for something and waits, while the application stays alive; returns the last event.

        Raises:
            DisyreError: It failed or was cancelled.
        """
        from DISYRELib.detection import ask

        return ask(self.client, request)

    def makeDemo(self):
        """Makes a demo scan with a lesion on this computer; returns its volume."""
        from DISYRELib.samples import load_demo

        return load_demo(self)


class DISYRETest(ScriptedLoadableModuleTest):
    """Runs the logic with the real worker where its packages are installed, otherwise checks that it says so."""

    def setUp(self) -> None:
        """Starts from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Runs every test."""
        for test in (self.test_refuses_in_words, self.test_detects_a_marked_sphere):
            self.setUp()
            test()

    def test_refuses_in_words(self) -> None:
        """A volume without contrast is refused in one sentence, and nothing is added to the scene."""
        import numpy as np

        from DISYRECore.errors import DisyreError

        volume = slicer.util.addVolumeFromArray(np.zeros((8, 8, 8), np.float32), name="Flat")
        before = slicer.mrmlScene.GetNumberOfNodes()
        with self.assertRaises(DisyreError):
            DISYRELogic().detect(volume)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)

    def test_detects_a_marked_sphere(self) -> None:
        """The z-score baseline finds a bright sphere in a ball of tissue, at its place."""
        from DISYRELib.selftest import CENTRE_RAS, ball_with_sphere

        from DISYRECore.errors import DisyreError

        logic = DISYRELogic()
        try:
            result = logic.detect(ball_with_sphere(), method="z-score", mask="stripped", device="cpu")
        except DisyreError as problem:
            self.assertEqual(problem.kind, "missing", str(problem))
            logging.info("Only the refusal was tested: %s", problem)
            return
        finally:
            logic.close()
        self.assertEqual(result.table.GetNumberOfRows(), 1)
        for axis, place in zip("RAS", CENTRE_RAS, strict=True):
            column = result.table.GetTable().GetColumnByName(f"{axis} mm")
            self.assertLess(abs(column.GetValue(0) - place), 12)
        self.delayDisplay("Found the sphere")
