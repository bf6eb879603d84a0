"""A headless Firefox for a test, spoken to in its own protocol, Marionette: JSON over a socket.

Playwright only drives a Firefox of its own build; this drives the one that the system installed.
Each message is `length:[type, id, name or error, content]`. Read: Firefox.__enter__ -> ask -> run.
"""

import json
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

START_S = 120


class Firefox:
    """with Firefox(program) as firefox: firefox.open(address); firefox.run("return 1 + 1")"""

    def __init__(self, program: str) -> None:
        self.program = program
        self.number = 0

    def __enter__(self) -> "Firefox":
        self.folder = tempfile.TemporaryDirectory()
        port = free_port()
        settings = f'user_pref("marionette.port", {port});\n'
        Path(self.folder.name, "user.js").write_text(settings, encoding="utf-8")
        self.process = subprocess.Popen(
            [self.program, "--headless", "--marionette", "--profile", self.folder.name],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.socket = connect(port)
        self.hear()  # it greets first
        self.ask("WebDriver:NewSession", {})
        self.ask("WebDriver:SetTimeouts", {"script": 180_000, "pageLoad": 180_000})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()

    def hear(self) -> Any:
        length = b""
        while not length.endswith(b":"):
            length += self.socket.recv(1)
        text = b""
        while len(text) < int(length[:-1]):
            text += self.socket.recv(65536)
        return json.loads(text)

    def ask(self, command: str, content: dict[str, Any]) -> Any:
        self.number += 1
        text = json.dumps([0, self.number, command, content]).encode()
        self.socket.sendall(str(len(text)).encode() + b":" + text)
        _, _, error, answer = self.hear()
        assert error is None, f"{command}: {error}"
        return answer

    def open(self, address: str, width: int = 1280, height: int = 900) -> None:
        self.ask("WebDriver:SetWindowRect", {"width": width, "height": height})
        self.ask("WebDriver:Navigate", {"url": address})

    def run(self, script: str) -> Any:
        """The value of an async function's body, in the page."""
        body = (
            "const done = arguments[arguments.length - 1];"
            f"(async () => {{ {script} }})().then((value) => done({{value}}),"
            "(error) => done({error: String(error)}));"
        )
        wanted: dict[str, Any] = {"script": body, "args": [], "sandbox": None}
        answer = self.ask("WebDriver:ExecuteAsyncScript", wanted)["value"]
        assert "error" not in answer, answer["error"]
        return answer.get("value")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def connect(port: int) -> socket.socket:
    """Firefox needs some seconds until it listens."""
    until = time.monotonic() + START_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=START_S)
        except ConnectionRefusedError:
            assert time.monotonic() < until, "Firefox doesn't answer"
            time.sleep(0.2)
