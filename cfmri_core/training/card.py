"""The model card that goes with every trained model."""

from __future__ import annotations

from cfmri_core import __version__


def model_card(title: str, description: str, *, data: str, command: str, performance: str, limitations: str) -> str:
    """Compose a card under the headings of the MONAI model zoo."""
    return f"""# {title}

Research use only, not for diagnosis. Written by cfmri {__version__}.

## Description
{description}

## Data
{data}

## Preprocessing
One intensity scale per volume (10th percentile to 0, 99th to 1); slices resampled to square pixels, whole field of
view.

## Training
`{command}`

## Performance
{performance}

## Limitations
{limitations}

## References
Morão et al., Counterfactual MRI Data Augmentation using Conditional Denoising Diffusion Generative Models, MIDL 2025.
"""
