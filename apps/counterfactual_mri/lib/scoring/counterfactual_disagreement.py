"""How much the segmentation of each unlabelled image changes over its counterfactuals."""

from __future__ import annotations

from pathlib import Path

from cfmri_server.images import read_image
from cfmri_server.request_schema import CounterfactualParams
from monailabel.interfaces.datastore import Datastore

from cfmri_core.active_learning.disagreement import CHANGED, counterfactual_disagreement
from cfmri_core.models.scanners import identity_of
from cfmri_core.pipeline.method import METHODS
from cfmri_core.progress import silent
from cfmri_core.simulation.protocols import PRESETS
from lib.infers.counterfactual import CounterfactualTask
from lib.scoring.image_scoring import ImageScoring, Score

#: Says which parameters are changed; their values do not matter here.
_ANY_PROTOCOL = {name: getattr(next(iter(PRESETS.values())), name) for name in CHANGED}


class CounterfactualDisagreement(ImageScoring):
    """See `cfmri_core.active_learning.disagreement`."""

    name = "counterfactual_disagreement"
    summary = (
        "How much further the segmentation of each unlabelled image lies from those of its counterfactuals than these "
        "from each other: 1 - Dice, so 0 where its acquisition makes no difference"
    )

    def files(self, datastore: Datastore) -> dict[str, Path]:
        """Return the images without a final label that are here; those of an archive are fetched by being looked at."""
        files = {image: Path(datastore.get_image_uri(image)) for image in datastore.get_unlabeled_images()}
        return {image: file for image, file in files.items() if file.is_file()}

    def model_checksums(self) -> dict[str, str]:
        """Return those of the segmenter and of the editor."""
        kinds = ("segmenter", METHODS[self.models.default_method()].model)
        return {kind: identity_of(self.models.store.folder(kind)) for kind in kinds}

    def prepared(self, datastore: Datastore, device: str) -> Score:
        """Load the segmenter and the editor."""
        method = self.models.default_method()
        segmenter, editor = self.models.segmenter.get(device), self.models.editor_for(method).get(device)
        editing, changes = CounterfactualTask(self.models), CounterfactualParams(**_ANY_PROTOCOL)

        def score(image_id: str) -> float:
            image = read_image(Path(datastore.get_image_uri(image_id)))
            factual, _ = editing.factual(image, changes, device, silent)  # what the header lacks is predicted
            return counterfactual_disagreement(image.volume, factual, editor, segmenter, method=method)

        return score
