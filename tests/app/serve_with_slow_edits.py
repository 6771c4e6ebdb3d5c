"""The real launcher, but an edit with one seed takes a minute, and with another it finds memory full."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2] / "apps" / "counterfactual_mri")

SLOW_SEED = 424242
FULL_SEED = 507507
SLOW_STEPS = 600
SECONDS_PER_STEP = 0.1


def main() -> int:
    import torch
    from cfmri_server import launch

    from cfmri_core.pipeline import counterfactual

    edit_volume = counterfactual.edit_volume

    def slow_edit(volume, factual, request, editor, *, progress, **more):
        if request.seed == SLOW_SEED:
            for step in range(SLOW_STEPS):
                progress(step, SLOW_STEPS, "Slow on purpose")
                time.sleep(SECONDS_PER_STEP)
        if request.seed == FULL_SEED:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return edit_volume(volume, factual, request, editor, progress=progress, **more)

    counterfactual.edit_volume = slow_edit
    return launch.main()


if __name__ == "__main__":
    sys.exit(main())
