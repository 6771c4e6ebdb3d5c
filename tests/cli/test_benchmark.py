"""The command `bench`: what it says of a result, and what it refuses before it measures anything."""

from cfmri_core.cli.benchmark import _text


def test_numbers_of_slices_that_are_none_are_one_line(cfmri):
    for given in ("20,many", "2", "-4"):
        outcome = cfmri("bench", f"--growth={given}")
        assert outcome.code == 2
        assert given in outcome.err
        assert "from 4 on" in outcome.err


def test_the_text_holds_times_ratios_and_ceilings():
    text = _text(
        {
            "settings": {"slices": 160},
            "authors_volume_s": {"authors' loop, plain attention": 73600.0},
            "volume_median_s": {"fast": 20.0},
            "times_as_fast": {"fast": {"than plain attention": 3680.0, "than fused attention": 1600.0}},
            "ceilings_gflops": {"bfloat16": 900.0, "float32": 220.0},
            "forward": {"fast": {"gflops": 300.0, "share_of_bfloat16_ceiling": 1 / 3,
                                 "share_of_float32_ceiling": 1.36}},
            "end_to_end": {"median_s": 61.5, "peak_mib": 2048.0},
            "growth": [{"slices": 20, "seconds": 3.0, "peak_mib": 700.0, "volume_mib": 4.0}],
            "training": {"times_as_fast": 3.4},
        }
    )  # fmt: skip
    for part in ("3680 / 1600", "33% of the bfloat16", "61.5 s", "2048 MiB", "20 slices: 3.0 s", "3.4 times"):
        assert part in text
