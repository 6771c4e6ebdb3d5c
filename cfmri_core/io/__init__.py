"""Volumes and acquisition parameters from files and back; every file is written whole or not at all."""
