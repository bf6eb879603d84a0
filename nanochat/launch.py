"""What torchrun told this process: which of how many it is. Needs no torch, so anyone may ask.

    torchrun --standalone --nproc-per-node 2 -m scripts base-train ...

Called by distributed.py and cli.py. Read: Launch -> launch -> speaks_first -> leave.
"""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Launch:
    """Our place among the processes of a run; a process started by hand is alone."""

    rank: int = 0  # of all processes of the run
    size: int = 1
    local_rank: int = 0  # of those on this machine: the number of our GPU
    name: str = ""  # the same in all of them, different in every run

    @property
    def alone(self) -> bool:
        return self.size == 1


def launch() -> Launch:
    """Read from the variables that torchrun sets; people never set them."""
    read = os.environ.get
    if not read("TORCHELASTIC_RUN_ID"):
        return Launch()
    name = "-".join(
        read(key, "")
        for key in ("TORCHELASTIC_RUN_ID", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
    )
    rank, size, local_rank = (int(read(key, "0")) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return Launch(rank, size, local_rank, name)


def speaks_first() -> bool:
    """True for one process of the run on this machine: what ends all of them is said once."""
    me = launch()
    if me.alone:
        return True
    mark = Path(tempfile.gettempdir()) / f"nanochat-{os.getuid()}-{me.name}-{os.getppid()}.said"
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def leave(code: int) -> None:
    """End this process. Never returns.

    gloo's threads sometimes abort the interpreter while it shuts down, after all work is done
    (seen in 3 of 15 runs); a process of several therefore leaves without that.
    """
    if launch().alone:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
