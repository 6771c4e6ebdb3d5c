"""How well the segmenter in use agrees with the labels that people made."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from cfmri_server.images import read_image
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from cfmri_core.errors import GeometryError
from cfmri_core.evaluation.segmentation_suite import tissue_dice
from cfmri_core.pipeline.segmentation import segment_volume
from lib.scoring.image_scoring import ImageScoring, Score


class Dice(ImageScoring):
    """Mean Dice of fat and fibroglandular tissue; the labels may be those that the segmenter was trained on."""

    name = "dice"
    summary = "Dice of the segmenter in use against the final label of each labelled image, mean of both tissues"

    def files(self, datastore: Datastore) -> dict[str, Path]:
        """Return the final labels, by image."""
        images = datastore.get_labeled_images()
        labels = {image: datastore.get_label_by_image_id(image, DefaultLabelTag.FINAL) for image in images}
        return {
            image: Path(datastore.get_label_uri(label, DefaultLabelTag.FINAL))
            for image, label in labels.items()
            if label
        }

    def model_checksums(self) -> dict[str, str]:
        """Return that of the segmenter."""
        return {"segmenter": str(self.models.store.description("segmenter")["sha256"])}

    def prepared(self, datastore: Datastore, device: str) -> Score:
        """Load the segmenter."""
        segmenter, labels = self.models.segmenter.get(device), self.files(datastore)

        def score(image_id: str) -> float:
            volume = read_image(Path(datastore.get_image_uri(image_id))).volume
            truth = read_image(labels[image_id]).volume
            if not truth.has_same_grid(volume, tolerance_mm=0.1):
                raise GeometryError("A label lies on another grid than its image.", "Save the label again.")
            found = tissue_dice(segment_volume(volume, segmenter), truth).values()
            finite = [value for value in found if math.isfinite(value)]
            return float(np.mean(finite)) if finite else math.nan

        return score
