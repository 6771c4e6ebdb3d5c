"""Train in processes of their own, kill each at a point, train again: ``python train_until_killed.py OPTIONS_JSON``.

One process imports everything once and never computes; each training is a fork of it. It prints a JSON object:
what was served after each kill, and in the end.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path[0] = str(Path(__file__).resolve().parents[2] / "apps" / "counterfactual_mri")

#: Where a training is killed: what is patched, whether before or after that call, and at which call.
POINTS = {
    "reading the studies": ("cfmri_core.data.studies:read_scan", "before", 1),
    "making counterfactuals": ("cfmri_core.training.counterfactuals:_edited", "after", 1),
    "before the first step": ("cfmri_core.training.loop:_one_step", "before", 1),
    "writing a checkpoint": ("torch:save", "after", 8),  # the file is whole, but not yet in its place
    "just after a checkpoint": ("cfmri_core.training.loop:_Keeper.keep", "after", 8),
    "between checkpoints": ("cfmri_core.training.loop:_update_average", "before", 13),
    "validating": ("cfmri_core.training.segmenter:ValidationDice.__call__", "before", 1),
    "writing the model": ("cfmri_core.models.model_folder:tensors_to_bytes", "after", 1),
    "comparing": ("cfmri_core.evaluation.candidate:segment_volume", "before", 2),
    "copying the model to publish": ("shutil:copyfile", "after", 1),
    "before the new model is named": ("cfmri_server.model_store:ModelStore._write", "before", 1),
    "after the new model is named": ("cfmri_server.model_store:ModelStore._write", "after", 1),
    "before the training is told to be over": ("lib.trainers.run_folder:RunFolder.finish", "before", 1),
    "half-way through tidying up": ("lib.trainers.run_folder:RunFolder._drop", "before", 2),
}


def main() -> None:
    given = json.loads(sys.argv[1])
    from cfmri_core.training import loop

    loop._KEEP_EVERY_S, loop._KEEPING_SHARE = 0.0, float("inf")  # a checkpoint at every step
    results = {}
    for number, point in enumerate(["", *given["points"]]):
        state = Path(given["out"]) / f"{number}"
        killed_by = in_child(lambda state=state, point=point: train(given, state, point)) if point else 0
        after_kill = served(state)
        first_progress = progress(state)
        ended_by = in_child(lambda state=state: train(given, state, ""))
        results[point] = {
            "killed_by": killed_by, "served_after_kill": after_kill, "ended_by": ended_by, "served": served(state),
            "message_after_kill": first_progress.get("message"), "state": progress(state).get("state"),
            "left_over": [path.name for path in state.rglob(".part-*")],
        }  # fmt: skip
    sys.stdout.write(json.dumps(results))


def in_child(work) -> int:
    """Run in a fork; return 0, or the signal or exit code that ended it."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def train(given: dict, state: Path, point: str) -> None:
    from cfmri_server.served_models import ServedModels
    from cfmri_server.state import StateFolder
    from lib.trainers.tissue_segmenter import TissueSegmenterTrainer

    if point:
        kill_at(*POINTS[point])
    trainer = TissueSegmenterTrainer(ServedModels(StateFolder(state)))
    trainer(given["options"], SimpleNamespace(_datastore_path=given["studies"], patient_of=lambda image_id: ""))


def kill_at(target: str, when: str, call: int) -> None:
    module, _, path = target.partition(":")
    *holders, name = path.split(".")
    owner = functools.reduce(getattr, holders, importlib.import_module(module))
    original, calls = getattr(owner, name), 0

    @functools.wraps(original)
    def patched(*args, **kwargs):
        nonlocal calls
        calls += 1
        if when == "before" and calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if when == "after" and calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, patched)


def served(state: Path) -> dict[str, str]:
    """Return the checksum of the model in use and of the weights that lie there."""
    from cfmri_server.model_store import ModelStore

    folder = ModelStore(state / "models").folder("segmenter")
    described = json.loads((folder / "model.json").read_text())["sha256"]
    return {"described": described, "found": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()}


def progress(state: Path) -> dict:
    file = state / "training" / "tissue_segmenter" / "progress.json"
    return json.loads(file.read_text()) if file.is_file() else {}


if __name__ == "__main__":
    import lib.trainers.tissue_segmenter  # noqa: F401 - before the first fork

    main()
