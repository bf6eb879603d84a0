"""The bridge's page in a real Chromium, and a page of another origin that tries to get in.

The attacker's page is served from another port (another origin) and, for rebinding, under a name
that resolves to this machine. Everything it tries must fail; a control shows that the same request
succeeds from the bridge's own page.
"""

import http.server
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from served_bridge import Bridge, bridging

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parent.parent.parent
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
SIZES = {"wide": {"width": 1440, "height": 900}, "phone": {"width": 375, "height": 812}}


@pytest.fixture(scope="module")
def pyodide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pinned package, fetched as `nanochat browser-python` does; kept between test runs."""
    kept = Path(__file__).parent / "node_modules" / ".pyodide"
    if not (kept / "pyodide.mjs").is_file():
        draft = tmp_path_factory.mktemp("pyodide") / "pyodide"
        command = [sys.executable, "-m", "scripts.browser_python"]
        subprocess.run([*command, "--out", str(draft)], cwd=ROOT, check=True)
        shutil.copytree(draft, kept)
    return kept


@pytest.fixture(scope="module")
def bridge(pyodide: Path) -> Iterator[Bridge]:
    with bridging(pyodide=pyodide) as running:
        yield running


@pytest.fixture
def page(chromium: Browser, bridge: Bridge) -> Iterator[Page]:
    context = chromium.new_context(bypass_csp=False, viewport=SIZES["wide"])
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{bridge.address}/#token={bridge.token}")
    page.wait_for_selector("body[data-ready]")
    yield page
    context.close()
    assert errors == []


def test_the_token_leaves_the_address_and_stays_in_the_tab(page, bridge):
    assert bridge.token not in page.url
    expect(page.locator("#problem")).to_be_hidden()
    page.reload()
    page.wait_for_selector("body[data-ready]")
    expect(page.locator("#problem")).to_be_hidden()
    fresh = page.context.new_page()
    fresh.goto(bridge.address)
    expect(fresh.locator("#problem")).to_contain_text("the token is missing or wrong")


def test_a_trace_shows_a_picture_and_the_same_numbers_in_tables(page):
    page.fill("#prompt", "Anna has three apples")
    page.click("#trace-form button")
    expect(page.locator("#picture img")).to_be_visible()
    expect(page.locator("#trace-status")).to_contain_text("tensors")
    page.select_option("#layer", "1")
    expect(page.locator("#picture img")).to_have_attribute(
        "alt", "Attention of layer 1, head 0; the table below has the numbers"
    )
    page.click("summary")
    expect(page.locator("#trace-table")).to_contain_text("nanochat/gpt.py:")
    page.fill("#prompt", "x" * 1900)
    page.click("#trace-form button")
    expect(page.locator("#trace-status")).to_contain_text("shorten the prompt")


def run(page: Page, code: str, where: str) -> None:
    page.click("text=Run code")
    page.fill("#code", code)
    page.select_option("#where", where)
    page.click("#run-form button.primary")


def test_a_program_runs_on_the_machine_and_hostile_output_stays_text(page):
    run(
        page,
        "print('<img src=x onerror=alert(1)>')\nimport sys; print('bad', file=sys.stderr)",
        "machine",
    )
    expect(page.locator("#run-status")).to_contain_text("finished", timeout=30_000)
    expect(page.locator("#output")).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator("#output img").count() == 0
    expect(page.locator("#output .err")).to_have_text("bad\n")
    run(page, "while True: pass", "machine")
    page.click("#stop")
    expect(page.locator("#run-status")).to_have_text("Stopped.")


def test_pure_python_runs_inside_the_page_and_can_reach_nothing(page, bridge):
    run(page, "print(sum(range(5)))\n1/0", "auto")
    expect(page.locator("#run-status")).to_contain_text("It failed after", timeout=60_000)
    expect(page.locator("#output")).to_contain_text("10")
    expect(page.locator("#output")).to_contain_text("ZeroDivisionError")
    attempt = f"""
import js
from pyodide.ffi import to_js
async def reach(address):
    try:
        answer = await js.fetch(address, method="POST", body="{{}}")
        return f"reached {{answer.status}}"
    except Exception as error:
        return "refused"
places = ("{bridge.address}/run", "{bridge.address}/status", "https://example.org/")
print([await reach(place) for place in places])
names = ("localStorage", "sessionStorage", "document", "parent")
print([name for name in names if hasattr(js, name)])
print(js.location.origin, js.self.origin)
"""
    run(page, attempt, "browser")
    expect(page.locator("#run-status")).to_contain_text("finished", timeout=60_000)
    expect(page.locator("#output")).to_contain_text("['refused', 'refused', 'refused']")
    expect(page.locator("#output")).to_contain_text("[]")
    expect(page.locator("#output")).to_contain_text("null")


def test_a_program_without_end_is_ended_in_the_browser(page):
    run(page, "while True: pass", "browser")
    expect(page.locator("#run-status")).to_contain_text("Running in this browser")
    page.wait_for_selector("iframe.box", state="attached")
    page.click("#stop")
    expect(page.locator("#run-status")).to_have_text("Stopped.")
    assert page.locator("iframe.box").count() == 0


def test_an_exercise_is_solved_with_hints_and_remembered(page):
    page.click("text=Exercises")
    page.click("#exercise-list button >> nth=0")
    expect(page.locator("#exercise")).to_contain_text("multiply place by place")
    page.click("text=Hint")
    expect(page.locator("#exercise ol li")).to_have_count(1)
    page.click("text=Check")
    expect(page.locator("#exercise")).to_contain_text("Not yet.", timeout=30_000)
    page.fill("#exercise textarea", "def dot(a, b): return sum(x * y for x, y in zip(a, b))")
    page.click("text=Check")
    expect(page.locator("#exercise")).to_contain_text("Solved.", timeout=30_000)
    page.reload()
    expect(page.locator("#exercise-list button >> nth=0")).to_have_attribute(
        "aria-label", "A dot product, easy, solved"
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_readable_everywhere(chromium, bridge, size, scheme):
    context = chromium.new_context(viewport=SIZES[size], color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(f"{bridge.address}/#token={bridge.token}")
    page.wait_for_selector("body[data-ready]")
    page.click("#trace-form button")
    expect(page.locator("#picture img")).to_be_visible()
    for section in ("trace", "run", "exercises", "api"):
        page.click(f"nav a[data-section={section}]")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), section
        page.evaluate(AXE.read_text())
        found = page.evaluate("axe.run()")["violations"]
        serious = [v["id"] for v in found if v["impact"] in ("serious", "critical")]
        assert serious == [], (section, serious)
    context.close()


# --- a page of somebody else ---

ATTACK = """
async (bridge) => {
  const said = {};
  const tries = {
    simple: { method: "POST", body: '{"code": "print(1)"}', mode: "no-cors" },
    json: { method: "POST", body: "{}", headers: { "Content-Type": "application/json" } },
    token: { method: "POST", body: "{}", headers: { Authorization: "Bearer " + "x".repeat(43) } },
    cookies: { method: "POST", body: "{}", credentials: "include", mode: "no-cors" },
    remove: { method: "DELETE" },
    read: {},
  };
  for (const [name, options] of Object.entries(tries)) {
    const path = name === "read" ? "/status" : "/run";
    try {
      const answer = await fetch(bridge + path, options);
      said[name] = answer.type === "opaque" ? "sent" : answer.status;
    } catch { said[name] = "blocked"; }
  }
  const opened = window.open(bridge + "/");
  await new Promise((done) => setTimeout(done, 700));
  try { said.window = opened?.document?.title ?? "closed"; } catch { said.window = "blocked"; }
  try { said.storage = opened.sessionStorage.getItem("token"); } catch { said.storage = "blocked"; }
  const frame = document.createElement("iframe");
  frame.src = bridge + "/";
  document.body.append(frame);
  await new Promise((done) => setTimeout(done, 700));
  try { said.frame = frame.contentDocument?.title ?? "blocked"; } catch { said.frame = "blocked"; }
  const make = (tag, fields) => Object.assign(document.createElement(tag), fields);
  const form = make("form", { method: "POST", action: bridge + "/run", target: "hole" });
  form.enctype = "text/plain";
  form.append(make("input", { name: '{"code":"print(1)","x":"', value: '"}' }));
  document.body.append(make("iframe", { name: "hole" }), form);
  form.submit();
  await new Promise((done) => setTimeout(done, 700));
  return said;
}
"""


class Quiet(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>evil</title><body>")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def evil() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


@pytest.fixture
def started(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every program that reaches the sandbox while the test runs."""
    programs: list[str] = []
    original = bridge.app.state.runs.check

    def noting(code: str, wall_s: float) -> None:
        programs.append(code)
        original(code, wall_s)

    monkeypatch.setattr(bridge.app.state.runs, "check", noting)
    return programs


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_page_of_another_origin_can_do_nothing(chromium, bridge, evil, started, host):
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"http://{host}:{evil}/")
    said = page.evaluate(ATTACK, bridge.address)
    context.close()
    assert started == [], "a program ran"
    assert {said[name] for name in ("json", "token", "remove", "read")} == {"blocked"}
    assert {said["window"], said["frame"], said["storage"]} <= {"blocked", "closed", ""}
    assert bridge.client.post("/run", json={"code": "print(1)"}).json()["stdout"] == "1\n"
    assert started, "the control: our own request is seen"


def test_a_rebound_name_is_refused(playwright_chromium_with_names, bridge, started):
    """The browser believes that evil.example is 127.0.0.1: to it, this is one origin."""
    page = playwright_chromium_with_names.new_page()
    port = bridge.address.rpartition(":")[2]
    answer = page.goto(f"http://evil.example:{port}/")
    assert answer is not None and answer.status == 421
    status = page.evaluate(
        """async (token) => {
          const headers = { "Content-Type": "application/json", Authorization: `Bearer ${token}` };
          const body = '{"code": "print(1)"}';
          return (await fetch("/run", { method: "POST", body, headers })).status;
        }""",
        bridge.token,
    )
    assert status == 421 and started == []


@pytest.fixture
def playwright_chromium_with_names(chromium: Browser) -> Iterator[Browser]:
    """A second Chromium in which evil.example leads to this machine."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    rules = "--host-resolver-rules=MAP evil.example 127.0.0.1"
    launched = chromium.browser_type.launch(
        executable_path=found, args=["--no-sandbox", "--disable-gpu", rules]
    )
    yield launched
    launched.close()
