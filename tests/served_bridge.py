"""The bridge on a free port with a tiny model, for test_bridge.py and the tests of its page."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
from fastapi import FastAPI
from tiny_models import byte_tokenizer, lively_model

from nanochat.serve.bridge_app import create_app
from nanochat.serve.bridge_attacks import Bait
from nanochat.serve.bridge_guard import mint_token
from nanochat.serve.bridge_server import bridge_in_thread, open_loopback
from nanochat.serve.bridge_settings import BridgeSettings
from nanochat.serve.server import address_of


@dataclass
class Bridge:
    address: str
    token: str
    client: httpx.Client  # sends the token and the origin
    app: FastAPI

    def bait(self) -> Bait:
        return Bait(self.address, self.token, httpx.Client(base_url=self.address, timeout=60))

    def trace(self, **body: Any) -> httpx.Response:
        return self.client.post("/trace", json={"prompt": "Anna has"} | body)

    def problem(self, response: httpx.Response, status: int) -> str:
        """The sentence of a refusal, after checking its shape."""
        assert response.status_code == status, response.text
        error = response.json()["error"]
        assert set(error) >= {"message", "type", "param", "code"}
        return error["message"]


@contextmanager
def bridging(**changes: Any) -> Iterator[Bridge]:
    model = lively_model(sharpness=30.0)
    bound, token = open_loopback(0), mint_token()
    app = create_app(
        replace(BridgeSettings(), **({"index": False} | changes)),
        token,
        bound.getsockname()[1],
        load=lambda: (model, byte_tokenizer()),
    )
    address = address_of(bound)
    headers = {"Authorization": f"Bearer {token}", "Origin": address}
    with (
        bridge_in_thread(app, bound),
        httpx.Client(base_url=address, headers=headers, timeout=60) as client,
    ):
        yield Bridge(address, token, client, app)
