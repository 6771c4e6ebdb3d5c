"""Self-test inside the Slicer application: the panel opens in its real widgets, and `CounterfactualMRITest` passes.

Run by ctest, or: Slicer --testing --no-splash --python-script CounterfactualMRIInSlicerTest.py
"""

import unittest

import slicer


class CounterfactualMRIInSlicerTest(unittest.TestCase):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def test_panelOpens(self):
        slicer.util.selectModule("CounterfactualMRI")
        panel = slicer.modules.counterfactualmri.widgetRepresentation().self()
        self.assertFalse(panel.ui.generateButton.enabled)
        self.assertTrue(panel.ui.generateButton.toolTip)

    def test_moduleSelfTest(self):
        import CounterfactualMRI

        CounterfactualMRI.CounterfactualMRITest().runTest()
