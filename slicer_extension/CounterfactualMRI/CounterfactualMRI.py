"""Module CounterfactualMRI: how would this scan have looked, had it been acquired otherwise?"""

import json
from pathlib import Path

import qt
import slicer
import vtk
from CounterfactualMRILib import results
from CounterfactualMRILib.acquisition import readAcquisition, whereFrom
from CounterfactualMRILib.case_section import CaseSection
from CounterfactualMRILib.controls import ParameterControls
from CounterfactualMRILib.editing_section import EditingSection
from CounterfactualMRILib.exchange import ExchangeProblem, gridOfResult
from CounterfactualMRILib.job_display import JobDisplay
from CounterfactualMRILib.layout import Comparison, registerLayouts, showInSliceViews, sliceInView
from CounterfactualMRILib.logic import CounterfactualMRILogic
from CounterfactualMRILib.preset_section import PresetSection
from CounterfactualMRILib.problems import Problem, ServerProblem
from CounterfactualMRILib.reader_section import ReaderSection
from CounterfactualMRILib.results_section import ResultsSection
from CounterfactualMRILib.sample_data import registerSampleData
from CounterfactualMRILib.schema import COUNTERFACTUAL
from CounterfactualMRILib.server_section import ServerSection
from CounterfactualMRILib.training_section import TrainingSection
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

POLL_INTERVAL_MS = 100
ICON = Path(__file__).parent / "Resources" / "Icons" / "CounterfactualMRI.png"


class CounterfactualMRI(ScriptedLoadableModule):
    """What Slicer shows about the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "Counterfactual MRI"
        self.parent.categories = ["Image Synthesis"]
        self.parent.dependencies = []
        self.parent.contributors = ["cfmri contributors"]
        self.parent.helpText = (
            "Shows an MR volume as it would have looked had it been acquired otherwise (field strength, echo time, "
            "scanner...), segments tissue and retrains the segmentation, on a server started with "
            "<code>cfmri serve</code>. "
            "For research only: a synthetic image is not an acquisition."
        )
        self.parent.acknowledgementText = "Built on MONAI Label and MONAI."
        slicer.app.connect("startupCompleted()", lambda: registerSampleData(str(ICON)))
        slicer.app.connect("startupCompleted()", registerLayouts)


class CounterfactualMRIWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel. It only shows and asks; the work is done by `CounterfactualMRILogic`."""

    def __init__(self, parent=None):
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.factual = {}
        self.targets = None
        self.options = None
        self.guiTag = None
        self.timer = None
        self.comparison = Comparison()
        ScriptedLoadableModuleWidget.__init__(self, parent)

    # ---- life of the panel -------------------------------------------------------------------

    def setup(self):
        """Build the panel from its .ui file."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/CounterfactualMRI.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        ui, self.logic = self.ui, CounterfactualMRILogic()
        self.display = JobDisplay(ui.progressBar, ui.statusLabel)
        self.serverSection = ServerSection(ui, self.logic, self.showAvailability)
        self.case = CaseSection(ui, self.logic, self._start, self.onCaseLoaded, self.showAvailability)
        self.results = ResultsSection(ui, self.logic, self.comparison, self.onResultSelected, self.wake)
        self.presets = PresetSection(ui, self._ask, self.display.say)
        self.editing = EditingSection(ui, self.onEdit, self.onCancel, self.showAvailability)
        self.training = TrainingSection(ui, self.logic, lambda: self.parameterNode, self.wake)
        self.reading = ReaderSection(ui, self.comparison, self.onReadingChanged)
        ui.testConnectionButton.connect("clicked(bool)", self.onTestConnection)
        ui.inputSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onInputChanged)
        ui.predictButton.connect("clicked(bool)", self.onPredict)
        ui.generateButton.connect("clicked(bool)", self.onGenerateOrCancel)
        ui.previewButton.connect("clicked(bool)", self.onPreview)
        ui.askAgainButton.connect("clicked(bool)", self.onAskAgain)
        ui.segmentButton.connect("clicked(bool)", self.onSegment)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeRemovedEvent, self.onNodeRemoved)
        self.timer = qt.QTimer()
        self.timer.setInterval(POLL_INTERVAL_MS)
        self.timer.connect("timeout()", self.onTimer)
        self._attachParameterNode()
        self.serverSection.onServerChanged()
        self.onInputChanged()

    def enter(self):
        """Take up the parameter node again when the user comes back to the module."""
        self._attachParameterNode()

    def exit(self):
        """Let go of the parameter node while another module is shown; running jobs go on."""
        self._detachParameterNode()

    def cleanup(self):
        """End everything when the panel is destroyed."""
        self.timer.stop()
        self.display.cancel()
        self.training.display.cancel()
        self.reading.end()
        self.results.end()
        self.logic.end()
        self._detachParameterNode()
        self.removeObservers()

    def onSceneStartClose(self, caller, event):  # noqa: ARG002
        """The scene's nodes go away: a running job's result has no place any more."""
        self.display.cancel()
        self.reading.end()
        self.results.end()
        self.results.show(None)
        self._detachParameterNode()

    def onSceneEndClose(self, caller, event):  # noqa: ARG002
        """Start again in the empty scene."""
        self._attachParameterNode()
        self.onInputChanged()

    def onSceneEndImport(self, caller, event):  # noqa: ARG002
        """Take up the parameters, volumes and results of a scene that was loaded."""
        if self.comparison.isBlinded and not self.reading.isReading:
            self.comparison.restore()  # what that reading showed is not in the scene
        self._attachParameterNode()
        self.onInputChanged()

    def onNodeRemoved(self, caller, event):  # noqa: ARG002
        """A result that somebody else removed leaves the table too."""
        if not (slicer.mrmlScene.IsClosing() or slicer.mrmlScene.IsImporting()):
            self.results.show(self.ui.inputSelector.currentNode(), self.results.current())

    def _attachParameterNode(self):
        self._detachParameterNode()
        self.parameterNode = self.logic.getParameterNode()
        self.guiTag = self.parameterNode.connectGui(self.ui)

    def _detachParameterNode(self):
        if self.guiTag is not None:
            self.parameterNode.disconnectGui(self.guiTag)
            self.guiTag = None

    # ---- server --------------------------------------------------------------------------------

    def onTestConnection(self, *_):
        """Ask the server what it offers, and build the controls from its answer."""
        self._start(lambda: self.logic.connectToServer(wait=False), self._onConnected, self.ui.connectionLabel)

    def _onConnected(self, server):
        ui, model = self.ui, server.models.get(COUNTERFACTUAL)
        self.serverSection.remember()
        self.targets = ParameterControls(ui.targetsContainer, model.targets() if model else (), self.onRequestChanged)
        self.options = ParameterControls(ui.optionsContainer, model.options() if model else (), self.onRequestChanged)
        ui.targetsHint.visible = model is None
        self.presets.offer(model)
        self.case.offer(server)
        self.editing.offer(server)
        self.training.offer(server)
        requested = json.loads(self.parameterNode.requested)
        self.targets.setValues(requested)
        self.options.setValues(requested)
        self.targets.setPresent(self.factual)
        return f"Connected. Models: {', '.join(sorted(server.models))}."

    # ---- scan ----------------------------------------------------------------------------------

    def onInputChanged(self, *_):
        """Show how the chosen volume was acquired, as far as its DICOM header says."""
        if slicer.mrmlScene.IsImporting():
            return  # not all of it is there yet; `onSceneEndImport` follows
        volume = self.ui.inputSelector.currentNode()
        self._setFactual(*((readAcquisition(volume), whereFrom(volume)) if volume is not None else ({}, "")))
        self.results.show(volume, self.parameterNode.resultVolume)
        self.case.showInput(volume)
        self.showAvailability()

    def onCaseLoaded(self, volume):
        """Work on a volume that came from the server, and show it unless pairs are being read."""
        self.parameterNode.inputVolume = volume  # the selector is not bound to it while another module is shown
        self.ui.inputSelector.setCurrentNode(volume)
        if not self.reading.isReading:
            showInSliceViews(volume)

    def _setFactual(self, factual, source="from the DICOM header"):
        self.factual = factual
        text = (
            f"{len(factual)} parameters {source}."
            if factual
            else "No acquisition parameters known; the server can predict."
        )
        self.ui.acquisitionLabel.text = text if self.ui.inputSelector.currentNode() is not None else ""
        if self.targets is not None:
            self.targets.setPresent(factual)

    def onPredict(self, *_):
        """Let the server predict how the volume was acquired."""
        volume = self.ui.inputSelector.currentNode()

        def show(predicted):
            if volume is self.ui.inputSelector.currentNode():
                self._setFactual(
                    {name: entry["value"] for name, entry in predicted.items()}, "predicted from the image"
                )
            return "Parameters predicted."

        self._start(lambda: self.logic.predictParameters(volume, wait=False), show)

    # ---- counterfactual and tissue ---------------------------------------------------------------

    def onRequestChanged(self):
        """Keep in the scene what is asked for."""
        self.parameterNode.requested = json.dumps({**self.targets.values(), **self.options.values()})
        self.showAvailability()

    def onAskAgain(self, *_):
        """Put what the selected result was made with back into the controls; the same seed gives the same again."""
        node = self.results.current()
        if node is None or self.targets is None:
            return
        evidence = results.evidenceOf(node)
        self.options.setValues({**self.options.values(), **results.optionsOf(evidence)})
        self._ask(results.requestedChangesOf(evidence))

    def _ask(self, values):
        """Show values in the controls, if there are any: those that differ from how the volume was acquired."""
        if self.targets is None:
            return
        wanted = {name: value for name, value in values.items() if self.factual.get(name) != value}
        self.targets.setValues(wanted)
        self.onRequestChanged()

    def onGenerateOrCancel(self, *_):
        """Start the counterfactual, or cancel what is running."""
        if self.display.isBusy:
            self.onCancel()
        else:
            self._generate({})

    def onCancel(self):
        """Let go of what is running."""
        self.display.cancel()
        self.onTimer()

    def onEdit(self, model, values, region):
        """Let an editor change the anatomy of the chosen volume."""
        volume, parameters = self.ui.inputSelector.currentNode(), {**values, "factual": self.factual or None}
        self._start(
            lambda: self.logic.edit(model, volume, parameters, region, wait=False),
            self._onGenerated,
            self.ui.editingLabel,
        )

    def onPreview(self, *_):
        """Make only the slice that is in view."""
        number = sliceInView(self.ui.inputSelector.currentNode())
        if number is None:
            self.display.say("No slice view shows the volume in its plane of acquisition. Show it, then repeat.")
            return
        self._generate({"slices": str(number)})

    def _generate(self, more):
        parameters = {**self.options.values(), **self.targets.values(), **more, "factual": self.factual or None}
        volume = self.ui.inputSelector.currentNode()
        self._start(lambda: self.logic.generateCounterfactual(volume, parameters, wait=False), self._onGenerated)

    def _onGenerated(self, node):
        self.parameterNode.resultVolume = node
        if self.ui.inputSelector.currentNode() is results.sourceOf(node) and not self.reading.isReading:
            self.results.show(results.sourceOf(node), node)
            self.results.compare()
        warnings = results.evidenceOf(node).get("warnings") or []
        return "\n".join([f"Made {node.GetName()}.", *(f"Caution: {warning}" for warning in warnings)])

    def onResultSelected(self, node):
        """Remember which counterfactual is looked at."""
        self.parameterNode.resultVolume = node
        self.showAvailability()

    def onReadingChanged(self):
        """While pairs are read blinded, nothing else may tell which is which; results of that time are listed after."""
        ui, isReading = self.ui, self.reading.isReading
        for section in (ui.resultsCollapsibleButton, ui.counterfactualCollapsibleButton, ui.editingCollapsibleButton):
            section.collapsed = isReading
            section.enabled = not isReading
        if not isReading:
            self.results.show(ui.inputSelector.currentNode(), self.parameterNode.resultVolume)

    def onSegment(self, *_):
        """Segment tissue in the chosen volume."""
        volume = self.ui.inputSelector.currentNode()

        def show(node):
            if volume is self.ui.inputSelector.currentNode():
                self.case.showLabelOf(volume)
            return f"Made {node.GetName()}."

        self._start(lambda: self.logic.segment(volume, wait=False), show)

    # ---- jobs ------------------------------------------------------------------------------------

    def wake(self):
        """Look after work that was started; show its first state now."""
        self.timer.start()
        self.onTimer()
        self.showAvailability()

    def _start(self, begin, onDone, label=None):
        try:
            self.display.watch(begin(), onDone, label)
            self.timer.start()
        except Problem as problem:
            self.display.say(str(problem), label)
        self.showAvailability()

    def onTimer(self):
        """Take over what the workers reported (about ten times a second while something runs)."""
        self.logic.poll()
        if any([self.display.update(), self.training.update(), self.results.display.update()]):
            self.showAvailability()
        if not (self.display.isBusy or self.training.display.isBusy or self.logic.isBusy):
            self.timer.stop()

    def showAvailability(self):
        """Enable what can be done now, and say in the tool tip why something cannot."""
        ui, server, isBusy = self.ui, self.logic.server, self.display.isBusy
        reason = "" if server else "Test the connection first"
        reason = reason or ("" if ui.inputSelector.currentNode() is not None else "Choose an MR volume")
        reason = reason or ("" if self.serverSection.mayUpload() else "Allow sending images to this server")
        nothing = "" if self.targets and self.targets.values() else "Choose at least one parameter to change"
        ui.testConnectionButton.enabled = not isBusy
        ui.predictButton.enabled = ui.segmentButton.enabled = not (reason or isBusy)
        ui.generateButton.text = "Cancel" if isBusy else "Generate counterfactual"
        ui.generateButton.enabled = isBusy or not (reason or nothing)
        ui.generateButton.toolTip = (
            "" if isBusy else reason or nothing or "Make a new volume; the source is not changed"
        )
        ui.previewButton.enabled = not (reason or nothing or isBusy)
        self.case.showAvailability(isBusy, reason)
        self.editing.showAvailability(isBusy, reason)
        self.results.showAvailability()
        self.training.showAvailability()


class CounterfactualMRITest(ScriptedLoadableModuleTest):
    """Self-test for people who have Slicer; needs no server."""

    def runTest(self):
        """Run as few as possible; return when all passed."""
        slicer.mrmlScene.Clear()
        self.test_resultsMustLieOnTheSourceGrid()
        slicer.mrmlScene.Clear()
        self.test_absentServerIsReported()

    def test_resultsMustLieOnTheSourceGrid(self):
        """A result on the source's grid is accepted; one that is shifted by a tenth of a millimetre is refused."""
        source, result = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode") for _ in range(2))
        for node in (source, result):
            image = vtk.vtkImageData()
            image.SetDimensions(4, 5, 6)
            image.AllocateScalars(vtk.VTK_FLOAT, 1)
            node.SetAndObserveImageData(image)
        gridOfResult(result, source)
        result.SetOrigin(0.1, 0, 0)
        with self.assertRaises(ExchangeProblem):
            gridOfResult(result, source)

    def test_absentServerIsReported(self):
        """A port on which nobody listens gives a problem with a hint."""
        with self.assertRaises(ServerProblem) as caught:
            CounterfactualMRILogic("http://127.0.0.1:9").connectToServer()
        self.assertTrue(caught.exception.hint)
