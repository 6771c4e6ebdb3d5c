"""The section on speed from a benchmark's result."""

from cfmri_core.evaluation.markdown import NOTHING
from cfmri_core.evaluation.result_file import ResultFile
from cfmri_core.evaluation.speed_tables import speed_section

BENCH = {
    "suite": "speed",
    "settings": {"slices": 160},
    "ceilings_gflops": {"bfloat16": 600.0, "float32": 140.0},
    "authors_volume_s": {"authors' loop, plain attention": 138796.0},
    "volume_median_s": {"fast": 1.8},
    "times_as_fast": {"fast": {"than plain attention": 77108.9, "than fused attention": 13028.0}},
    "forward": {"fast": {"gflop_per_slice": 2.58, "gflops": 375.0, "share_of_bfloat16_ceiling": 0.62,
                         "time_spent": {"mkldnn_convolution": 0.7, "other": 0.3}}},
    "quality": {"source": "edit.json", "paper": {"slope": {"mean": 0.08, "low": 0.06, "high": 0.1}},
                "fast": {"slope": {"mean": 0.87, "low": 0.8, "high": 0.9}}},
    "growth": [{"slices": 20, "seconds": 0.4, "peak_mib": 820.0, "volume_mib": 3.8}],
    "end_to_end": {"slices": 160, "median_s": 11.0, "peak_mib": 1500.0},
    "training": {"times_as_fast": 7.25},
}  # fmt: skip


def test_every_figure_of_the_benchmark_is_shown():
    page = speed_section([ResultFile("bench", BENCH)])
    assert f"| authors' loop, plain attention | 138,796 | {NOTHING} | 0.08 [0.06, 0.10] |" in page
    assert "| fast | 1.8 | 77,109 / 13,028 | 0.87 [0.80, 0.90] |" in page
    assert "| fast | 2.58 | 375 | 62% | mkldnn_convolution 70%, other 30% |" in page
    assert "| 20 | 0.40 | 820 | 4 | 812 |" in page
    assert "11.0 s, at most 1500 MiB" in page
    assert "7.2 times the slices per second" in page
