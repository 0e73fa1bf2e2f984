"""Trainings that survive stops, kills, full disks and lost processes.

It imports nothing else of the package and can be used in any Lightning project; README.md in this
folder shows how. This module itself imports nothing, so that `signals` is fast to import.
"""
