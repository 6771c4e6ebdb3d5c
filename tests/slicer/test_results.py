import json

import numpy as np
import pytest
import slicer
from CounterfactualMRILib import results
from CounterfactualMRILib.exchange import ExchangeProblem
from mrml_fixtures import affineOf, makeVolume, oblique, saveScene, toMatrix, unscened

EVIDENCE = {
    "synthetic": True,
    "model": {"kind": "editor", "sha256": "ab"},
    "method": "inversion",
    "seed": 3,
    "factual": {"echo_time_ms": 2.4},
    "changes": {"field_strength_t": [3.0, 1.5], "echo_time_ms": [2.4, 1.36], "manufacturer": "SIEMENS"},
    "warnings": ['outside "training" & <support>'],
}


def hierarchy():
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)


def insert(source, evidence=EVIDENCE, checksum=""):
    result = unscened(np.zeros((12, 30, 20), np.float32), affineOf(source))
    return results.insertCounterfactual(result, source, evidence, "1.0", checksum)


def test_counterfactual_is_named_marked_and_shown_like_its_source():
    source = makeVolume()
    node = insert(source)
    assert node.GetName() == "[synthetic] breast (1.5 T, TE 1.36 ms, SIEMENS)"
    assert results.isSynthetic(node)
    assert not results.isSynthetic(source)
    assert results.sourceOf(node) is source
    assert json.loads(node.GetAttribute("CounterfactualMRI.Changes")) == EVIDENCE["changes"]
    assert json.loads(node.GetAttribute("CounterfactualMRI.Evidence")) == EVIDENCE
    assert node.GetAttribute("CounterfactualMRI.Method") == "inversion"
    assert node.GetAttribute("CounterfactualMRI.Seed") == "3"
    assert node.GetAttribute("CounterfactualMRI.ServerVersion") == "1.0"
    display = node.GetDisplayNode()
    assert (display.GetWindow(), display.GetLevel(), display.GetAutoWindowLevel()) == (700, 350, 0)
    assert display.GetColorNodeID() == source.GetDisplayNode().GetColorNodeID()


def test_provenance_survives_saving_and_loading(tmp_path):
    source = makeVolume()
    insert(source, checksum=results.checksumOf(slicer.util.arrayFromVolume(source)))
    path = saveScene(tmp_path)
    slicer.startAgain()
    slicer.mrmlScene.SetURL(path)
    slicer.mrmlScene.Connect()
    node = slicer.util.getNode("[[]synthetic[]]*")
    assert results.isSynthetic(node)
    assert results.sourceOf(node).GetName() == "breast"
    results.requireSameSource(node)
    assert json.loads(node.GetAttribute("CounterfactualMRI.Evidence")) == EVIDENCE


def test_several_counterfactuals_have_names_and_one_folder():
    source = makeVolume()
    first, second = insert(source), insert(source)
    assert first.GetName() != second.GetName()
    tree = hierarchy()
    folders = {tree.GetItemParent(tree.GetItemByDataNode(node)) for node in (first, second)}
    assert len(folders) == 1
    assert tree.GetItemName(folders.pop()) == "Counterfactual MRI: breast"
    other = makeVolume(name="other")
    item = tree.GetItemByDataNode(insert(other))
    assert tree.GetItemName(tree.GetItemParent(item)) == "Counterfactual MRI: other"


def test_parent_transform_is_carried_over():
    source = makeVolume()
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(toMatrix(oblique(origin=(25, 0, 0))))
    source.SetAndObserveTransformNodeID(transform.GetID())
    assert insert(source).GetTransformNodeID() == transform.GetID()


def test_what_is_unknown_afterwards_is_not_in_the_name():
    changes = {"manufacturer": ["GE MEDICAL SYSTEMS", None], "manufacturer_model": ["SIGNA HDx", "Avanto"]}
    assert insert(makeVolume(), {"changes": changes}).GetName() == "[synthetic] breast (Avanto)"


def test_source_without_display_and_evidence_without_content():
    source = makeVolume()
    slicer.mrmlScene.RemoveNode(source.GetDisplayNode())
    node = insert(source, {})
    assert node.GetName() == "[synthetic] breast"
    assert node.GetDisplayNode() is not None


def test_removed_source_is_noticed():
    source = makeVolume()
    results.requireInScene(source)
    slicer.mrmlScene.RemoveNode(source)
    with pytest.raises(ExchangeProblem):
        results.requireInScene(source)


def test_another_time_point_is_not_taken_for_the_source():
    source = makeVolume()
    voxels = slicer.util.arrayFromVolume(source)
    node = insert(source, checksum=results.checksumOf(voxels.copy()))
    assert np.array_equal(results.sourceVoxels(node), voxels)
    voxels += 1
    with pytest.raises(ExchangeProblem, match="other voxels") as caught:
        results.sourceVoxels(node)
    assert "time point" in caught.value.hint
    voxels -= 1
    results.sourceVoxels(node)
    assert results.sourceVoxels(insert(source)) is not None  # of an earlier release, without a checksum


def test_a_checksum_tells_order_and_value_and_needs_no_certain_layout():
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    assert results.checksumOf(voxels) == results.checksumOf(np.asfortranarray(voxels))
    assert results.checksumOf(voxels) != results.checksumOf(voxels[::-1])


def test_results_go_to_the_folder_of_their_source_beside_another_patient(tmp_path):
    insert(makeVolume(name="first"))
    path = saveScene(tmp_path)
    slicer.startAgain()
    second = makeVolume(name="second")  # has the id now that the first patient's volume had
    slicer.mrmlScene.SetURL(path)
    slicer.mrmlScene.Import()
    tree, first = hierarchy(), slicer.util.getNode("first")

    def folderOf(node):
        return tree.GetItemParent(tree.GetItemByDataNode(node))

    assert tree.GetItemName(folderOf(insert(second))) == "Counterfactual MRI: second"
    known = folderOf(slicer.util.getNode("[[]synthetic[]] first*"))
    assert tree.GetItemName(known) == "Counterfactual MRI: first"
    assert folderOf(insert(first)) == known
