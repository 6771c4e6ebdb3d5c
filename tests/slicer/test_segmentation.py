import numpy as np
import pytest
import slicer
import vtk
from CounterfactualMRILib import segmentation
from CounterfactualMRILib.exchange import ExchangeProblem
from CounterfactualMRILib.schema import LabelClass
from mrml_fixtures import affineOf, imageOf, makeVolume, oblique, toMatrix

TERMINOLOGY = (
    "Segmentation category and type - DICOM master list~SCT^85756007^Tissue~SCT^55603005^Adipose tissue~^^~"
    "Anatomic codes - DICOM master list~^^~^^"
)
LABELS = [
    LabelClass(1, "fat", (0.9, 0.8, 0.5), TERMINOLOGY),
    LabelClass(2, "fibroglandular tissue", (0.4, 0.6, 0.9)),
]


def made(source, array, values=(1, 2)):
    return segmentation.insertSegmentation(imageOf(array, affineOf(source)), values, source, LABELS, "1")


def tissue():
    array = np.zeros((12, 30, 20), np.uint8)
    array[2:6, 4:20, 3:10], array[7:9, 4:20, 3:10] = 1, 2
    return array


def submitted(node, source):
    return segmentation.labelImage(*segmentation.segmentNumbers(node, source), LABELS)


def test_segmentation_has_names_colours_and_terminology():
    source = makeVolume()
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(toMatrix(oblique(origin=(25, 0, 0))))
    source.SetAndObserveTransformNodeID(transform.GetID())
    array = np.zeros((12, 30, 20), np.uint8)
    array[2:6, 4:20, 3:10], array[7:9, 4:20, 3:10], array[10, 2, 2] = 1, 2, 9
    node = segmentation.insertSegmentation(imageOf(array, affineOf(source)), (1, 2, 9), source, LABELS, "1.0")
    made = node.GetSegmentation()
    segments = {segment.GetName(): segment for segment in map(made.GetNthSegment, range(3))}
    assert set(segments) == {"fat", "fibroglandular tissue", "label 9"}
    assert segments["fat"].GetColor() == pytest.approx((0.9, 0.8, 0.5))
    tag = vtk.reference("")
    assert segments["fat"].GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), tag)
    assert tag == TERMINOLOGY
    assert node.GetTransformNodeID() == transform.GetID()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode") == 0
    back = slicer.vtkMRMLLabelMapVolumeNode()
    slicer.mrmlScene.AddNode(back)
    slicer.vtkSlicerSegmentationsModuleLogic.ExportAllSegmentsToLabelmapNode(node, back, 0)
    assert np.count_nonzero(slicer.util.arrayFromVolume(back)) == np.count_nonzero(array)


def test_segments_share_one_label_map():
    node = made(makeVolume(), tissue())
    assert node.GetSegmentation().GetNumberOfLayers() == 1


def test_labels_off_the_grid_of_their_source_are_refused():
    source = makeVolume()
    with pytest.raises(ExchangeProblem, match="grid"):
        segmentation.insertSegmentation(imageOf(tissue(), np.eye(4)), (1, 2), source, LABELS, "1")
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_values_in_an_image():
    assert segmentation.valuesIn(imageOf(tissue(), np.eye(4))) == [1, 2]
    assert segmentation.valuesIn(imageOf(np.zeros((2, 2, 2), np.uint8), np.eye(4))) == []


@pytest.mark.parametrize("isTransformed", [False, True])
def test_what_comes_back_is_what_was_sent(isTransformed):
    source = makeVolume()
    if isTransformed:
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transform.SetMatrixTransformToParent(toMatrix(oblique(spacing=(1, 1, 1), origin=(25, 0, 0))))
        source.SetAndObserveTransformNodeID(transform.GetID())
    node = made(source, tissue())
    before = slicer.mrmlScene.GetNumberOfNodes()
    labels = submitted(node, source)
    assert labels.voxels.dtype == np.uint8
    assert np.array_equal(labels.voxels, tissue())
    assert np.allclose(labels.ijkToRAS, affineOf(source))
    assert slicer.mrmlScene.GetNumberOfNodes() == before


def test_a_corrected_segment_counts_and_its_order_does_not():
    source = makeVolume()
    node = made(source, tissue())
    ids = vtk.vtkStringArray()
    node.GetSegmentation().GetSegmentIDs(ids)
    fat = slicer.util.addVolumeFromArray(
        (tissue() == 1).astype(np.uint8), ijkToRAS=toMatrix(affineOf(source)), nodeClassName="vtkMRMLLabelMapVolumeNode"
    )
    slicer.util.arrayFromVolume(fat)[2] = 0
    node.GetSegmentation().RemoveSegment(ids.GetValue(0))
    assert slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(fat, node)
    node.GetSegmentation().GetNthSegment(1).SetName(" Fat ")
    expected = tissue()
    expected[2] = 0
    assert np.array_equal(submitted(node, source).voxels, expected)


def test_a_segment_that_the_server_does_not_know_is_named():
    source = makeVolume()
    node = made(source, tissue())
    node.GetSegmentation().GetNthSegment(1).SetName("lesion")
    with pytest.raises(ExchangeProblem, match="no label 'lesion'") as caught:
        submitted(node, source)
    assert "fibroglandular tissue" in caught.value.hint


def test_without_segments_there_is_nothing_to_submit():
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    for node in (None, empty):
        with pytest.raises(ExchangeProblem, match="no segment"):
            segmentation.segmentNumbers(node, makeVolume())


@pytest.mark.parametrize("nonsense", [None, 5, "fat", {}, {"category": {}}])
def test_terminology_that_is_none(nonsense):
    assert segmentation.terminologyEntry(nonsense) == ""


def test_terminology_from_codes():
    entry = segmentation.terminologyEntry(
        {
            "category": {"scheme": "SCT", "value": "85756007", "meaning": "Tissue"},
            "type": {"scheme": "SCT", "value": "55603005", "meaning": "Adipose tissue"},
        }
    )
    assert entry.split("~")[1:3] == ["SCT^85756007^Tissue", "SCT^55603005^Adipose tissue"]


@pytest.mark.parametrize("parts", [3, 4, 7])
def test_terminology_text_is_completed_so_that_slicer_reads_it(parts, cpp_errors):
    entry = segmentation.terminologyEntry("~".join(TERMINOLOGY.split("~")[:parts]))
    logic = slicer.vtkSlicerTerminologiesModuleLogic()
    logic.SetMRMLScene(slicer.mrmlScene)
    cpp_errors.clear()  # without the application its terminology files are not there
    parsed = slicer.vtkSlicerTerminologyEntry()
    assert logic.DeserializeTerminologyEntry(entry, parsed)
    assert parsed.GetTypeObject().GetCodeMeaning() == "Adipose tissue"


def test_a_segmentation_knows_its_volume():
    source, other = makeVolume(), makeVolume(name="other")
    first, second = made(source, tissue()), made(source, tissue())
    assert segmentation.segmentationOf(source) is second
    assert segmentation.segmentationOf(other) is None
    assert segmentation.segmentationOf(None) is None
    segmentation.requireOf(first, source)
    with pytest.raises(ExchangeProblem, match="another volume, 'breast'"):
        segmentation.requireOf(first, other)
    drawn = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segmentation.requireOf(drawn, other)
    drawn.SetReferenceImageGeometryParameterFromVolumeNode(other)  # as the Segment Editor does
    segmentation.requireOf(drawn, other)
    with pytest.raises(ExchangeProblem, match="another volume, 'other'"):
        segmentation.requireOf(drawn, source)
