"""Train the direct editor on pairs: the same simulated subject under two acquisitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from cfmri_core.data.pairs import Renderings, load_renderings
from cfmri_core.data.splits import stratified_split
from cfmri_core.data.studies import list_studies
from cfmri_core.errors import RequestError
from cfmri_core.models.companion import weights_sha256
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.direct_editor import PRESETS, SLICES_SEEN, DirectEditor, MapNetwork
from cfmri_core.models.network_model import preset_of
from cfmri_core.models.signal_decoder import Protocols
from cfmri_core.pipeline.support import fit_training_support, write_training_support
from cfmri_core.progress import Progress, silent
from cfmri_core.training.card import model_card
from cfmri_core.training.loop import Schedule, train
from cfmri_core.training.lost_sharpness import measure_lost_sharpness

#: Share of factual attributes that are hidden, because headers are incomplete.
HIDDEN_ATTRIBUTE_SHARE = 0.05
#: Weight of air beside tissue, and the normalised intensity from which a pixel counts as tissue.
AIR_WEIGHT, TISSUE_INTENSITY = 0.2, 0.08
#: Added to the mean change of a pair before dividing by it, in normalised intensity: small changes count as much as
#: large ones, down to this.
LEAST_CHANGE = 0.03
#: Weight of the error of the change beside that of the image, at a mean change of 1.
CHANGE_WEIGHT = 0.1
#: Weight of the error of the level of noise, a logarithm.
NOISE_WEIGHT = 0.05
#: Share of scans that are edits by the network itself.
EDITED_SHARE = 0.25
#: Other renderings that the maps of one scan have to show.
TARGETS = 4


def train_direct_editor(
    data: Path,
    output: Path,
    *,
    preset: str = "tiny",
    iterations: int = 6_000,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    validation_share: float = 0.08,
    seed: int = 0,
    start_from: Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
) -> Path:
    """Train a direct editor on simulated subjects with paired renderings and write it as a model folder.

    Args:
        data: Folder of studies simulated with ``--paired`` (two renderings or more per subject) and ``--keep
            slice_thickness_mm``, which one slice tells nothing about; see `cfmri_core.data.pairs.PROBE` for renderings
            that are truth only.
        output: Receives ``model``, ``checkpoint.pt`` and TensorBoard ``events``.
        preset: Size of a new network, see `cfmri_core.models.direct_editor.PRESETS`.
        iterations: Optimiser steps.
        batch_size: Pairs per step.
        learning_rate: Peak learning rate.
        validation_share: Share of subjects held back to choose the best weights.
        seed: Seed of split, initialisation and batches.
        start_from: Model folder to go on from instead of a new network; its condition encoding stays.
        resume: Go on from the checkpoint in ``output``.
        device: Torch device.
        progress: Progress and cancel.

    Returns:
        The model folder, ``output/model``.

    Raises:
        RequestError: Fewer than two subjects, no pairs, or an unknown preset.
    """
    torch.manual_seed(seed)
    begun = DirectEditor.load(start_from, device) if start_from else None
    size = begun.image_size if begun else preset_of(PRESETS, preset, "direct editor").image_size
    fit, held_back = _subjects(data, size, validation_share, seed, progress)
    scanned_as = [parameters for subject in fit for parameters in subject.scanned_as]
    editor = begun or DirectEditor.create(preset, ConditionSpec.from_parameters(scanned_as))
    editor.network.to(device).requires_grad_(True)
    score = train(
        editor.network,
        PairLoss(editor, fit, batch_size),
        PairValidation(editor, held_back),
        output,
        Schedule(iterations=iterations, learning_rate=learning_rate, seed=seed),
        resume=resume,
        progress=progress,
    )
    measure_lost_sharpness(editor, held_back, progress)
    command = f"cfmri train direct-editor {data} --preset {preset} --iterations {iterations} "
    command += f"--batch-size {batch_size} --seed {seed}" + (f" --start-from {start_from}" if start_from else "")
    folder = output / "model"
    editor.save(folder, _card(editor, len(fit), command, score))
    write_training_support(folder, fit_training_support(scanned_as), weights_sha256(folder))
    return folder


def _subjects(
    data: Path, image_size: int, validation_share: float, seed: int, progress: Progress
) -> tuple[list[Renderings], list[Renderings]]:
    """Read the simulated subjects, and hold some back."""
    studies = list_studies(data)
    if len(studies) < 2:
        raise RequestError(f"{data} holds {len(studies)} subject.", "Training needs at least 2; validation takes one.")
    subjects = load_renderings(studies, image_size, progress)
    patients, sources = [study.patient for study in studies], [subject.parameters[0] for subject in subjects]
    parts = stratified_split(patients, sources, (1 - validation_share, validation_share), seed)
    fit, held_back = ([subjects[index] for index in part] for part in parts)
    return fit, held_back


@dataclass(frozen=True)
class _Draw:
    """One item of a batch.

    Attributes:
        subject: Number of the subject.
        source: Rendering that the network sees, or is told that it sees.
        scan: Rendering that was scanned; where it is not ``source``, the network sees its own edit of it.
        others: Renderings that it has to show besides.
        middle: Number of the slice.
        is_mirrored: Whether left and right change sides.
    """

    subject: int
    source: int
    scan: int
    others: tuple[int, ...]
    middle: int
    is_mirrored: bool

    @property
    def is_edited(self) -> bool:
        """Whether the network sees an edit of its own."""
        return self.scan != self.source

    def placed(self, images: Tensor) -> Tensor:
        """Mirror images, or not."""
        return images.flip(-1) if self.is_mirrored else images


class PairLoss:
    """Absolute error of images shown from the maps of a scan: under its own protocol and under others.

    Some of the scans are the network's own edits of other scans, so that an edit can be edited again.
    """

    def __init__(self, editor: DirectEditor, subjects: Sequence[Renderings], batch_size: int) -> None:
        self.editor, self.subjects, self.batch_size = editor, subjects, batch_size
        self.conditions = [editor.spec.encode_all(subject.parameters) for subject in subjects]
        self.protocols = [Protocols.of(subject.parameters, editor.spec) for subject in subjects]

    def __call__(self, network: nn.Module, generator: torch.Generator) -> Tensor:
        """Draw scans, targets and hidden attributes; return the mean loss."""
        draws = [self._draw(generator) for _ in range(self.batch_size)]
        truth, spans, noise, protocols = zip(*map(self._shown, draws), strict=True)
        conditions = torch.stack([self.conditions[draw.subject][draw.source] for draw in draws])
        rows = Protocols.joined(protocols)
        of_images = self.of(
            network,
            self._seen(cast("MapNetwork", network), draws),
            torch.stack(truth),
            torch.stack(spans),
            self._hide(conditions, generator),
            rows,
        )
        return of_images + NOISE_WEIGHT * self._of_noise(network, torch.stack(noise), rows)

    def _of_noise(self, network: nn.Module, noise: Tensor, protocols: Protocols) -> Tensor:
        """Squared error of the logarithm of how noise changes from the scan to its other renderings."""
        found = cast("MapNetwork", network).decoder.log_noise(protocols.to(self.editor.device)).view_as(noise)
        wanted = torch.log(noise).to(found)
        return torch.mean(((found - found[:, :1]) - (wanted - wanted[:, :1])) ** 2)

    def of(
        self, network: nn.Module, images: Tensor, truth: Tensor, spans: Tensor, condition: Tensor, protocols: Protocols
    ) -> Tensor:
        """Loss of given scans.

        Args:
            network: A `MapNetwork`.
            images: Scans with neighbours, shape ``(batch, SLICES_SEEN, size, size)``.
            truth: The middle slice without noise, under its own protocol and under others, in the normalised
                intensity of the scan, shape ``(batch, 1 + others, size, size)``.
            spans: From 0 to 1 of each truth's own scale, in that of the scan, shape ``(batch, 1 + others)``.
            condition: Of the scans, shape ``(batch, width)``.
            protocols: Of the truths, ``batch * (1 + others)`` rows.
        """
        device, shown = self.editor.device, truth.shape[1]
        images, truth, spans = images.to(device), truth.to(device), spans.to(device)[:, :, None, None]
        editor = DirectEditor(cast("MapNetwork", network), self.editor.spec, self.editor.config)
        protocols = protocols.to(device)
        source = protocols.rows(torch.arange(0, len(images) * shown, shown, device=device))
        maps = editor.maps_under(images, condition.to(device), source)
        found = editor.network.decoder(maps.repeated(shown), protocols).view_as(truth) / spans
        truth = truth / spans
        tissue = torch.maximum(truth, truth[:, :1]) > TISSUE_INTENSITY
        weight = torch.where(tissue, 1.0, AIR_WEIGHT)
        weight = weight / weight.mean(dim=(2, 3), keepdim=True)
        change = (weight * (truth - truth[:, :1]).abs()).mean(dim=(2, 3), keepdim=True)
        error = found - truth
        # The change is judged beside the image: where little changes, an image is nearly right without any change.
        of_change = weight * (error - error[:, :1]).abs() * (CHANGE_WEIGHT / (change + LEAST_CHANGE))
        return torch.mean(weight * error.abs() + of_change)

    def _hide(self, conditions: Tensor, generator: torch.Generator) -> Tensor:
        """Hide attributes of the source."""
        shape = (len(conditions), len(self.editor.spec.blocks))
        hidden = torch.rand(shape, generator=generator) < HIDDEN_ATTRIBUTE_SHARE
        return self.editor.spec.drop_attributes(conditions, ~hidden)

    def _draw(self, generator: torch.Generator) -> _Draw:
        number = int(torch.randint(len(self.subjects), (), generator=generator))
        subject = self.subjects[number]
        renderings, slices = subject.noisy.shape[:2]
        first, second = torch.randint(len(subject.sources), (2,), generator=generator).tolist()
        is_edited = bool(torch.rand((), generator=generator) < EDITED_SHARE)
        return _Draw(
            subject=number,
            source=subject.sources[first],
            scan=subject.sources[second if is_edited else first],
            others=tuple(torch.randperm(renderings, generator=generator)[:TARGETS].tolist()),
            middle=int(torch.randint(slices, (), generator=generator)),
            is_mirrored=bool(torch.rand((), generator=generator) < 0.5),
        )

    def _shown(self, draw: _Draw) -> tuple[Tensor, Tensor, Tensor, Protocols]:
        """What the network has to show: truth, spans, noise, protocols."""
        subject, chosen = self.subjects[draw.subject], [draw.source, *draw.others]
        truth = draw.placed(subject.clean_in_units_of(draw.source, chosen, draw.middle))
        spans = subject.clean_span[chosen] / subject.span[draw.source]
        return truth, spans, subject.noise[chosen], self.protocols[draw.subject].rows(chosen)

    def _seen(self, network: MapNetwork, draws: Sequence[_Draw]) -> Tensor:
        """What the network sees: scans, and its edits of scans."""
        edited = [draw for draw in draws if draw.is_edited]
        made = iter(self._edited(network, edited)) if edited else iter(())
        images = [next(made) if draw.is_edited else self._window(draw, SLICES_SEEN) for draw in draws]
        return torch.stack([draw.placed(one) for draw, one in zip(draws, images, strict=True)])

    def _window(self, draw: _Draw, count: int) -> Tensor:
        """Slices about the drawn one as scanned, the ends repeated, shape ``(count, size, size)``."""
        stack = self.subjects[draw.subject].noisy[draw.scan]
        return stack[(torch.arange(count) - count // 2 + draw.middle).clamp(0, len(stack) - 1)].float()

    @torch.no_grad()
    def _edited(self, network: MapNetwork, draws: Sequence[_Draw]) -> Tensor:
        """Edit scans to their sources' protocols, each normalised as a scan under that protocol is."""
        # Each slice that is seen has neighbours of its own.
        stacks = [self._window(draw, 2 * SLICES_SEEN - 1) for draw in draws]
        windows = torch.cat([stack.unfold(0, SLICES_SEEN, 1).movedim(-1, 1) for stack in stacks])
        windows = windows.to(self.editor.device)
        conditions = torch.stack([self.conditions[draw.subject][draw.scan] for draw in draws])
        before, after = (
            Protocols.joined([self.protocols[draw.subject].rows([number] * SLICES_SEEN) for draw, number in chosen])
            for chosen in ([(draw, draw.scan) for draw in draws], [(draw, draw.source) for draw in draws])
        )
        before, after = before.to(windows.device), after.to(windows.device)
        editor = DirectEditor(network, self.editor.spec, self.editor.config)
        maps = editor.maps_under(windows, conditions.repeat_interleave(SLICES_SEEN, 0).to(windows.device), before)
        change = network.decoder(maps, after) - network.decoder(maps, before)
        edited = (windows[:, SLICES_SEEN // 2] + change).cpu().view(len(draws), SLICES_SEEN, *windows.shape[2:])
        return torch.stack([self._rescaled(draw, one) for draw, one in zip(draws, edited, strict=True)])

    def _rescaled(self, draw: _Draw, images: Tensor) -> Tensor:
        """From the scale of the scan that was edited to that of a scan under the protocol it was edited to."""
        subject = self.subjects[draw.subject]
        raw = images * subject.span[draw.scan] + subject.low[draw.scan]
        return (raw - subject.low[draw.source]) / subject.span[draw.source]


class PairValidation:
    """The loss on pairs of held-back subjects, the same at every call."""

    def __init__(self, editor: DirectEditor, subjects: Sequence[Renderings], count: int = 64) -> None:
        self.loss = PairLoss(editor, subjects, count)

    def __call__(self, network: nn.Module) -> float:
        """Return the loss."""
        with torch.no_grad():
            return float(self.loss(network, torch.Generator().manual_seed(7)))


def _card(editor: DirectEditor, subjects: int, command: str, score: float) -> str:
    parameters = sum(value.numel() for value in editor.network.parameters()) / 1e6
    return model_card(
        "Direct editor: counterfactual acquisition parameters from maps",
        f"Network from three neighbouring slices to pseudo maps, shown by the signal equation ({parameters:.1f} M "
        f"parameters, preset `{editor.preset}`).",
        data=f"{subjects} simulated training subjects, each under several acquisitions.",
        command=command,
        performance=f"Best pair loss on held-back subjects: {score:.4f}.",
        limitations="It learned from simulated pairs only, and the simulator uses the same signal equation: what it "
        "shows of a scanner is what the simulator assumes about it, invented styles included. The maps inside are not "
        "measurements. Nothing is known about its results on patients.",
    )
