"""Keep a training alive: signals, checkpoints, exact resume, guards.

Nothing here knows of transformers. Modules are imported one by one, since some must be ready before
PyTorch is.
"""
