import torch

from stn_lightning.batch import Batch


def test_a_batch_travels_to_another_device_as_one_with_its_plain_parts_untouched() -> None:
    """What Lightning does to it; "meta" is a device that every machine has."""
    from lightning.fabric.utilities import move_data_to_device

    batch = Batch(
        torch.zeros(2, 1, 28, 28),
        torch.zeros(2).long(),
        torch.arange(2),
        epoch=3,
        share=1.5,
        split="val",
    )
    moved = move_data_to_device(batch, torch.device("meta"))
    assert type(moved) is Batch
    assert {tensor.device.type for tensor in moved[:3]} == {"meta"}
    assert moved[3:] == (3, 1.5, "val", None)
