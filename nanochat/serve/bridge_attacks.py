"""Attacks 22 to 25: requests that a hostile page, or a hostile program, would send to the bridge.

Called by `nanochat sandbox check` and the tests; 1 to 21 are in execution_attacks.py. Each attack
has a positive control: the same request made properly must succeed, or its refusal means nothing.
Read: Bait -> ATTACKS -> attack_bridge.
"""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from nanochat.execution_attacks import Finding


@dataclass(frozen=True)
class Bait:
    """A running bridge, its token, and a client that makes proper requests."""

    address: str  # http://127.0.0.1:PORT
    token: str
    client: httpx.Client

    def proper(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}", "Origin": self.address}

    def post(self, headers: dict[str, str], content: str = '{"code": "print(6*7)"}') -> int:
        json = {"Content-Type": "application/json"}
        answer = self.client.post("/run", content=content, headers=json | headers)
        return answer.status_code if answer.text.find("42\\n") < 0 else 200

    def works(self) -> bool:
        return self.post(self.proper()) == 200


def evil_host(bait: Bait) -> bool:
    """DNS rebinding: the browser believes that evil.example is this machine."""
    hosts = ("evil.example", f"evil.example:{port_of(bait)}", "127.0.0.1", "127.0.0.1:1", "")
    names = [*hosts, f"127.0.0.1.evil.example:{port_of(bait)}", f"0.0.0.0:{port_of(bait)}"]
    answers = [bait.post(bait.proper() | {"Host": host}) for host in names]
    return all(code in (400, 421) for code in answers)


def evil_origin(bait: Bait) -> bool:
    """Another page sends what browsers send without asking first."""
    refused = []
    for origin in (
        "http://evil.example",
        "null",
        "https://127.0.0.1",
        f"{bait.address}.evil.example",
    ):
        refused.append(bait.post(bait.proper() | {"Origin": origin}) == 403)
    bare = {"Authorization": f"Bearer {bait.token}"}
    refused.append(bait.post(bare) == 403)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        refused.append(bait.post(bait.proper() | {"Content-Type": kind}) == 415)
    refused.append(bait.post(bait.proper() | {"Sec-Fetch-Site": "cross-site"}) == 403)
    return all(refused)


def wrong_token(bait: Bait) -> bool:
    """Missing, nearly right, in the wrong place, of an earlier start."""
    wrong = [bait.token[:-1], bait.token + "x", bait.token.swapcase(), "x", "x" * 60_000]
    headers = [bait.proper() | {"Authorization": f"Bearer {token}"} for token in wrong]
    headers += [{"Origin": bait.address}, bait.proper() | {"Authorization": bait.token}]
    headers += [{"Origin": bait.address, "Cookie": f"token={bait.token}"}]
    answers = [bait.post(each) for each in headers]
    page = bait.client.get("/").text + bait.client.get("/openapi.json").text
    asked = bait.client.get(f"/status?token={bait.token}").status_code
    return (
        all(code in (400, 401, 431) for code in answers) and bait.token not in page and asked == 401
    )


def exhaustion(bait: Bait) -> bool:
    """Too many runs, a client that leaves, a body that is too large or too deep."""
    proper = bait.proper()
    large = bait.post(proper, '{"code": "' + "x" * 2_000_000 + '"}')
    deep = bait.post(proper, "[" * 200_000)
    huge = bait.post(proper, '{"code": "1", "wall_s": 1e300}')
    body = '{"code": "import time; time.sleep(60)", "wall_s": 15}'
    wires = [half_asked(bait, body) for _ in range(6)]
    codes = [first_line(wire) for wire in wires[2:]]
    for wire in wires:
        wire.close()
    return (
        large == 413
        and deep in (400, 422)
        and huge in (400, 413)
        and all(code == 429 for code in codes)
        and no_orphans(bait)
    )


def half_asked(bait: Bait, body: str) -> socket.socket:
    """Send a request and do not read the answer."""
    host = bait.address.removeprefix("http://")
    wire = socket.create_connection(("127.0.0.1", port_of(bait)), 20)
    head = f"POST /run HTTP/1.1\r\nHost: {host}\r\nOrigin: {bait.address}\r\n"
    head += f"Authorization: Bearer {bait.token}\r\nContent-Type: application/json\r\n"
    wire.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    return wire


def first_line(wire: socket.socket) -> int:
    return int(wire.recv(12).split()[1])


def no_orphans(bait: Bait) -> bool:
    """The programs of those who left have ended: both places are free again."""
    for _ in range(200):
        wires = [half_asked(bait, '{"code": "print(1)"}') for _ in range(2)]
        codes = [first_line(wire) for wire in wires]
        for wire in wires:
            wire.close()
        if codes == [200, 200]:
            return True
        time.sleep(0.05)
    return False


def port_of(bait: Bait) -> int:
    return int(bait.address.rpartition(":")[2])


ATTACKS: tuple[tuple[int, str, Callable[[Bait], bool]], ...] = (
    (22, "reach the bridge under another host name", evil_host),
    (23, "run code from a page of another origin", evil_origin),
    (24, "use it without the token", wrong_token),
    (25, "exhaust it, or leave programs behind", exhaustion),
)


def attack_bridge(bait: Bait) -> list[Finding]:
    """Try every attack; after each one the bridge must still work."""
    found = []
    for number, title, refused in ATTACKS:
        contained, control = refused(bait), bait.works()
        detail = "refused" if contained else "something came through"
        found.append(Finding(number, title, contained, control, detail))
    return found
