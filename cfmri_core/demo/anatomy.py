"""The demo's edits of anatomy, where the server has editors for it: a lesion in and out, more and less gland."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cfmri_core.data.pairs import paired_truth
from cfmri_core.data.studies import Study, read_labels
from cfmri_core.demo.client import Client, written_image
from cfmri_core.demo.studies import LESS, MORE, SHARE_CHANGE, WITHOUT_LESION, DemoStudies
from cfmri_core.errors import GeometryError
from cfmri_core.evaluation import figures
from cfmri_core.evaluation.edit_case import UNIT, WINDOW
from cfmri_core.evaluation.report import Picture, Section
from cfmri_core.io.nifti import read_nifti, sidecar_of, write_nifti
from cfmri_core.io.scan import read_scan
from cfmri_core.progress import Progress
from cfmri_core.slices import IntensityScale
from cfmri_core.volume import Volume

LESION_EDITOR, STRUCTURE_EDITOR = "lesion_editor", "structure_editor"


@dataclass(frozen=True)
class AnatomyEdits:
    """What one editor made of one patient.

    Attributes:
        patient: Name of the study.
        images: Scans, edits and truths by what they show, on one grid.
        evidence: How each edit was made, by what it shows.
        number: Slice to show.
    """

    patient: str
    images: Mapping[str, Volume]
    evidence: Mapping[str, Mapping[str, Any]]
    number: int


def edit_anatomy(
    client: Client, offered: Mapping[str, Any], studies: DemoStudies, out: Path, progress: Progress
) -> dict[str, AnatomyEdits]:
    """Ask the editors that the server offers for their edits; by the editor's name."""
    made = {}
    if LESION_EDITOR in offered:
        made[LESION_EDITOR] = _lesion(client, studies.lesion, out, progress)
    if STRUCTURE_EDITOR in offered:
        made[STRUCTURE_EDITOR] = _structure(client, studies.structure, out, progress)
    return made


def anatomy_sections(made: Mapping[str, AnatomyEdits]) -> list[Section]:
    """Show the edits, one section for each editor."""
    sections = []
    if LESION_EDITOR in made:
        sections.append(_lesion_section(made[LESION_EDITOR]))
    if STRUCTURE_EDITOR in made:
        sections.append(_structure_section(made[STRUCTURE_EDITOR]))
    return sections


def _lesion(client: Client, study: Study, out: Path, progress: Progress) -> AnatomyEdits:
    folder = out / study.subject_id
    scan, without = read_scan(study.scan_path), read_scan(study.changed[WITHOUT_LESION] / "dicom")
    mask = folder / "mask.nii.gz"
    if study.lesion_path is None:
        raise GeometryError(f"{study.subject_id} has no lesion mask.", "Remove the demo's folder, and repeat.")
    lesion = read_nifti(study.lesion_path)
    write_nifti(mask, lesion, None)
    images, evidence = {"scan with the lesion": scan.volume, "the same without it": without.volume}, {}
    for words, mode, source in (("lesion removed", "remove", scan), ("lesion inserted", "insert", without)):
        factual = source.acquisition.parameters
        upload = folder / f"{mode}_source.nii.gz"
        write_nifti(upload, source.volume, sidecar_of(factual))
        params = {"mode": mode, "factual": factual.known(), "seed": 0}
        answer = client.infer(LESION_EDITOR, upload, params, progress, label=mask)
        images[words], evidence[words] = written_image(answer, folder / f"{mode}.nii.gz"), answer.params
    return AnatomyEdits(study.subject_id, images, evidence, int(lesion.voxels.sum(axis=(0, 1)).argmax()))


def _structure(client: Client, study: Study, out: Path, progress: Progress) -> AnatomyEdits:
    folder, scan = out / study.subject_id, read_scan(study.scan_path)
    factual = scan.acquisition.parameters
    upload = folder / "source.nii.gz"
    write_nifti(upload, scan.volume, sidecar_of(factual))
    labels = read_labels(study, scan.volume)
    images, evidence = {"scan": scan.volume}, {}
    for name, change in ((LESS, -SHARE_CHANGE), (MORE, SHARE_CHANGE)):
        params = {"delta": change, "factual": factual.known(), "seed": 0}
        answer = client.infer(STRUCTURE_EDITOR, upload, params, progress)
        words = f"{change:+.0%} asked"
        images[words], evidence[words] = written_image(answer, folder / f"{name}.nii.gz"), answer.params
        images[f"{change:+.0%} simulated"] = paired_truth(study.changed[name], scan.volume)
    return AnatomyEdits(study.subject_id, images, evidence, int((labels.voxels == 2).sum(axis=(0, 1)).argmax()))


def _lesion_section(edits: AnatomyEdits) -> Section:
    paragraphs = [
        "A simulated patient after contrast agent, with a mass drawn by mask, and the same patient rendered without "
        "it. From the scan with the lesion it was removed, into the scan without it one was inserted, each through "
        "POST /jobs/lesion_editor. Lesions, what they do around them and where the agent goes are invented.",
        *(
            f"{words.capitalize()}: {evidence['obtained']['changed_volume_ml']:.2f} ml changed of the "
            f"{evidence['unchanged']['region_ml']:.2f} ml that may; largest difference outside of it "
            f"{evidence['unchanged']['max_abs_difference_outside']:g}."
            for words, evidence in edits.evidence.items()
        ),
    ]
    scans = ["scan with the lesion", "the same without it"]
    return Section(
        f"A lesion that is not there, and one that is: patient {edits.patient}",
        paragraphs,
        [_picture(edits, scans), _picture(edits, ["lesion removed", "lesion inserted"])],
    )


def _structure_section(edits: AnatomyEdits) -> Section:
    paragraphs = [
        "The share of fibroglandular tissue changed by one number through POST /jobs/structure_editor, beside the same "
        "anatomy simulated with glands grown or shrunk by as much. Which tissue grows is invented: one of many "
        "counterfactuals, so the two need not agree in every gland. What another segmenter reads in such edits "
        "lies further from what was asked, see EVALUATION.md.",
        *(
            f"{words}: share {evidence['structure']['share_before']:.3f} before, "
            f"{evidence['structure']['share_asked']:.3f} wanted, {evidence['structure']['share_obtained']:.3f} "
            f"obtained as the editor's reader sees it; largest difference outside the breast "
            f"{evidence['structure']['largest_change_outside']:g}."
            for words, evidence in edits.evidence.items()
        ),
    ]
    asked = [words for words in edits.images if words.endswith("asked")]
    simulated = [words for words in edits.images if words.endswith("simulated")]
    title = f"More and less fibroglandular tissue: patient {edits.patient}"
    return Section(title, paragraphs, [_picture(edits, ["scan", *asked]), _picture(edits, ["scan", *simulated])])


def _picture(edits: AnatomyEdits, names: Sequence[str]) -> Picture:
    """Show images side by side in the intensity of the first image of all, so that a shift is seen."""
    scale = IntensityScale.of(next(iter(edits.images.values())).voxels)
    panels = {}
    for name in names:
        volume = edits.images[name]
        shown = volume.with_voxels(np.asarray(scale.normalise(volume.voxels)))
        panels[f"{name} (synthetic)" if name in edits.evidence else name] = figures.oriented_slice(shown, edits.number)
    return Picture(
        figures.comparison_figure(panels, WINDOW, UNIT), f"Slice {edits.number}, one grey window for all images."
    )
