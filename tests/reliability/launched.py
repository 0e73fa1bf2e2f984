"""The small training as a program, for launchers: `python -m tests.reliability.launched FOLDER
RANKS PAUSE`.
"""

import logging
import sys
from pathlib import Path

from stn_lightning.runtime import signals

if __name__ == "__main__":
    signals.start_listening()  # before seconds of imports
    import torch

    from tests.reliability.training import Slowly, train

    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    folder, ranks, pause = sys.argv[1:]
    train(Path(folder), Slowly(float(pause)), ranks=int(ranks), seconds=0.0)
