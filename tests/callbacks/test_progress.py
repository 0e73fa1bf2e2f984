from unittest.mock import create_autospec

import pytest
import torch
from lightning import LightningModule, Trainer

from stn_lightning.callbacks import EpochLogger, ParameterSummary


class _Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 3)


@pytest.mark.parametrize(
    ("capability", "precision", "said"),
    [
        ("AVX2", "bf16-mixed", True),
        ("AVX512", "bf16-mixed", False),
        ("AVX2", "32-true", False),
        ("DEFAULT", "bf16-mixed", False),
    ],
)
def test_bfloat16_on_a_processor_that_has_none_is_said_to_be_slow(
    capability: str,
    precision: str,
    said: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    trainer = create_autospec(
        Trainer, instance=True, is_global_zero=True, world_size=1, precision=precision
    )
    ParameterSummary().on_fit_start(trainer, _Module())
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == f"9 parameters (layer 9) on cpu, precision {precision}"
    assert bool(rest) == said
    assert all("takes several times as long as 32-true" in line for line in rest)


@pytest.mark.parametrize(("max_epochs", "shown"), [(20, "epoch   3/20"), (-1, "epoch   3")])
def test_the_number_of_epochs_is_shown_where_there_is_one(
    max_epochs: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = create_autospec(Trainer, instance=True, is_global_zero=True)
    trainer.max_epochs, trainer.current_epoch = max_epochs, 2
    trainer.callback_metrics, trainer.callbacks = {}, []
    logger = EpochLogger()
    logger.on_train_batch_end()
    logger.on_train_epoch_end(trainer, _Module())
    assert capsys.readouterr().out == f"{shown}\n"
