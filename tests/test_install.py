"""The installer and the browser script answer a machine that lacks something in one sentence."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ("bash", "date", "dirname", "sed", "tail", "timeout", "env", "id", "touch")


@pytest.fixture
def bare_path(tmp_path) -> Path:
    """A PATH with the shell's own tools and nothing to install with."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found, name
        (tools / name).symlink_to(found)
    return tools


def call(script: str, *words: str, root: Path = ROOT, **environment: str):
    """Run dev/SCRIPT with this environment and no other; returns the CompletedProcess."""
    return subprocess.run(
        [str(shutil.which("bash")), str(root / "dev" / script), *words],
        env=environment,
        capture_output=True,
        text=True,
    )


def command(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("found", [None, "python3", "python3.12"])
def test_without_a_new_enough_python_the_remedy_is_named(bare_path, tmp_path, found):
    if found:
        command(bare_path, found, "exit 1")  # as an old one answers when asked for 3.11
    done = call("install.sh", str(tmp_path / "venv"), PATH=str(bare_path))
    assert done.returncode == 1
    assert done.stderr.startswith("install: no Python 3.11") and done.stderr.count("\n") == 1
    assert "make PYTHON=" in done.stderr and not (tmp_path / "venv").exists()


def fake_uv(folder: Path, log: Path, install_code: int) -> None:
    """A uv that notes what it was told and which indexes it was given."""
    lines = [
        'case "$1" in',
        "--version) exit 0;;",
        f'venv) {sys.executable} -m venv --without-pip "${{@: -1}}";;',
        f'pip) echo "$* | $UV_FIND_LINKS | $UV_EXTRA_INDEX_URL" >>{log}',
        f"  exit {install_code};;",
        "esac",
    ]
    command(folder, "uv", "\n".join(lines))


def test_uv_gets_pips_settings_the_constraints_and_the_extras(bare_path, tmp_path):
    log, venv = tmp_path / "log", tmp_path / "venv"
    fake_uv(bare_path, log, install_code=0)
    done = call(
        "install.sh",
        str(venv),
        "dev",
        PATH=str(bare_path),
        PYTHON=sys.executable,
        PIP_FIND_LINKS="/wheels/a /wheels/b",
        PIP_EXTRA_INDEX_URL="file:///more",
    )
    assert done.returncode == 0, done.stderr
    told = log.read_text()
    assert "-c constraints.txt -e .[dev]" in told
    assert "| /wheels/a,/wheels/b | file:///more" in told
    assert float((venv / ".install_s").read_text()) >= 0


def test_when_uv_fails_pip_takes_over(bare_path, tmp_path):
    venv, told = tmp_path / "venv", tmp_path / "told"
    fake_uv(bare_path, tmp_path / "log", install_code=1)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    pip = venv / "lib" / f"python3.{sys.version_info.minor}" / "site-packages" / "pip"
    pip.mkdir()
    (pip / "__main__.py").write_text(
        f"import sys, pathlib; pathlib.Path({str(told)!r}).write_text(' '.join(sys.argv))"
    )
    done = call("install.sh", str(venv), PATH=str(bare_path), PYTHON=sys.executable)
    assert done.returncode == 0 and "trying pip" in done.stderr
    assert "-c constraints.txt -e ." in told.read_text()


@pytest.fixture
def other_clone(tmp_path) -> Path:
    """A folder with nothing in it but the browser script and what it reads, in their place."""
    (tmp_path / "clone" / "dev").mkdir(parents=True)
    for script in ("browser.sh", "debian.sh"):
        shutil.copy(ROOT / "dev" / script, tmp_path / "clone" / "dev")
    return tmp_path / "clone"


def test_without_a_browser_and_without_root_the_remedy_is_named(bare_path, other_clone):
    (bare_path / "id").unlink()
    command(bare_path, "id", "echo 1000")
    done = call("browser.sh", root=other_clone, PATH=str(bare_path))
    assert done.returncode == 1
    assert "apt-get install chromium" in done.stderr and done.stderr.count("\n") == 1


def test_a_browser_that_is_there_is_left_alone(bare_path, other_clone):
    for name in ("chromium", "firefox"):
        command(bare_path, name, "exit 0")
    done = call("browser.sh", root=other_clone, PATH=str(bare_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_firefox_the_others_are_still_tested_and_that_is_said(bare_path, other_clone):
    command(bare_path, "chromium", "exit 0")
    (bare_path / "id").unlink()
    command(bare_path, "id", "echo 1000")
    done = call("browser.sh", root=other_clone, PATH=str(bare_path))
    assert done.returncode == 0 and "Chromium alone" in done.stderr


def test_the_accessibility_checker_is_installed_once_and_npm_is_asked_for(bare_path, other_clone):
    command(bare_path, "chromium", "exit 0")
    packages = other_clone / "tests" / "browser"
    (packages / "node_modules").mkdir(parents=True)
    (packages / "package-lock.json").write_text("{}")
    done = call("browser.sh", root=other_clone, PATH=str(bare_path))
    assert done.returncode == 1 and "install Node 20" in done.stderr
    command(bare_path, "npm", f'echo "$*" >>{other_clone}/npm-calls')
    for _ in range(2):
        assert call("browser.sh", root=other_clone, PATH=str(bare_path)).returncode == 0
    calls = (other_clone / "npm-calls").read_text().splitlines()
    assert len(calls) == 1 and calls[0].startswith("ci --prefix tests/browser")


def test_promtool_is_taken_out_of_debians_package_once(bare_path, tmp_path):
    clone, venv = tmp_path / "clone", tmp_path / "clone" / "venv"
    (clone / "dev").mkdir(parents=True)
    shutil.copy(ROOT / "dev" / "promtool.sh", clone / "dev")
    done = call("promtool.sh", "venv", root=clone, PATH=str(bare_path))
    assert done.returncode == 1 and "the tests need promtool" in done.stderr
    command(bare_path, "apt-get", f'echo "$*" >>{clone}/calls; touch prometheus_1.deb')
    command(bare_path, "dpkg-deb", 'mkdir -p "$3/usr/bin"; echo tool >"$3/usr/bin/promtool"')
    for name in ("mktemp", "rm", "mkdir", "cp", "mv"):
        (bare_path / name).symlink_to(str(shutil.which(name)))
    for _ in range(2):
        done = call("promtool.sh", "venv", root=clone, PATH=str(bare_path))
        assert done.returncode == 0, done.stderr
        (venv / "bin" / "promtool").chmod(0o755)
    assert (venv / "bin" / "promtool").read_text() == "tool\n"
    assert (clone / "calls").read_text().splitlines() == ["-qq download prometheus"]


def test_the_scripts_are_sound_shell():
    for script in (*ROOT.glob("dev/*.sh"), ROOT / ".ci" / "run"):
        done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
        assert done.returncode == 0, f"{script}: {done.stderr}"
        sourced = not script.read_text().startswith("#!")
        assert sourced != os.access(script, os.X_OK), script
