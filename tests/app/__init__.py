"""Tests of the MONAI Label app: over real HTTP where a server matters."""
