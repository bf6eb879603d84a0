"""The code map that the bridge serves: made once, in the background, by a process of its own.

Called by bridge_app.py. Indexing takes two seconds of one core the first time and a fraction of
that when little has changed; another process does it, so that no request waits for ours.
Read: MapDesk.start -> get -> close.
"""

import asyncio
import subprocess
import sys
from typing import Any

from nanochat.paths import ROOT, base_dir
from nanochat.serve.bridge_files import graph
from nanochat.serve.bridge_settings import BridgeSettings


class MapDesk:
    """knowledge_graph.json of the checkout; a file that the settings name is only read."""

    def __init__(self, settings: BridgeSettings) -> None:
        self.root, self.given = settings.root or ROOT, settings.graph
        self.folder = base_dir() / "map"
        self.process: subprocess.Popen[bytes] | None = None
        self.making: asyncio.Task[int] | None = None

    def start(self) -> None:
        """Begin to bring the map up to date, unless that has begun."""
        if self.given is None and self.making is None:
            command = [sys.executable, "-m", "scripts", "map", "build"]
            command += ["--root", str(self.root), "--out", str(self.folder)]
            quiet = subprocess.DEVNULL
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=quiet, stdout=quiet, stderr=quiet
            )
            self.making = asyncio.create_task(asyncio.to_thread(self.process.wait))

    async def get(self) -> dict[str, Any]:
        """The map, once it is made. Raises NoFile, with the command that says what is wrong."""
        self.start()
        if self.making is not None:
            await asyncio.shield(self.making)  # one client that leaves ends it for nobody else
        return await asyncio.to_thread(graph, self.given or self.folder / "knowledge_graph.json")

    async def close(self) -> None:
        if self.process is not None and self.making is not None:
            self.process.kill()
            await self.making
