"""torchrun for several hosts, ending if one is lost.

`python -m stn_lightning.runtime.torchrun` has torchrun's options and two differences:

- torchrun asks the host of the rendezvous ten times a second for new hosts. On a host whose network
  connection breaks, it waits for an answer until the kernel gives up, after a quarter of an hour.
  Here it waits for `lost_timeout` seconds, an option of `--rdzv-conf`.
- torchrun shares its own TCP store with the trainings, which then hang when it restarts them
  (PyTorch 2.14, Lightning 2.6). Here trainings have their own store.
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

from stn_lightning.runtime.atomic_files import HOST

LOST = 360
"""Default of `lost_timeout`: a minute more than a training waits, so that it can report first."""


class Backend(C10dRendezvousBackend):
    """PyTorch's c10d rendezvous, under another name."""

    name = "stn"


def meet(parameters: RendezvousParameters) -> RendezvousHandler:
    """Return torchrun's c10d rendezvous, with a time-out for hosts."""
    _, store = create_backend(parameters)
    _give_up(
        parse_rendezvous_endpoint(parameters.endpoint, DEFAULT_PORT)[1],
        parameters.get_as_int("lost_timeout", LOST) or LOST,
    )
    return create_handler(store, Backend(store, parameters.run_id), parameters)


def _give_up(port: int, seconds: int) -> None:
    """Set a time-out for this process's connections to `port`."""
    tcp = socket.IPPROTO_TCP
    for entry in Path("/proc/self/fd").iterdir():  # PyTorch does not expose the store's socket
        # OSError: the descriptor is no socket, or it is not connected
        with (
            contextlib.suppress(OSError),
            socket.socket(fileno=os.dup(int(entry.name))) as connection,
        ):
            if connection.getpeername()[1] == port:
                connection.setsockopt(tcp, socket.TCP_USER_TIMEOUT, 1000 * seconds)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # while idle
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
                    connection.setsockopt(tcp, option, max(seconds // 10, 1))


def main() -> None:
    """Run torchrun with the rendezvous `meet`."""
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    rendezvous_handler_registry.register(Backend.name, meet)
    try:
        run.main([f"--rdzv-backend={Backend.name}", *sys.argv[1:]])
    except RendezvousError as problem:
        reason = f"{type(problem).__name__}: {problem.__cause__ or problem}".partition("\n")[0]
        sys.exit(
            f"torchrun: {HOST} does not find the other hosts any more ({reason}); "
            "start it again on all hosts to resume the training"
        )


if __name__ == "__main__":
    main()
