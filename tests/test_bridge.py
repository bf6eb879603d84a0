"""The bridge: who may ask, what it gives, what it refuses, over real HTTP on a free port."""

import base64
import json
import re
import shutil
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from served_bridge import Bridge, bridging

from nanochat.execution import PNG
from nanochat.execution_boxes import TIERS
from nanochat.serve.bridge_attacks import ATTACKS, attack_bridge
from nanochat.serve.bridge_ranges import BadRange, span_of
from nanochat.serve.bridge_runs import RunDesk
from nanochat.serve.bridge_server import open_loopback
from nanochat.serve.bridge_settings import BridgeSettings
from nanochat.serve.bridge_traces import Kept, TraceGone, TraceStore
from nanochat.serve.errors import AddressUnusable
from nanochat.trace_format import read_trace

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def bridge() -> Iterator[Bridge]:
    with bridging() as running:
        yield running


# --- who may ask ---


def test_without_the_token_only_files_that_hold_nothing_are_served(bridge):
    bare = httpx.Client(base_url=bridge.address)
    for path in ("/", "/start", "/box", "/guide", "/health", "/openapi.json", "/static/start.js"):
        assert bare.get(path).status_code == 200, path
    api = bare.get("/openapi.json").json()
    for path, methods in api["paths"].items():
        for method in methods:
            if path in ("/health",):
                continue
            at = re.sub(r"{\w+}", "x", path)
            origin = {"Origin": bridge.address, "Content-Type": "application/json"}
            answer = bare.request(method, at, headers=origin)
            assert answer.status_code == 401, (method, path)
            assert "token" in bridge.problem(answer, 401)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_four_attacks_on_the_server_fail_and_their_controls_succeed(bridge):
    findings = attack_bridge(bridge.bait())
    assert [f.number for f in findings] == [number for number, _, _ in ATTACKS] == [22, 23, 24, 25]
    assert [f.title for f in findings if not f.contained] == []
    assert [f.title for f in findings if not f.control] == []


def test_pages_are_told_that_they_can_load_nothing_from_elsewhere(bridge):
    for path in ("/", "/box", "/guide"):
        policy = bridge.client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy and "*" not in policy and "http://evil" not in policy
    box = bridge.client.get("/box").headers["content-security-policy"]
    assert box.startswith("sandbox allow-scripts;") and "allow-same-origin" not in box
    assert "access-control-allow-origin" not in bridge.client.get("/status").headers


def test_the_bridge_listens_on_this_machine_only_and_says_when_a_port_is_taken():
    with open_loopback(0) as bound:
        host, port = bound.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(AddressUnusable):
            open_loopback(port)
        with open_loopback(port, any_other=True) as other:
            assert other.getsockname()[1] != port


# --- traces ---


def test_a_trace_is_made_fetched_in_parts_drawn_and_deleted(bridge, tmp_path):
    answer = bridge.trace(max_new_tokens=2, hooks=["x0", "*.attn.pattern"]).json()
    name, manifest = answer["trace_id"], answer["manifest"]
    assert "".join(piece["text"] for piece in answer["tokens"][1:9]) == "Anna has"
    assert len(manifest["steps"]) == len(answer["next_tokens"]) == 3
    whole = bridge.client.get(f"/trace/{name}.safetensors").content
    (tmp_path / "t.safetensors").write_bytes(whole)
    (tmp_path / "t.json").write_text(json.dumps(manifest))
    assert read_trace(tmp_path / "t.json").tensor("x0").shape == (9, 32)
    entry = manifest["tensors"][0]
    first, last = entry["offset"], entry["offset"] + entry["nbytes"] - 1
    part = bridge.client.get(
        f"/trace/{name}.safetensors", headers={"Range": f"bytes={first}-{last}"}
    )
    assert part.status_code == 206 and part.content == whole[first : last + 1]
    assert part.headers["content-range"] == f"bytes {first}-{last}/{len(whole)}"
    beyond = {"Range": f"bytes={len(whole)}-"}
    bridge.problem(bridge.client.get(f"/trace/{name}.safetensors", headers=beyond), 416)
    drawing = bridge.client.get(f"/trace/{name}.svg?layer=1&head=2").text
    assert drawing.startswith("<svg") and "Who looks at whom: layer 1, head 2" in drawing
    assert bridge.client.get(f"/trace/{name}").json() == answer
    assert bridge.client.delete(f"/trace/{name}").status_code == 204
    assert "make it again" in bridge.problem(bridge.client.get(f"/trace/{name}"), 404)


def test_a_streamed_trace_tells_each_step_and_then_everything(bridge):
    told = bridge.trace(max_new_tokens=2, stream=True, level="stats").text.splitlines()
    events = [json.loads(line) for line in told]
    assert [event["event"] for event in events] == ["step", "step", "step", "done"]
    assert events[-1]["trace"]["manifest"]["payload"]["bytes"] < 100
    bridge.problem(bridge.trace(hooks=["nonsense"], stream=True), 400)


def test_an_edit_changes_what_comes_next(bridge):
    edit = {"name": "blocks.*.attn.z", "op": "scale", "value": 0.0}
    plain, edited = bridge.trace().json(), bridge.trace(edits=[edit]).json()
    assert plain["next_tokens"] != edited["next_tokens"]
    again = bridge.trace().json()
    assert plain["manifest"]["payload"] == again["manifest"]["payload"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"hooks": ["blocks.0.atn.pattern"]}, 400, "blocks.0.attn.pattern"),
        ({"prompt": "x" * 8001}, 413, "limit 8,000"),
        ({"prompt": "x" * 400}, 400, "holds 300"),
        ({"max_bytes": 10}, 400, "raise it"),
        ({"max_bytes": 1 << 40}, 413, "ask for less"),
        ({"max_new_tokens": 33}, 400, "max_new_tokens"),
        ({"token_ids": [1]}, 400, "either prompt or token_ids"),
        ({"prompt": None, "token_ids": [-1]}, 400, "token ids lie between"),
        ({"surprise": 1}, 400, "no such field"),
        ({"level": "some"}, 400, "level"),
        ({"edits": [{"name": "x0", "op": "set", "value": 0, "extra": 1}]}, 400, "extra"),
    ],
)
def test_a_bad_trace_request_gets_one_clear_sentence(bridge, body, status, words):
    assert words in bridge.problem(bridge.trace(**body), status)


def test_one_trace_at_a_time(bridge):
    with bridge.app.state.traces.busy:
        answer = bridge.trace()
    assert "try again" in bridge.problem(answer, 429) and answer.headers["retry-after"] == "1"
    assert bridge.trace(level="stats").status_code == 200


def test_without_a_model_the_answer_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    with bridging() as bridge:
        bridge.app.state.traces.models.load = None
        assert "no model to look into" in bridge.problem(bridge.trace(), 503)
        status = bridge.client.get("/status").json()
        assert status["model"] is None and "browser-python" in status["browser_python_problem"]


def test_old_traces_are_forgotten_and_few_are_kept():
    now = [0.0]
    store = TraceStore(2, 10.0, lambda: now[0])
    for name in "abc":
        store.add(name, Kept({}, b"", None, now[0]))
    with pytest.raises(TraceGone):
        store.get("a")
    assert store.get("b") and store.get("c")
    now[0] = 11.0
    with pytest.raises(TraceGone):
        store.get("c")


def test_ranges_are_read_as_the_standard_says():
    assert span_of("bytes=0-0", 5) == (0, 0) and span_of("bytes=3-99", 5) == (3, 4)
    for wish in ("bytes=5-", "bytes=-", "bytes=0-1,3-4", "lines=1-2", "bytes=4-2", "bytes=-0"):
        with pytest.raises(BadRange):
            span_of(wish, 5)


# --- programs and exercises ---


@pytest.mark.slow
def test_a_program_runs_and_its_output_streams(bridge):
    body = {"code": "print('hello')\nimport sys\nprint('oh', file=sys.stderr)"}
    told = bridge.client.post("/run", json=body).json()
    assert (told["ended"], told["stdout"], told["stderr"]) == ("finished", "hello\n", "oh\n")
    lines = bridge.client.post("/run", json=body | {"stream": True}).text.splitlines()
    begin, *events = [json.loads(line) for line in lines]
    assert begin == {"event": "begin"}
    assert "".join(e["text"] for e in events[:-1] if e["stream"] == "stdout") == "hello\n"
    assert events[-1]["outcome"]["exit_code"] == 0
    slow = bridge.client.post("/run", json={"code": "while True: pass", "wall_s": 0.5}).json()
    assert slow["ended"] == "timed out"


def test_a_program_that_asks_for_too_much_is_refused(bridge):
    for body in ({"code": "1", "wall_s": 1000}, {"code": "x" * 100_001}):
        bridge.problem(bridge.client.post("/run", json=body), 413)
    bridge.problem(bridge.client.post("/run", json={"code": 3}), 400)


@pytest.mark.slow
def test_an_exercise_is_checked_and_keeps_its_secrets(bridge):
    listed = bridge.client.get("/exercises").json()
    assert len(listed) >= 20 and set(listed[0]) == set(
        bridge.client.get("/exercises/01_dot_product").json()
    )
    code = bridge.client.get("/exercises/01_dot_product/solution").json()["solution"]
    check = "/exercises/01_dot_product/check"
    assert bridge.client.post(check, json={"code": code}).json()["passed"]
    told = bridge.client.post(check, json={"code": "def dot(a, b): return 32"}).json()
    assert not told["passed"] and [c["ok"] for c in told["checks"]][:2] == [True, False]
    bridge.problem(bridge.client.post("/exercises/none/check", json={"code": ""}), 404)


# --- the checkout ---


def test_source_is_shown_by_lines_and_nothing_else_is(bridge):
    shown = bridge.client.get("/source?path=nanochat/gpt.py&start=1&end=3").json()
    assert shown["lines"] == (ROOT / "nanochat/gpt.py").read_text().splitlines()[:3]
    secrets = (
        "../secret",
        "/etc/passwd",
        ".git/config",
        ".env",
        "nanochat",
        "nanochat/../.git/HEAD",
    )
    for path in (*secrets, ".venv/pyvenv.cfg", "%00", "nanochat/gpt.py/"):
        bridge.problem(bridge.client.get("/source", params={"path": path}), 404)
    bridge.problem(bridge.client.get("/source?path=nanochat/gpt.py&start=99999"), 400)


def test_notes_are_listed_and_shown(bridge):
    notes = bridge.client.get("/notes").json()
    names = {note["id"] for note in notes}
    assert "architecture.rmsnorm" in names
    assert all(set(note) == {"id", "title", "cluster", "prerequisites"} for note in notes)
    assert bridge.client.get("/notes/architecture.rmsnorm").json()["markdown"].startswith("---")
    for name in ("nothing.here", "..%2F..%2FREADME", "README"):
        bridge.problem(bridge.client.get(f"/notes/{name}"), 404)


def test_the_code_map_is_served_once_it_is_made(tmp_path):
    path = tmp_path / "knowledge_graph.json"
    with bridging(graph=path) as bridge:
        assert "nanochat map build" in bridge.problem(bridge.client.get("/graph"), 404)
        path.write_text('{"nodes": []}')
        assert bridge.client.get("/graph").json() == {"nodes": []}


@pytest.mark.slow
def test_on_a_fresh_machine_the_bridge_makes_the_code_map_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    source = tmp_path / "checkout"
    source.mkdir()
    (source / "one.py").write_text("def two():\n    return 2\n")
    for index in (True, False):
        with bridging(root=source, index=index) as bridge:
            names = {node["name"] for node in bridge.client.get("/graph").json()["nodes"]}
            assert {"one.py", "two"} <= names, names
        shutil.rmtree(tmp_path / "map")


@pytest.mark.slow
def test_a_figure_comes_back_as_a_picture_from_both_tiers(bridge, monkeypatch):
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 4, 9])\nplt.title('squares')\nplt.show()"
    for tier in TIERS:
        monkeypatch.setattr(bridge.app.state.runs, "tier", lambda tier=tier: tier)
        told = bridge.client.post("/run", json={"code": code, "wall_s": 20}).json()
        assert (told["ended"], told["stderr"], told["tier"]) == ("finished", "", tier)
        (picture,) = map(base64.b64decode, told["pictures"])
        width, height = struct.unpack(">II", picture[16:24])
        assert picture.startswith(PNG) and width > 300 and height > 200 and len(picture) > 3000


def test_the_viewer_takes_the_front_page_once_it_is_built(tmp_path):
    dist = tmp_path / "docs" / "viewer" / "dist"
    with bridging(root=tmp_path) as bridge:
        assert "look inside" in bridge.client.get("/").text
        dist.mkdir(parents=True)
        (dist / "index.html").write_text("the viewer")
        assert bridge.client.get("/").text == "the viewer"
        assert "look inside" in bridge.client.get("/start").text


def test_every_route_is_described(bridge):
    api = bridge.client.get("/openapi.json").json()
    for path, methods in api["paths"].items():
        for route in methods.values():
            assert {"401", "403", "421"} <= set(route["responses"]), path
    routes = {route.path for route in bridge.app.router.routes if hasattr(route, "methods")}
    hidden = {"/", "/start", "/box", "/guide", "/openapi.json"}
    assert routes - hidden <= set(api["paths"])


@pytest.mark.slow
def test_a_spare_box_outlives_the_thread_that_asked_for_it():
    """bubblewrap dies with the thread that started it, not only with its process."""
    desk = RunDesk(BridgeSettings())

    def ask() -> None:
        desk.warm()
        time.sleep(0.5)  # until bubblewrap has tied itself to its parent

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join()
    time.sleep(0.2)
    try:
        assert desk.spares and all(box.process.poll() is None for box in desk.spares)
    finally:
        desk.close()
