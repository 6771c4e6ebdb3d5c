import qt
from CounterfactualMRILib.job_display import JobDisplay
from CounterfactualMRILib.jobs import Job
from CounterfactualMRILib.problems import Problem


def shown(work):
    started = []
    bar, label = qt.QProgressBar(), qt.QLabel()
    display = JobDisplay(bar, label)
    job = Job("Working", work, clock=lambda: 0.0, spawn=started.append).start()
    display.watch(job, lambda result: f"Got {result}.")
    return display, bar, label, job, started[0]


def test_progress_then_outcome():
    def work(report, isCancelled):
        report(2, 8, "Denoising")
        return 5

    display, bar, label, job, run = shown(work)
    assert (label.text, bar.maximum, display.isBusy) == ("Working (0 s)", 0, True)
    job._take("progress", (2, 8, "Denoising", None))
    assert not display.update()
    assert (label.text, bar.value, bar.maximum) == ("Denoising (0 s)", 2, 8)
    run()
    job.poll()
    assert display.update()
    assert (label.text, display.isBusy, bar.isVisibleTo(None)) == ("Got 5.", False, False)
    assert not display.update()


def test_more_bytes_than_a_bar_can_count_are_shown_as_a_share():
    display, bar, _, job, _ = shown(lambda report, isCancelled: None)
    job._take("progress", (3 * 2**32, 4 * 2**32, "Sending", None))
    display.update()
    assert (bar.value, bar.maximum) == (750, 1000)


def test_failure_and_cancel():
    def work(report, isCancelled):
        raise Problem("No.", "Do.")

    display, _, label, job, run = shown(work)
    run()
    job.poll()
    display.update()
    assert label.text == "No. Do."
    display, _, label, job, run = shown(work)
    display.cancel()
    display.update()
    assert label.text == "Cancelled"
    display.cancel()
    display.say("Ready")
    assert label.text == "Ready"
