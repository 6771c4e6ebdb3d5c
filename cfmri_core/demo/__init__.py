"""The whole mission once, on simulated studies, through the real server: behind `make demo`."""

from cfmri_core.demo.run import run_demo
from cfmri_core.demo.studies import DemoStudies, prepare_studies

__all__ = ["DemoStudies", "prepare_studies", "run_demo"]
