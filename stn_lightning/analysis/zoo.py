"""`stn zoo`: list shipped networks, or add one."""

import copy
import dataclasses

from stn_lightning import zoo as shipped
from stn_lightning.runs.folder import check_name
from stn_lightning.runs.loading import TrainedNetwork
from stn_lightning.runtime.exit_codes import FINISHED


def zoo(
    run: str | None = None,
    *,
    name: str | None = None,
    data: str | None = None,
    licence: str = "MIT",
) -> int:
    """List the networks of the zoo; add a run's.

    Args:
        run: name of a run to add, or its folder; without it the networks are listed.
        name: name in the zoo; by default that of the run.
        data: text that names the training data and their licence.
        licence: SPDX identifier of the weights' licence.

    Returns:
        0.

    Raises:
        ValueError: there is no such run, or it was not tested.
    """
    if run is not None:
        if data is None:
            raise ValueError("the training data are not named; give --data TEXT")
        network = TrainedNetwork.load(run, device="cpu")
        add_to_zoo(network, name or network.name, data, licence)
    for each in shipped.names():
        card, size = shipped.read_card(each), shipped.weights_path(each).stat()
        error = card.record["metrics"].get("test/error", float("nan"))
        print(f"zoo:{each}  {error:.2f} % error, {size.st_size / 2**20:.1f} MB; {card.data}")
    return FINISHED


def add_to_zoo(
    network: TrainedNetwork,
    name: str,
    data: str,
    licence: str = "MIT",
) -> shipped.Card:
    """Write a trained network and its card.

    Args:
        network: network of a tested run.
        name: name in the zoo.
        data: training data, with their licence.
        licence: SPDX identifier of the weights' licence.

    Raises:
        ValueError: the run was not tested.
    """
    if network.record is None:
        raise ValueError(f"{network.folder} has no results.json; test it first")
    settings = {key: copy.deepcopy(network.config[key]) for key in ("model", "data")}
    record = dataclasses.replace(network.record, settings=settings)
    recipe = " ".join(["stn fit", *(f"--config {path}" for path in record.configs)])
    card = shipped.Card(
        data=data,
        recipe=f"{recipe} --seed_everything {record.seed}",
        licence=licence,
        image_shape=list(network.image_shape),
        class_names=list(network.class_names),
        record=dataclasses.asdict(record),
    )
    shipped.write(check_name(name), card, network.task.state_dict())
    return card
