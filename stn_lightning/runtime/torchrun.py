"""PyTorch's launcher for hosts, ending with a lost one.

`python -m stn_lightning.runtime.torchrun` takes torchrun's options. torchrun asks the host of its
rendezvous ten times a second whether another has come, and waits for the answer for as long as the
kernel does: on a host that is cut off a quarter of an hour, when the training there has long ended.
Here the kernel gives up after `lost_timeout` seconds, an option of `--rdzv-conf`. And torchrun
gives its trainings the store of addresses that it uses itself, with which they hang when it starts
them again (PyTorch 2.14, Lightning 2.6); here they have their own.
"""

import contextlib
import os
import socket
import sys
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.rendezvous import (
    RendezvousError,
    RendezvousHandler,
    RendezvousParameters,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import (
    DEFAULT_PORT,
    C10dRendezvousBackend,
    create_backend,
)
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from stn_lightning.runtime.atomic_files import MACHINE

LOST = 360
"""Seconds: a minute more than a training waits, which has then said what happened and ended."""


class Backend(C10dRendezvousBackend):
    """PyTorch's rendezvous under a name that selects `meet`."""

    name = "stn"


def meet(parameters: RendezvousParameters) -> RendezvousHandler:
    """Return torchrun's c10d rendezvous, which gives up silent hosts.

    A host that does not answer for `lost_timeout` seconds is no longer part of it.
    """
    _, store = create_backend(parameters)
    _give_up(
        parse_rendezvous_endpoint(parameters.endpoint, DEFAULT_PORT)[1],
        parameters.get_as_int("lost_timeout", LOST) or LOST,
    )
    return create_handler(store, Backend(store, parameters.run_id), parameters)


def _give_up(port: int, seconds: int) -> None:
    """Bound the wait for a silent connection to `port`."""
    for entry in Path(
        "/proc/self/fd"
    ).iterdir():  # of this process's; PyTorch's store does not show its own
        with (
            contextlib.suppress(OSError),
            socket.socket(fileno=os.dup(int(entry.name))) as connection,
        ):  # else no socket, or no other end
            if connection.getpeername()[1] == port:
                connection.setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * seconds
                )  # for what was sent
                connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1
                )  # with nothing sent, it asks from time to time
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
                    connection.setsockopt(socket.IPPROTO_TCP, option, max(seconds // 10, 1))


def main() -> None:
    """torchrun, whose hosts meet by `meet`."""
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    rendezvous_handler_registry.register(Backend.name, meet)
    try:
        run.main([f"--rdzv-backend={Backend.name}", *sys.argv[1:]])
    except RendezvousError as problem:
        reason = f"{type(problem).__name__}: {problem.__cause__ or problem}".partition("\n")[0]
        sys.exit(
            f"torchrun: {MACHINE} does not find the other hosts any more ({reason}); "
            "start it again on all, and the training goes on"
        )


if __name__ == "__main__":
    main()
