"""Where networks run."""

from __future__ import annotations

from cfmri_core.errors import RequestError


def resolved_device(name: str) -> str:
    """Return the torch device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        RequestError: It is another word, or there is no such GPU.
    """
    import torch

    kind, _, index = name.partition(":")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if gpus else "cpu"
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise RequestError(f"Device '{name}' is not known.", "Use auto, cpu, cuda or cuda:N.")
    if kind == "cuda" and int(index or 0) >= gpus:
        raise RequestError(f"Device '{name}' is not there: {gpus} usable GPU(s) found.", "Use --device cpu.")
    return name
