"""The edits file: what it can say, and errors that name file, line, key, value and what is accepted."""

import pytest

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.archive.index import Reason, SeriesEntry
from cfmri_core.batch.edits_file import read_edits, signature
from cfmri_core.errors import RequestError

#: More digits than Python writes out.
HUGE = "0x" + "f" * 5000


def read(tmp_path, text):
    path = tmp_path / "edits.yaml"
    path.write_text(text)
    return read_edits(path, "fast")


def entry(images=60, reason=None, **acquisition):
    return SeriesEntry("1.2", "0" * 16, (), AcquisitionParameters(**acquisition), images, reason=reason)


def test_the_smallest_file_of_the_interface(tmp_path):
    (edit,) = read(
        tmp_path,
        """
edits:
  - name: siemens-15t               # names the output folder
    where: {manufacturer: "GE*"}
    set: {manufacturer: SIEMENS, field_strength_t: 1.5, echo_time_ms: 1.36, repetition_time_ms: 4.3}
    outputs: [dicom]
""",
    )
    assert edit.name == "siemens-15t"
    assert edit.changes["echo_time_ms"] == 1.36
    assert edit.request.method == "fast"
    assert edit.outputs == ("dicom",)


def test_selectors_are_globs_on_text_and_ranges_on_numbers(tmp_path):
    (edit,) = read(
        tmp_path,
        "edits: [{name: a, set: {echo_time_ms: 2}, "
        'where: {manufacturer: ["ge*", "Sie*"], field_strength_t: 1.5, echo_time_ms: [1, 3], images: [40, 400]}}]',
    )
    known = {"manufacturer": "GE MEDICAL SYSTEMS", "field_strength_t": 1.5, "echo_time_ms": 3.0}
    assert edit.selects(entry(**known))
    assert not edit.selects(entry(**{**known, "manufacturer": "Philips"}))
    assert not edit.selects(entry(**{**known, "echo_time_ms": 3.1}))
    assert not edit.selects(entry(**{**known, "field_strength_t": None}))
    assert not edit.selects(entry(images=3, **known))


def test_a_series_that_was_left_out_is_never_selected_but_a_synthetic_one_on_demand(tmp_path):
    plain, willing = read(
        tmp_path, "edits: [{name: a, preset: ge-hdx-3t}, {name: b, preset: ge-hdx-3t, synthetic: true}]"
    )
    assert not plain.selects(entry(reason=Reason.SYNTHETIC))
    assert willing.selects(entry(reason=Reason.SYNTHETIC))
    assert not willing.selects(entry(reason=Reason.IRREGULAR))


def test_defaults_hold_unless_an_edit_says_otherwise(tmp_path):
    first, second = read(
        tmp_path,
        """
defaults: {outputs: [nifti], on_refusal: stop, source_noise: keep}
edits:
  - {name: a, preset: ge-hdx-3t}
  - {name: b, preset: ge-hdx-3t, outputs: [seg, dicom], source_noise: renew}
""",
    )
    assert (first.outputs, first.request.source_noise, first.caution.on_refusal) == (("nifti",), "keep", "stop")
    assert (second.outputs, second.request.source_noise) == (("dicom", "seg"), "renew")


def test_draws_depend_on_seed_and_series_alone(tmp_path):
    (edit,) = read(tmp_path, "edits: [{name: a, population: duke, per_series: 3, seed: 5}]")
    factual = AcquisitionParameters(manufacturer_model="Avanto")
    draws = [edit.target(factual, "ab12", repeat) for repeat in range(3)]
    assert draws == [edit.target(factual, "ab12", repeat) for repeat in range(3)]
    assert len({str(draw) for draw in draws}) > 1
    assert edit.target(factual, "cd34", 0) != draws[0]


def test_the_signature_changes_with_what_is_wanted_and_not_with_how_it_is_written(tmp_path):
    one = read(tmp_path, "edits: [{name: a, set: {echo_time_ms: 2}}]")
    same = read(tmp_path, "# a remark\nedits:\n  - set: {echo_time_ms: 2.0}\n    name: a\n")
    other = read(tmp_path, "edits: [{name: a, set: {echo_time_ms: 3}}]")
    assert signature(one) == signature(same) != signature(other)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("edits:\n  - name: a\n    sett: {}", 3, ["sett", "is not a key here", "preset"]),
        ("edits:\n  - name: a\n    set: {echo_time: 2}", 3, ["echo_time", "echo_time_ms"]),
        ("edits:\n  - name: a\n    set:\n      echo_time_ms: -4", 4, ["set.echo_time_ms", "-4", "0.01 to 1000"]),
        ("edits:\n  - name: a\n    set:\n      echo_time_ms: [1]", 4, ["set.echo_time_ms", "[1]"]),
        ("edits:\n  - name: a\n    preset: avanto", 3, ["preset", "'avanto'", "siemens-avanto-1.5t"]),
        ("edits:\n  - name: a\n    population: mars", 3, ["population", "mars", "other-manufacturer"]),
        ("edits:\n  - name: a", 2, ["set, preset, population", "none"]),
        ("edits:\n  - name: a\n    preset: ge-hdx-3t\n    set: {}", 2, ["set and preset"]),
        ("edits:\n  - preset: ge-hdx-3t", 2, ["name", "missing"]),
        ("edits:\n  - name: ../../x\n    preset: ge-hdx-3t", 2, ["name", "../../x", "letters"]),
        ("edits:\n  - {name: a, preset: ge-hdx-3t}\n  - {name: a, preset: ge-hdx-3t}", 3, ["called 'a'"]),
        ("edits:\n  - name: a\n    name: b", 3, ["name", "twice"]),
        (
            "edits:\n  - name: a\n    preset: ge-hdx-3t\n    where:\n      echo_time_ms: [3, 1]",
            5,
            ["[3, 1]", "[low, high]"],
        ),
        ("edits:\n  - name: a\n    preset: ge-hdx-3t\n    where: {manufacturer: 3}", 4, ["where.manufacturer", "3"]),
        (
            "edits:\n  - name: a\n    preset: ge-hdx-3t\n    outputs: [png]",
            4,
            ["outputs", "'png'", "dicom, nifti, seg, pairs"],
        ),
        ("edits:\n  - name: a\n    preset: ge-hdx-3t\n    outputs: [seg]", 4, ["seg without dicom"]),
        ("edits:\n  - name: a\n    preset: ge-hdx-3t\n    steps: 5", 4, ["fast has no steps"]),
        ("edits:\n  - name: a\n    preset: ge-hdx-3t\n    per_series: 3", 4, ["per_series", "population"]),
        ("edits:\n  - name: a\n    population: duke\n    per_series: 0", 4, ["per_series", "0", "1 to 1000"]),
        ("edits:\n  - name: a\n    preset: ge-hdx-3t\n    check: maybe", 4, ["check", "'maybe'", "true or false"]),
        ("edits:\n  - name: a\n    preset: ge-hdx-3t\n    check: false\n    on_refusal: stop", 5, ["Without a check"]),
        ("defaults: {name: a}\nedits: []", 2, ["there is no edit"]),
        (f"edits:\n  - name: a\n    preset: ge-hdx-3t\n    seed: {HUGE}", 4, ["seed", "digits", "0 to 2147483648"]),
        (f"edits:\n  - name: a\n    set:\n      echo_time_ms: {HUGE}", 4, ["set.echo_time_ms", "inf", "0.01 to 1000"]),
        (f"edits:\n  - name: a\n    set:\n      manufacturer: [{HUGE}]", 4, ["set.manufacturer", "digits", "a text"]),
        (
            f"edits:\n  - name: a\n    preset: ge-hdx-3t\n    where: {{images: [0, {HUGE}]}}",
            4,
            ["where.images", "digits", "[low, high]", "1e308"],
        ),
        (
            "edits:\n  - name: a\n    preset: ge-hdx-3t\n    where: {manufacturer: [[a]]}",
            4,
            ["where.manufacturer", "nested"],
        ),
        ("edits: [\n", 2, ["not YAML"]),
        ("edits: &a [*a]", 1, ["keys belong"]),
        ("- a", 1, ["stands where keys belong"]),
    ],
)
def test_an_error_names_line_key_value_and_what_is_accepted(tmp_path, text, line, said):
    with pytest.raises(RequestError) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path / 'edits.yaml'}:{line}: ")
    for words in said:
        assert words in str(error.value)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("key", ["name", "population", "preset", "set", "seed", "outputs", "on_refusal"])
@pytest.mark.parametrize(
    ("innermost", "around"),
    [
        ("[x]", "[{}, {}, {}, {}, {}, {}, {}, {}]"),
        ("{{k: x}}", "{{a: {}, b: {}, c: {}, d: {}, e: {}, f: {}, g: {}, h: {}}}"),
        ("{{echo_time_ms: 1.4}}", "{{<<: [{}, {}, {}, {}, {}, {}, {}, {}]}}"),
    ],
)
def test_a_small_file_that_aliases_make_large_is_refused_at_once(tmp_path, key, innermost, around):
    bomb = f"&a0 {innermost.format()}"
    for level in range(1, 12):
        bomb = f"&a{level} {around.format(bomb, *[f'*a{level - 1}'] * 7)}"
    fields = {"name": "a", "preset": "ge-hdx-3t", key: bomb}
    if key in ("population", "set"):
        del fields["preset"]
    lines = "\n    ".join(f"{name}: {value}" for name, value in fields.items())
    with pytest.raises(RequestError, match=r"edits\.yaml:\d+: "):
        read(tmp_path, f"edits:\n  - {lines}\n")


def test_what_is_no_edits_file_is_refused(tmp_path):
    for content in (b"", b"\xff\xfe\x00", b"a: " + b"x" * 2**21, b"[" * 5000):
        (tmp_path / "edits.yaml").write_bytes(content)
        with pytest.raises(RequestError, match=r"edits\.yaml"):
            read_edits(tmp_path / "edits.yaml", "fast")
    with pytest.raises(RequestError, match="No such file"):
        read_edits(tmp_path / "absent.yaml", "fast")
