"""How progress is told."""

from cfmri_core.progress import TrainingStep, prefixed


def test_a_prefix_says_what_a_message_belongs_to():
    told = []
    prefixed(lambda *what: told.append(what), "run 2 of 5")(3, 10, "training")
    assert told == [(3, 10, "run 2 of 5: training")]


def test_a_training_step_is_text_that_carries_its_numbers():
    step = TrainingStep("loss 0.5", loss=0.5, best_score=None, kept_step=0)
    assert (step, step.loss, step.best_score, step.kept_step) == ("loss 0.5", 0.5, None, 0)
