"""The module's work on the scene, usable from scripts without any widget. No Qt.

Example:
    >>> logic = CounterfactualMRILogic("http://127.0.0.1:8000")
    >>> node = logic.generateCounterfactual(volumeNode, {"echo_time_ms": 1.4, "field_strength_t": 1.5})
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any, Callable, Mapping

from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from CounterfactualMRILib import cases, difference, exchange, nifti, region, results, segmentation, uncertainty
from CounterfactualMRILib.acquisition import readAcquisition
from CounterfactualMRILib.client import IMAGE, MASK, Result, mendedAddress
from CounterfactualMRILib.connection import Connection
from CounterfactualMRILib.datastore import Datastore
from CounterfactualMRILib.jobs import Job, startDaemonThread
from CounterfactualMRILib.parameter_node import CounterfactualMRIParameterNode
from CounterfactualMRILib.schema import COUNTERFACTUAL, IAP_PREDICTOR, REGION, TISSUE_SEGMENTER, Counts, Server
from CounterfactualMRILib.training import Training
from CounterfactualMRILib.transfer_folder import TransferFolder, sweepTransferFolders
from CounterfactualMRILib.volume_display import displayRange

DEFAULT_ADDRESS = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class _Answer:
    """A server's answer as the main thread takes it over: all that needs time is done.

    Attributes:
        values: The JSON part.
        image: The result, if there is one.
        widths: Half-widths of the uncertainty, if they were asked for.
        shown: Lowest and highest half-width worth showing.
        labels: Values that occur in an image of labels, without 0.
        checksum: Of the voxels that were sent.
    """

    values: Mapping[str, Any]
    image: nifti.Image | None = None
    widths: nifti.Image | None = None
    shown: tuple[float, float] = (0.0, 1.0)
    labels: tuple[int, ...] = ()
    checksum: str = ""

    @classmethod
    def of(cls, result: Result, sent: nifti.Image, isLabels: bool) -> _Answer:
        """Read what a client saved of what was sent; in the worker thread."""
        images = {name: nifti.read(path) for name, path in result.images.items()}
        image, widths = images.get("image"), images.get(uncertainty.PARAMETER)
        shown = (0.0, 1.0) if widths is None else displayRange(widths.voxels)
        labels = tuple(segmentation.valuesIn(image)) if isLabels and image is not None else ()
        return cls(result.values, image, widths, shown, labels, results.checksumOf(sent.voxels))


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
        startDaemonThread(sweepTransferFolders)

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
                header is asked, and what it does not tell the server predicts. ``uncertainty`` asks for a map of
                half-widths too, see `uncertainty.uncertaintyOf`.
            wait: See the class.

        Returns:
            A new volume node named "[synthetic] ...", on the source's grid, with its provenance as attributes; or the
            job.

        Raises:
            ExchangeProblem: The volume cannot be sent, or the result does not lie on its grid.
            ServerProblem: The server refused or failed.
        """
        exchange.requireSendable(volumeNode)
        request = self._requestOf(volumeNode, parameters)

        def finish(answer: _Answer, server: Server):
            image = exchange.resultNode(answer.image, volumeNode)
            if answer.widths is not None:
                exchange.resultNode(answer.widths, image)  # refused before anything is in the scene
            node = results.insertCounterfactual(image, volumeNode, answer.values, server.version, answer.checksum)
            if answer.widths is not None:
                uncertainty.insertUncertainty(answer.widths, answer.shown, node, answer.values)
            return node

        return self._infer("Generating the counterfactual", COUNTERFACTUAL, volumeNode, request, finish, wait)

    def edit(self, model: str, volumeNode, parameters: Mapping[str, Any], regionNode=None, wait: bool = True):
        """Change anatomy: insert or remove a lesion, change the share of fibroglandular tissue.

        Args:
            model: One of the server's editors, see `schema.EDITORS`.
            volumeNode: The source; it is never changed.
            parameters: ``mode``, ``fgt_fraction``, ``seed`` ..., by the names of the server's parameter list;
                ``factual`` as for `generateCounterfactual`.
            regionNode: Where, for an editor that asks for a region, see `region.regionOf`.
            wait: See the class.

        Returns:
            As `generateCounterfactual`.

        Raises:
            ExchangeProblem: The volume or the region cannot be sent, or the result does not lie on the volume's grid.
            ServerProblem: The server refused or failed.
        """
        exchange.requireSendable(volumeNode)
        where = None if regionNode is None else region.regionOf(regionNode, volumeNode)
        request = self._requestOf(volumeNode, parameters)
        if isinstance(where, list):
            request[REGION] = where

        def finish(answer: _Answer, server: Server):
            image = exchange.resultNode(answer.image, volumeNode)
            return results.insertCounterfactual(image, volumeNode, answer.values, server.version, answer.checksum)

        mask = where if isinstance(where, nifti.Image) else None
        return self._infer("Editing", model, volumeNode, request, finish, wait, mask)

    def insertDifference(self, counterfactual, wait: bool = True):
        """Add what a counterfactual changed to the scene; nothing is sent.

        Args:
            counterfactual: Volume made by `generateCounterfactual`; its source must be in the scene.
            wait: See the class.

        Returns:
            A new volume node: counterfactual minus source in the source's units; or the job.

        Raises:
            ExchangeProblem: The source is gone, or has other voxels or another grid by now.
        """

        def work(report: Callable, isCancelled: Callable):  # noqa: ARG001
            return difference.subtract(*voxels)

        def finish(made):
            results.requireInScene(counterfactual)
            return difference.insertDifference(counterfactual, *made)

        voxels = exchange.snapshotOf(counterfactual).voxels, results.sourceVoxels(counterfactual)
        return self._run(Job("Computing the difference", work, finish), wait)

    def segment(self, volumeNode, wait: bool = True):
        """Segment fat and fibroglandular tissue.

        Returns:
            A new segmentation node with the server's names and colours; or the job.

        Raises:
            ExchangeProblem: The volume cannot be sent, or the result does not lie on its grid.
            ServerProblem: The server refused or failed.
        """

        def finish(answer: _Answer, server: Server):
            labels = server.models[TISSUE_SEGMENTER].labels
            return segmentation.insertSegmentation(answer.image, answer.labels, volumeNode, labels, server.version)

        return self._infer("Segmenting", TISSUE_SEGMENTER, volumeNode, {}, finish, wait)

    def predictParameters(self, volumeNode, wait: bool = True):
        """Predict from the image how it was acquired.

        Returns:
            ``{name: {"value": ..., "probabilities": {...} or None}}``; or the job.
        """

        def finish(answer: _Answer, server: Server) -> dict[str, Any]:  # noqa: ARG001
            predicted = answer.values.get("predicted")
            return predicted if isinstance(predicted, dict) else {}

        return self._infer("Predicting acquisition parameters", IAP_PREDICTOR, volumeNode, {}, finish, wait)

    def train(self, parameters: Mapping[str, Any] | None = None, model: str = TISSUE_SEGMENTER, wait: bool = True):
        """Train a model on the server's own studies; nothing of the scene is sent.

        Args:
            parameters: ``augmentation``, ``epochs``, ``seed`` ..., by the names of the server's parameter list.
            model: Name of the model.
            wait: See the class.

        Returns:
            The last `training.TrainingStatus`; or the job.
        """

        def work(report: Callable, isCancelled: Callable):
            return Training(connection.open(), model).run(dict(parameters or {}), report, isCancelled)

        connection = self._connection
        return self._run(Job("Training", work), wait)

    def nextCase(self, strategy: str, wait: bool = True):
        """Load the image that the server wants labelled next.

        Args:
            strategy: One of the server's strategies.
            wait: See the class.

        Returns:
            A new volume node, ``None`` when every image has a label; the `schema.Counts`; and what the strategy says of
            its choice. Or the job.
        """

        return self._loadCase("Asking for the next case", lambda store: store.next(strategy), wait)

    def firstCase(self, wait: bool = True):
        """Load the first of the server's images, labelled or not; else as `nextCase`."""
        return self._loadCase("Loading a case", lambda store: (next(iter(store.images()), None), ""), wait)

    def submitLabel(self, volumeNode, segmentationNode, mayStore: bool = False, wait: bool = True):
        """Store a corrected segmentation on the server as the volume's final label.

        Args:
            volumeNode: What was segmented. If it is no image of the server, it is stored there first.
            segmentationNode: Its segments have the names of the server's labels; where two overlap, the last counts.
            mayStore: The user agrees to storing the volume on the server.
            wait: See the class.

        Returns:
            The `schema.Counts` afterwards; or the job.

        Raises:
            ExchangeProblem: There is nothing to submit, or it belongs to another volume; or the volume is synthetic, or
                not on the server and may not go there.
            ServerProblem: The server refused or failed.
        """

        def work(report: Callable, isCancelled: Callable) -> tuple[str, Counts]:
            store, labels = Datastore(connection.openFor(TISSUE_SEGMENTER)), connection.server.models[TISSUE_SEGMENTER]
            labelPath, imagePath = (folder.path / f"{uuid.uuid4().hex}.nii.gz" for _ in range(2))
            nifti.write(labelPath, segmentation.labelImage(numbers, names, labels.labels))
            known = imageId
            if not known:
                nifti.write(imagePath, volume)
                known = store.store(imagePath, acquisition, report, isCancelled)
            store.label(known, labelPath, report, isCancelled)
            return known, store.counts()

        def finish(done: tuple[str, Counts]) -> Counts:
            cases.markCase(volumeNode, done[0], address)
            return done[1]

        connection, volume = self._connection, exchange.snapshotOf(volumeNode)
        address, acquisition = mendedAddress(connection.address), readAcquisition(volumeNode)
        imageId = cases.imageIdOf(volumeNode, address)
        cases.requireStorable(volumeNode, address, mayStore)
        segmentation.requireOf(segmentationNode, volumeNode)
        numbers, names = segmentation.segmentNumbers(segmentationNode, volumeNode)
        folder = TransferFolder()
        return self._run(Job("Submitting the label", work, finish, folder.remove), wait)

    def poll(self) -> bool:
        """Take over what the background work reported. Call it on the main thread.

        Returns:
            Whether any job changed.
        """
        changed = [job.poll() for job in self._jobs]
        self._jobs = [job for job in self._jobs if not job.isOver]
        return any(changed)

    def end(self, limitS: float = 1.0) -> None:
        """Cancel what runs, and give the workers a moment to tell the server and to remove their files.

        Args:
            limitS: Longest wait, in seconds.
        """
        for job in self._jobs:
            job.cancel()
        deadline = time.monotonic() + limitS
        while self.isBusy and time.monotonic() < deadline:
            self.poll()
            time.sleep(0.02)

    @property
    def isBusy(self) -> bool:
        """Whether `poll` still has something to wait for."""
        return bool(self._jobs)

    @staticmethod
    def _requestOf(volumeNode, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is asked for together with how the volume was acquired, as far as that is known."""
        request = {name: value for name, value in parameters.items() if value is not None}
        factual = request.pop("factual", None) or readAcquisition(volumeNode)
        return {**request, "factual": dict(factual)} if factual else request

    def _loadCase(self, title: str, choose: Callable[[Datastore], tuple[str | None, str]], wait: bool):
        def work(report: Callable, isCancelled: Callable):
            client = connection.open()
            store = Datastore(client)
            imageId, why = choose(store)
            if imageId is None:
                return None, store.counts(), why
            image = nifti.read(store.fetch(imageId, folder.path, report, isCancelled))
            case = image, displayRange(image.voxels), imageId, client.address, store.acquisition(imageId)
            return case, store.counts(), why

        def finish(found) -> tuple[Any, Counts, str]:
            case, *said = found
            return (None if case is None else cases.insertCase(*case), *said)

        connection, folder = self._connection, TransferFolder()
        return self._run(Job(title, work, finish, folder.remove), wait)

    def _infer(
        self,
        title: str,
        model: str,
        volumeNode,
        request: dict[str, Any],
        finish: Callable,
        wait: bool,
        mask: nifti.Image | None = None,
    ):
        """Send a volume to a model in the background; ``finish(result, server)`` puts the result into the scene."""

        def work(report: Callable, isCancelled: Callable) -> _Answer:
            client = connection.openFor(model)
            files = {}
            for part, image in {IMAGE: volume, MASK: mask}.items():
                if image is not None:
                    files[part] = folder.path / f"{uuid.uuid4().hex}.nii"
                    nifti.write(files[part], image)
            answer = client.run(model, request, files, folder.path, report, isCancelled)
            return _Answer.of(answer, volume, isLabels=model == TISSUE_SEGMENTER)

        def finishInScene(answer: _Answer):
            results.requireInScene(volumeNode)
            return finish(answer, connection.server)

        connection, volume = self._connection, exchange.snapshotOf(volumeNode)
        folder = TransferFolder()
        request = {**request, "result_extension": ".nii"}
        return self._run(Job(title, work, finishInScene, folder.remove), wait)

    def _run(self, job: Job, wait: bool):
        job.start()
        if wait:
            return job.wait()
        self._jobs.append(job)
        return job
