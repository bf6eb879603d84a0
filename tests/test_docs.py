"""What the documentation says is true: its commands run, its links lead somewhere, its list of
settings is whole. Commands are read from the ```bash blocks of README.md and CONTRIBUTING.md."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat.stages import plan
from scripts.build import TABLE

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md"]
WRITTEN = [
    path
    for path in sorted(ROOT.rglob("*.md"))
    if not {".venv", ".nanochat", "node_modules", ".pytest_cache"} & set(path.parts)
]

# Commands that the test below runs as they stand -> what they must say.
RUN_HERE = {
    "nanochat --help": "base-train",
    'nanochat trace "Anna has three apples"': "holds",
    "nanochat sandbox check": "25 of 25 attacks contained",
    "nanochat build --dry-run": "tinyworld-make",
    "nanochat report": "kind of question",
    'nanochat chat-cli --prompt "What is 48*7?"': "336",
    "python microgpt.py --steps 20": "loss",
    "nanochat scalar train": "loss",
    "nanochat scalar sample": "",
    "make setup": "",
    "nanochat map path foundations.tensors architecture.rope": "foundations.dot_product",
    "nanochat map show architecture.rope": "nanochat/gpt.py:rotary_tables",
    "nanochat map who-calls GPT.forward": "nanochat/engine_kernel.py:next_scores",
    "nanochat map build --json": '"duplicate_ids": 0',
}
# Commands that another test runs -> that test.
RUN_ELSEWHERE = {
    "nanochat bridge": "test_trace_cli.py::test_the_bridge_prints_its_address_serves_and_leaves_"
    "with_zero_on_ctrl_c",
    "make up": "test_docs.py::test_make_up_serves_what_is_built_until_ctrl_c",
    "make down": "test_docs.py::test_make_down_stops_make_up",
    "nanochat chat-web": "test_docs.py::test_make_up_serves_what_is_built_until_ctrl_c",
    "make test": "test_docs.py::test_ci_runs_make_test_and_make_test_runs_lint_and_both_tiers",
    "nanochat map gaps": "test_knowledge_base.py::test_the_gap_report_of_this_repository_is_empty",
    "make lint": "test_docs.py::test_ci_runs_make_test_and_make_test_runs_lint_and_both_tiers",
    "make test-fast": "test_docs.py::test_make_test_fast_runs_the_unmarked_tests",
}


def commands_of(page: str) -> list[str]:
    """The command lines of a page's ```bash blocks."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.M | re.S)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def environment(**more: str) -> dict[str, str]:
    """As after `source .venv/bin/activate`, and not as inside the make that runs these tests."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    venv = Path(sys.executable).parent
    path = f"{venv}{os.pathsep}{os.environ['PATH']}"
    return {**outside, "MFLAGS": "", "PATH": path, "VENV": str(venv.parent), **more}


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_run_by_a_test(page):
    commands = commands_of(page)
    assert commands, f"{page} shows no command"
    for command in commands:
        assert command in RUN_HERE or command in RUN_ELSEWHERE, f"{page}: nothing runs `{command}`"


def test_the_tests_that_run_commands_exist():
    shown = {command for page in PAGES for command in commands_of(page)}
    assert shown == RUN_HERE.keys() | RUN_ELSEWHERE.keys()
    for place in RUN_ELSEWHERE.values():
        file, name = place.split("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text("utf-8"), f"{place} is not there"


def test_the_two_commands_come_first():
    assert commands_of("README.md")[:2] == ["make up", "make test"]


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN_HERE)
def test_a_command_of_the_documentation_runs(command, built):
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert RUN_HERE[command] in done.stdout + done.stderr


@pytest.fixture
def built():
    """The model of `make build`; `make test` builds before it tests."""
    todo = [stage.name for stage, to_do in plan(TABLE) if to_do]
    assert not todo, f"not made yet: {', '.join(todo)}; run `make build`, then this test again"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_make_up(port: int) -> subprocess.Popen:
    return subprocess.Popen(
        ["make", "up", f"PORT={port}"],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a terminal of its own, so that its Ctrl-C is not ours
    )


def wait_until_served(port: int, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(0.2)
    server.kill()
    raise AssertionError(f"make up served nothing on port {port}: {server.communicate()[0]}")


@pytest.mark.slow
def test_make_up_serves_what_is_built_until_ctrl_c(built):
    port = free_port()
    server = start_make_up(port)
    wait_until_served(port, server)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as page:
        assert b"<html" in page.read().lower()
    os.killpg(server.pid, signal.SIGINT)
    shown, _ = server.communicate()
    assert shown.count("already made") == len(TABLE), "a second make up trains nothing"
    assert "kind of question" in shown and "Traceback" not in shown


@pytest.mark.slow
def test_make_down_stops_make_up(built):
    port = free_port()
    server = start_make_up(port)
    wait_until_served(port, server)
    down = subprocess.run(
        ["make", "down"], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    server.communicate()
    assert down.returncode == 0 and "stopped the chat server" in down.stdout


def test_ci_runs_make_test_and_make_test_runs_lint_and_both_tiers():
    """`make test` cannot run inside itself: that CI calls it, and what it would do, is checked."""
    assert re.search(r"^make test\b", (ROOT / ".ci" / "run").read_text("utf-8"), re.M)
    planned = subprocess.run(
        ["make", "-n", "test"], cwd=ROOT, env=environment(), capture_output=True, text=True
    ).stdout
    tiers = ('--dist loadfile -m "not browser"', "pytest -q -m browser")
    for part in ("ruff check", "mypy", "scripts.build", *tiers):
        assert part in planned, f"make test does not run {part}"


@pytest.mark.slow
def test_make_test_fast_runs_the_unmarked_tests():
    """On one file with tests of two tiers; on all cores pytest does not count those left out."""
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/test_report.py"]
    fast = subprocess.run(
        [*collect, "-m", "not slow and not browser"], cwd=ROOT, capture_output=True, text=True
    )
    counts = re.search(r"(\d+)/(\d+) tests collected", fast.stdout)
    assert counts and int(counts[1]) < int(counts[2])
    done = subprocess.run(
        ["make", "test-fast", "TESTS=tests/test_report.py"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert f"{counts[1]} passed" in done.stdout


def anchors_of(page: Path) -> set[str]:
    """The #names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def links() -> Iterator[tuple[Path, str]]:
    for page in WRITTEN:
        text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
        for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text):
            yield page, target


def test_every_link_leads_somewhere():
    seen = 0
    for page, target in links():
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        seen += 1
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{page.relative_to(ROOT)}: {target} leads nowhere"
        if anchor and there.suffix == ".md":
            assert anchor in anchors_of(there), f"{page.relative_to(ROOT)}: no heading {target}"
    assert seen > 5


def test_every_verb_the_documentation_names_exists():
    verbs = {path.stem.replace("_", "-") for path in (ROOT / "scripts").glob("[a-z]*.py")}
    for page in WRITTEN:
        for verb in re.findall(r"`nanochat ([a-z][a-z-]*)", page.read_text("utf-8")):
            assert verb in verbs, f"{page.relative_to(ROOT)} names `nanochat {verb}`"


def test_every_make_target_the_documentation_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    for page in WRITTEN:
        text = page.read_text("utf-8")
        shell = "".join(re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", text, re.M | re.S))
        named = re.findall(r"`make ([a-z-]+)", text) + re.findall(r"^make ([a-z-]+)", shell, re.M)
        for target in named:
            assert target in targets, f"{page.relative_to(ROOT)} names `make {target}`"


def test_every_environment_variable_is_documented_and_every_documented_one_is_read():
    sources = [*ROOT.glob("nanochat/**/*.py"), *ROOT.glob("scripts/*.py"), *ROOT.glob("dev/*.sh")]
    code = "\n".join(path.read_text("utf-8") for path in sources)
    read = set(re.findall(r"environ(?:\.get\(|\[)\"([A-Z_]+)\"", code))
    read |= set(re.findall(r"\$\{(NANOCHAT_[A-Z_]+)", code))
    read -= {"PATH"}  # every system has it
    documented = set(re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text("utf-8"), re.M))
    assert read == documented


def test_the_commands_of_the_documentation_are_plain_shell():
    for page in PAGES:
        for command in commands_of(page):
            assert shlex.split(command)[0] in ("make", "nanochat", "python"), command
