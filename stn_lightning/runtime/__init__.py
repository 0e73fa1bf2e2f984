"""Trainings that survive stops, kills, full disks and lost processes.

Nothing here knows of transformers, and nothing else of the package is imported: README.md in this
folder shows it in any Lightning project. This module imports nothing, so that `signals` can listen
before PyTorch is loaded.
"""
