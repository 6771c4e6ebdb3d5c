"""DICOM in and out: the only package in which coordinates are LPS."""
