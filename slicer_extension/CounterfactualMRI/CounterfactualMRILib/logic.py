"""The module's work on the scene, usable from scripts without any widget. No Qt.

Example:
    >>> logic = CounterfactualMRILogic("http://127.0.0.1:8000")
    >>> node = logic.generateCounterfactual(volumeNode, {"echo_time_ms": 1.4, "field_strength_t": 1.5})
"""

from __future__ import annotations

from typing import Any, Callable, Mapping

from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from CounterfactualMRILib import exchange, results
from CounterfactualMRILib.acquisition import readAcquisition
from CounterfactualMRILib.client import Result
from CounterfactualMRILib.connection import Connection
from CounterfactualMRILib.jobs import Job
from CounterfactualMRILib.parameter_node import CounterfactualMRIParameterNode
from CounterfactualMRILib.schema import COUNTERFACTUAL, IAP_PREDICTOR, TISSUE_SEGMENTER, Server

DEFAULT_ADDRESS = "http://127.0.0.1:8000"


class CounterfactualMRILogic(ScriptedLoadableModuleLogic):
    """Counterfactuals, tissue labels, predicted parameters and training, from a cfmri server.

    Each task takes ``wait``: true blocks and returns the result; false returns a `jobs.Job` at once, and
    `poll` must then be called now and then on the main thread (the panel's timer does).

    Args:
        address: The server.
        token: Bearer token, if the server asks for one.
        caFile: Certificate authority, for a server with a certificate of its own.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, token: str = "", caFile: str = "") -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self._jobs: list[Job] = []
        self.setServer(address, token, caFile)

    def getParameterNode(self) -> CounterfactualMRIParameterNode:
        """Return the panel's typed parameter node."""
        return CounterfactualMRIParameterNode(super().getParameterNode())

    def setServer(self, address: str, token: str = "", caFile: str = "") -> None:
        """Say which server to use from now on. Nothing is sent yet; a malformed address shows at the first use."""
        self._connection = Connection(address, token, caFile)

    @property
    def server(self) -> Server | None:
        """What the server offers; ``None`` as long as it was not asked."""
        return self._connection.server

    def connectToServer(self, wait: bool = True) -> Server | Job:
        """Ask the server what it offers.

        Raises:
            ServerProblem: It cannot be reached, is no cfmri server, or is another version's.
        """

        def work(report: Callable, isCancelled: Callable) -> Server:  # noqa: ARG001
            connection.open()
            return connection.server

        connection = self._connection = self._connection.renewed()
        return self._run(Job("Connecting to the server", work), wait)

    def generateCounterfactual(self, volumeNode, parameters: Mapping[str, Any], wait: bool = True):
        """Make the volume as it would have looked if acquired otherwise.

        Args:
            volumeNode: The source; it is never changed.
            parameters: Values to change (``echo_time_ms`` ...) and options (``method``, ``seed`` ...), by the names
                of the server's parameter list. ``factual`` says how the source was acquired; without it the DICOM
                header is asked, and what it does not tell the server predicts.
            wait: See the class.

        Returns:
            A new volume node named "[synthetic] ...", on the source's grid, with its provenance as attributes; or the
            job.

        Raises:
            ExchangeProblem: The volume cannot be sent, or the result does not lie on its grid.
            ServerProblem: The server refused or failed.
        """
        exchange.requireSendable(volumeNode)
        request = {name: value for name, value in parameters.items() if value is not None}
        factual = request.pop("factual", None) or readAcquisition(volumeNode)
        if factual:
            request["factual"] = dict(factual)

        def finish(result: Result, server: Server):
            image = exchange.readResult(result.imagePath, volumeNode)
            return results.insertCounterfactual(image, volumeNode, result.values, server.version)

        return self._infer("Generating the counterfactual", COUNTERFACTUAL, volumeNode, request, finish, wait)

    def segment(self, volumeNode, wait: bool = True):
        """Segment fat and fibroglandular tissue.

        Returns:
            A new segmentation node with the server's names and colours; or the job.

        Raises:
            ExchangeProblem: The volume cannot be sent, or the result does not lie on its grid.
            ServerProblem: The server refused or failed.
        """

        def finish(result: Result, server: Server):
            labelmap = exchange.readResult(result.imagePath, volumeNode, "vtkMRMLLabelMapVolumeNode")
            labels = server.models[TISSUE_SEGMENTER].labels
            return results.insertSegmentation(labelmap, volumeNode, labels, server.version)

        return self._infer("Segmenting", TISSUE_SEGMENTER, volumeNode, {}, finish, wait)

    def predictParameters(self, volumeNode, wait: bool = True):
        """Predict from the image how it was acquired.

        Returns:
            ``{name: {"value": ..., "probabilities": {...} or None}}``; or the job.
        """

        def finish(result: Result, server: Server) -> dict[str, Any]:  # noqa: ARG001
            predicted = result.values.get("predicted")
            return predicted if isinstance(predicted, dict) else {}

        return self._infer("Predicting acquisition parameters", IAP_PREDICTOR, volumeNode, {}, finish, wait)

    def train(self, parameters: Mapping[str, Any] | None = None, model: str = TISSUE_SEGMENTER, wait: bool = True):
        """Train a model on the server's own studies; nothing of the scene is sent.

        Args:
            parameters: ``augmentation`` (one of `parameter_node.AUGMENTATIONS`), ``epochs``, ``seed``.
            model: Name of the model.
            wait: See the class.

        Returns:
            The last `client.TrainingStatus`; or the job.
        """

        def work(report: Callable, isCancelled: Callable):
            return connection.open().train(model, dict(parameters or {}), report, isCancelled)

        connection = self._connection
        return self._run(Job("Training", work), wait)

    def poll(self) -> bool:
        """Take over what the background work reported. Call it on the main thread.

        Returns:
            Whether any job changed.
        """
        changed = [job.poll() for job in self._jobs]
        self._jobs = [job for job in self._jobs if not job.isOver]
        return any(changed)

    @property
    def isBusy(self) -> bool:
        """Whether `poll` still has something to wait for."""
        return bool(self._jobs)

    def _infer(self, title: str, model: str, volumeNode, request: dict[str, Any], finish: Callable, wait: bool):
        """Send a volume to a model in the background; ``finish(result, server)`` puts the result into the scene."""

        def work(report: Callable, isCancelled: Callable) -> Result:
            client = connection.openFor(model)
            return client.run(model, request, imagePath, folder.path, report, isCancelled)

        def finishInScene(result: Result):
            results.requireInScene(volumeNode)
            return finish(result, connection.server)

        connection = self._connection
        folder = exchange.TransferFolder()
        try:
            imagePath = exchange.exportVolume(volumeNode, folder.path)
        except exchange.ExchangeProblem:
            folder.remove()
            raise
        request = {**request, "result_extension": ".nrrd"}
        return self._run(Job(title, work, finishInScene, folder.remove), wait)

    def _run(self, job: Job, wait: bool):
        job.start()
        if wait:
            return job.wait()
        self._jobs.append(job)
        return job
