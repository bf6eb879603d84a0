"""What the bridge can be told. Read by scripts/bridge.py (its flags) and the bridge's routes.

There is no flag for the address: the bridge runs a learner's code, so it listens on this machine
only, 127.0.0.1, whatever anybody wishes.
"""

from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class BridgeSettings:
    """Flags of `nanochat bridge`: its port, the model it opens up, what it refuses."""

    port: int = 8001
    """TCP port on 127.0.0.1; 0 takes a free one and prints it."""
    stage: str = "sft"
    """Which model is traced: base, sft or rl."""
    tag: str | None = None
    """Which run of that stage; none takes the newest."""
    allow_origin: tuple[str, ...] = ()
    """More origins that may ask, such as http://localhost:5173 of a viewer under development."""
    root: Path | None = None
    """The checkout whose source, notes and guide are shown; none: this one."""
    graph: Path | None = None
    """knowledge_graph.json; none: the one of `nanochat map build`, made by the bridge itself."""
    index: bool = True
    """Bring that code map up to date at the start; without it, when it is first asked for."""
    pyodide: Path | None = None
    """Folder of the Pyodide package; none: the one that `nanochat browser-python` fetches."""
    max_body_bytes: int = 300_000
    """Largest request body that is read, bytes."""
    max_prompt_characters: int = 8_000
    """Longest prompt of a trace, characters."""
    max_trace_bytes: int = 64 << 20
    """Largest byte budget that a trace may ask for, bytes."""
    kept_traces: int = 8
    """Traces that are held in memory; the oldest goes first."""
    trace_ttl_s: float = 1800.0
    """How long a trace is held, seconds."""
    max_code_characters: int = 100_000
    """Longest program that is run, characters."""
    max_wall_s: float = 20.0
    """Longest run that may be asked for, seconds."""
    running_limit: int = 2
    """Programs that run at the same time; the next ones are refused with 429."""
