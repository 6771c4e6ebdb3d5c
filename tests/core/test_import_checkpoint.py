import copy
import hashlib
import json

import authors
import numpy as np
import pytest
import torch
from monai.networks.nets import DiffusionModelUNet
from monai.transforms import LoadImage, Orientation, Resize, ScaleIntensityRangePercentiles
from phantoms import affine_of, write_series
from safetensors.torch import load_file

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import CheckpointError, RequestError
from cfmri_core.io.scan import read_scan
from cfmri_core.models import precision
from cfmri_core.models.editor import PRESETS, Editor
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.models.import_checkpoint import import_checkpoint
from cfmri_core.models.orientation import turned
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.counterfactual import edit_volume
from cfmri_core.pipeline.method import EditRequest
from cfmri_core.slices import normalised_images

AVANTO = AcquisitionParameters(
    manufacturer_model="Avanto", field_strength_t=1.5, scan_options=r"PFP\FS", flip_angle_deg=10,
    slice_thickness_mm=1.0, echo_time_ms=1.4, repetition_time_ms=4.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The three networks, small, and their checkpoints."""
    folder = tmp_path_factory.mktemp("published")
    networks = {
        "editor": (authors.editor(authors.SMALL), authors.editor_settings(authors.SMALL)),
        "iap-predictor": (authors.predictor(), authors.predictor_settings()),
        "segmenter": (authors.segmenter(), authors.segmenter_settings()),
    }
    for kind, (network, settings) in networks.items():
        authors.write_checkpoint(folder / f"{kind}.ckpt", network, settings)
    return folder, {kind: network for kind, (network, _) in networks.items()}


@pytest.fixture(scope="module")
def imported(published, tmp_path_factory):
    """The model folders made of them."""
    output = tmp_path_factory.mktemp("imported")
    for kind in published[1]:
        predictor = {"iap_checkpoint": published[0] / "iap-predictor.ckpt"} if kind == "editor" else {}
        import_checkpoint(published[0] / f"{kind}.ckpt", kind, output / kind, **predictor)
    return output


@pytest.fixture
def float32(monkeypatch):
    """Leave bfloat16 out, where the processor has it."""
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda device: False)


def images(batch=2):
    return torch.randn(batch, 1, 64, 64, generator=torch.Generator().manual_seed(2))


def conditions(batch=2):
    return torch.rand(batch, authors.WIDTH, generator=torch.Generator().manual_seed(3))


def difference(ours, theirs):
    """Largest difference, as a share of the largest output."""
    assert float(theirs.abs().max()) > 0.05
    return float((ours - theirs).abs().max() / theirs.abs().max())


def test_editor_is_the_authors(published, imported):
    theirs, ours = published[1]["editor"], Editor.load(imported / "editor")
    steps, condition = torch.tensor([0, 700]), conditions()
    with torch.no_grad():
        expected = theirs(images(), steps, context=condition[:, None], class_labels=condition)
        assert difference(ours.network(images(), steps, condition), expected) < 1e-5
        assert difference(ours.network(images(), steps, 0 * condition), expected) > 1e-3


def test_editor_of_the_published_size_is_the_authors(published, tmp_path):
    theirs = authors.editor(authors.FULL_SIZE)
    assert len(theirs.state_dict()) == 677
    checkpoint = authors.write_checkpoint(
        tmp_path / "editor.ckpt", theirs, authors.editor_settings(authors.FULL_SIZE, 224)
    )
    predictor = published[0] / "iap-predictor.ckpt"
    folder = import_checkpoint(checkpoint, "editor", tmp_path / "editor", iap_checkpoint=predictor)
    ours, condition, step = Editor.load(folder), conditions(1), torch.tensor([49])
    assert ours.config.channels == PRESETS["paper"].channels
    with torch.no_grad():
        expected = theirs(images(1), step, context=condition[:, None], class_labels=condition)
        assert difference(ours.network(images(1), step, condition), expected) < 1e-5


def test_renamed_tensors_are_those_of_monais_own_conversion(published, imported):
    """MONAI's `load_old_state_dict` leaves nothing over, and agrees."""
    size = authors.SMALL
    unet = DiffusionModelUNet(
        spatial_dims=2, in_channels=1, out_channels=1, channels=size["num_channels"],
        num_res_blocks=size["num_res_blocks"], attention_levels=size["attention_levels"],
        num_head_channels=size["num_head_channels"], with_conditioning=True, cross_attention_dim=authors.WIDTH,
        num_class_embeds=authors.WIDTH, include_fc=True, use_combined_linear=False,
    )  # fmt: skip
    unet.class_embedding = copy.deepcopy(published[1]["editor"].class_embedding)
    old = dict(published[1]["editor"].state_dict())
    unet.load_old_state_dict(old)
    assert old == {}
    ours = load_file(imported / "editor" / "model.safetensors")
    theirs = {f"unet.{name}": tensor for name, tensor in unet.state_dict().items()}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_editor_sees_slices_turned_and_returns_them_turned_back(published, imported, float32):
    theirs, ours = published[1]["editor"], Editor.load(imported / "editor")
    condition = conditions()
    with torch.no_grad():
        seen = turned(images(), "RA")
        expected = theirs(seen, torch.tensor([49, 49]), context=condition[:, None], class_labels=condition)
    assert difference(ours.eps(images(), 50, condition), turned(expected, "RA")) < 1e-5


def test_predictor_is_the_authors(published, imported, float32):
    theirs, ours = published[1]["iap-predictor"], IapPredictor.load(imported / "iap-predictor")
    with torch.inference_mode():
        outputs = torch.cat(list(ours.outputs(images()).values()), dim=1)
        expected = theirs(as_the_authors_scale(turned(images(), "RA")))
    assert difference(outputs, expected) < 1e-5
    predicted = ours.predict(images(1))
    value = float(expected[0, -1]) * 8.0
    assert predicted["repetition_time_ms"]["value"] == pytest.approx(value, rel=1e-4)
    assert list(predicted["manufacturer_model"]["probabilities"]) == ["SIGNA HDx", "Avanto", "TrioTim"]


def test_segmenter_is_the_authors(published, imported, float32):
    theirs, ours = published[1]["segmenter"], Segmenter.load(imported / "segmenter")
    with torch.inference_mode():
        expected = turned(theirs(as_the_authors_scale(turned(images(), "RA"))), "RA")
        assert difference(ours.logits(images()), expected) < 1e-5


def as_the_authors_scale(slices):
    scale = ScaleIntensityRangePercentiles(lower=10, upper=99, b_min=0.0, b_max=1.0, clip=False)
    return torch.stack([scale(one) for one in slices])


def test_condition_is_the_authors(imported):
    spec = Editor.load(imported / "editor").spec
    assert spec == IapPredictor.load(imported / "iap-predictor").spec
    # Field strength | flip angle | model | scan options | slice thickness | TE | TR
    expected = [0, 1, 10 / 12, 0, 1, 0, 0, 1, 1 / 2.5, 1.4 / 2.8, 0.5]
    assert spec.encode(AVANTO).tolist() == pytest.approx(expected)


def test_slices_reach_the_network_as_in_the_papers_code(imported, tmp_path):
    """From the same DICOM files, through their chain of transforms and through ours."""
    voxels = np.random.default_rng(5).gamma(2.0, 100.0, (96, 80, 5)).astype(np.uint16)
    affine = affine_of(np.diag([-1.0, -1.0, 1.0]), spacing=(0.7, 0.9, 2.0))
    write_series(tmp_path / "series", voxels, affine)
    load, turn = LoadImage(reader="pydicomreader", ensure_channel_first=True), Orientation(axcodes="RA")
    theirs = torch.stack([turn(Resize((64, 64))(load(path))) for path in sorted((tmp_path / "series").iterdir())])
    theirs = as_the_authors_scale(torch.as_tensor(theirs))
    config = Editor.load(imported / "editor").config
    images, _, _ = normalised_images(read_scan(tmp_path / "series").volume, 64, config.keeps_aspect)
    ours = turned(config.normalisation.to_network(images), config.axes)
    matches = [min(float((mine - other).abs().max()) for other in theirs) for mine in ours]
    assert max(matches) < 1e-3


def test_imported_editor_edits_a_volume(imported, tmp_path):
    voxels = np.random.default_rng(6).gamma(2.0, 100.0, (48, 40, 4)).astype(np.uint16)
    write_series(tmp_path / "series", voxels, affine_of(np.diag([-1.0, -1.0, 1.0])))
    scan = read_scan(tmp_path / "series")
    request = EditRequest(changes={"manufacturer_model": "TrioTim"}, method="paper", steps=2, slices=(1, 3))
    result = edit_volume(scan.volume, AVANTO, request, Editor.load(imported / "editor"))
    assert np.isfinite(result.volume.voxels).all()
    assert result.evidence["quality"]["change_rms"] > 0


@pytest.mark.parametrize("kind", ["editor", "iap-predictor", "segmenter"])
def test_card_names_the_checkpoint_and_weights_are_float32(published, imported, kind):
    card = (imported / kind / "README.md").read_text()
    assert hashlib.sha256((published[0] / f"{kind}.ckpt").read_bytes()).hexdigest() in card
    assert {t.dtype for t in load_file(imported / kind / "model.safetensors").values()} <= {torch.float32, torch.int64}


def test_columns_may_come_from_json(published, imported, tmp_path):
    plain = {
        **authors.FEATURES,
        "features_labels": {k: list(v.values()) for k, v in authors.FEATURES["features_labels"].items()},
    }
    (tmp_path / "features.json").write_text(json.dumps(plain))
    folder = import_checkpoint(
        published[0] / "editor.ckpt", "editor", tmp_path / "editor", iap_checkpoint=tmp_path / "features.json"
    )
    assert Editor.load(folder).spec == Editor.load(imported / "editor").spec


def changed(settings, path, value):
    """Return settings with one entry, named by its path, replaced or (``None``) taken out."""
    settings = copy.deepcopy(settings)
    *parents, last = path
    place = settings
    for name in parents:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return settings


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("unet_hprams",), None, "has no hyper-parameters unet_hprams"),
        (("model_hparams", "conditioning"), "time_emb", "conditioning is 'time_emb'; only 'hybrid'"),
        (("model_hparams", "with_segmentation"), True, "with_segmentation is True"),
        (("model_hparams", "features_dim"), 12, "features_dim is 12; only 11.*--iap-checkpoint"),
        (("model_hparams", "spatial_size"), (64, 32), "not a square"),
        (("noise_scheduler_hprams", "schedule"), "linear_beta", "schedule is 'linear_beta'"),
        (("noise_scheduler_hprams", "prediction_type"), "sample", "cannot be built"),
        (("unet_hprams", "num_channels"), None, "cannot be built.*num_channels"),
        (("unet_hprams", "num_channels"), (30, 30, 60), "cannot be built"),
        (("unet_hprams", "num_channels"), (32, 64, 64), "do not fit.*of another shape"),
        (("unet_hprams", "num_res_blocks"), (1, 2, 1), "levels differ"),
        (("unet_hprams", "upcast_attention"), True, "upcast_attention is True"),
    ],
)
def test_other_editors_are_refused(published, tmp_path, path, value, message):
    settings = changed(authors.editor_settings(authors.SMALL), path, value)
    checkpoint = authors.write_checkpoint(tmp_path / "editor.ckpt", published[1]["editor"], settings)
    predictor = published[0] / "iap-predictor.ckpt"
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(checkpoint, "editor", tmp_path / "out", iap_checkpoint=predictor)
    assert not (tmp_path / "out").exists()


def test_left_over_and_missing_keys_are_named(published, tmp_path):
    network = published[1]["segmenter"]
    checkpoint = tmp_path / "segmenter.ckpt"
    authors.write_checkpoint(
        checkpoint, network, authors.segmenter_settings(), **{"model.extra": torch.ones(1), "teacher.w": torch.ones(1)}
    )
    with pytest.raises(CheckpointError, match=r"2 left over \(model\.extra, teacher\.w\)"):
        import_checkpoint(checkpoint, "segmenter", tmp_path / "out")
    content = torch.load(checkpoint, weights_only=True)
    name = next(name for name in content["state_dict"] if name.endswith("conv.bias"))
    content["state_dict"] = {
        k: v for k, v in content["state_dict"].items() if k.startswith("model.model") and k != name
    }
    torch.save(content, checkpoint)
    with pytest.raises(CheckpointError, match=rf"1 missing \({name.removeprefix('model.')}\)"):
        import_checkpoint(checkpoint, "segmenter", tmp_path / "out")


def test_checkpoint_of_another_kind_is_refused(published, tmp_path):
    with pytest.raises(CheckpointError, match="Is it of the kind you named"):
        import_checkpoint(published[0] / "iap-predictor.ckpt", "segmenter", tmp_path / "out")


def test_editor_without_its_predictor_is_refused(published, tmp_path):
    with pytest.raises(RequestError, match=r"--iap-checkpoint PREDICTOR\.ckpt"):
        import_checkpoint(published[0] / "editor.ckpt", "editor", tmp_path / "out")


def test_unknown_kind_and_needless_predictor_are_refused(published, tmp_path):
    with pytest.raises(RequestError, match="kind 'lesion' is not known"):
        import_checkpoint(published[0] / "editor.ckpt", "lesion", tmp_path / "out")
    with pytest.raises(RequestError, match="has no condition"):
        import_checkpoint(published[0] / "segmenter.ckpt", "segmenter", tmp_path / "out", iap_checkpoint=tmp_path)


def test_only_a_model_folder_is_replaced(published, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(RequestError, match="something other than a model folder"):
        import_checkpoint(published[0] / "segmenter.ckpt", "segmenter", tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").exists()
