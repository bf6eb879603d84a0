"""Every verb answers --help, refuses what it does not know, and does nothing on import."""

import ast
import errno
import io
import os
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat.cli import run
from nanochat.errors import UserError
from scripts import __main__ as console

ROOT = Path(__file__).parent.parent
VERBS = sorted(console.verbs())


@pytest.fixture
def empty_base(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    return tmp_path / "base"


def exit_code_of(*words: str) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        console.main(list(words))
    return ended.value.code


def test_help_lists_every_script_with_what_it_does(capsys):
    assert exit_code_of("--help") == 0
    shown = capsys.readouterr().out
    for path in (ROOT / "scripts").glob("[a-z]*.py"):
        line = next(row for row in shown.splitlines() if row.split()[:1] == [verb_of(path)])
        assert len(line.split()) > 3, f"{path.name}: its first line says too little"


def verb_of(path: Path) -> str:
    return path.stem.replace("_", "-")


def test_an_unknown_verb_is_one_sentence_and_exit_2(capsys):
    assert exit_code_of("trian") == 2
    assert (
        capsys.readouterr().err == "nanochat: no verb 'trian'; `nanochat --help` lists them all\n"
    )


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(verb, empty_base, capsys):
    assert exit_code_of(verb, "--help") == 0
    assert f"usage: nanochat {verb}" in capsys.readouterr().out
    assert not empty_base.exists(), "asking for help makes nothing"


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_refuses_an_unknown_flag(verb, empty_base, capsys):
    assert exit_code_of(verb, "--no-such-flag-here") == 2
    assert capsys.readouterr().err.strip()
    assert not empty_base.exists(), "a refused command makes nothing"


def test_the_console_command_and_the_module_are_the_same_function(empty_base):
    environment = {**os.environ, "NANOCHAT_BASE_DIR": str(empty_base)}
    answers = [
        subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        for words in (["-m", "scripts", "report"], ["-m", "scripts.report"])
    ]
    assert [answer.returncode for answer in answers] == [2, 2]
    assert answers[0].stderr == answers[1].stderr != ""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("the file is empty; give another"), 2, "nanochat: the file is empty; give"),
        (OSError(errno.ENOSPC, "No space left on device", "w.bin"), 1, "(w.bin); free some space"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), 1, "directory (x)"),
        (KeyboardInterrupt(), 130, "what was saved is kept"),
    ],
)
def test_a_mistake_of_the_user_or_the_machine_is_one_sentence(error, code, words, capsys):
    def fails() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run(fails)
    shown = capsys.readouterr().err
    assert ended.value.code == code and words in shown and shown.count("\n") == 1


def test_our_own_mistakes_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)


@pytest.mark.slow
def test_importing_any_module_prints_nothing_and_makes_nothing(tmp_path):
    modules = [
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for top in ("nanochat", "scripts")
        for path in sorted((ROOT / top).rglob("[a-z]*.py"))
    ]
    program = (
        "import importlib, logging, sys, threading\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "assert not logging.getLogger().handlers, 'logging was set up'\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
    )
    base = tmp_path / "base"
    done = subprocess.run(
        [sys.executable, "-c", program, *modules],
        cwd=tmp_path,
        env={**os.environ, "NANOCHAT_BASE_DIR": str(base), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not base.exists() and not list(tmp_path.iterdir())


def settings_classes() -> Iterator[tuple[str, ast.ClassDef, str]]:
    """Every dataclass that becomes flags: (file, class, source)."""
    for path in [*ROOT.glob("scripts/*.py"), *ROOT.glob("nanochat/**/*.py")]:
        source = path.read_text(encoding="utf-8")
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and is_settings(node.name):
                yield path.relative_to(ROOT).as_posix(), node, source


def is_settings(name: str) -> bool:
    return name.endswith("Settings") or name == "Sampling"


def commented_lines(source: str) -> set[int]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0] for token in tokens if token.type == tokenize.COMMENT}


def test_every_setting_says_what_it_does():
    """In a comment on its line or above it, or in a text below: that is what --help shows."""
    seen = 0
    for file, node, source in settings_classes():
        comments = commented_lines(source)
        for here, after in zip(node.body, [*node.body[1:], None], strict=True):
            if not isinstance(here, ast.AnnAssign) or is_settings(ast.unparse(here.annotation)):
                continue  # settings inside settings explain themselves
            seen += 1
            lines = set(range(here.lineno - 1, (here.end_lineno or here.lineno) + 1))
            text_below = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            assert text_below or lines & comments, f"{file}:{here.lineno} has no help"
    assert seen > 30


def test_settings_are_frozen_dataclasses():
    for file, node, _ in settings_classes():
        marks = [ast.unparse(mark) for mark in node.decorator_list]
        assert any("dataclass" in mark and "frozen=True" in mark for mark in marks), (
            f"{file}:{node.lineno} {node.name} can be changed after it was read"
        )
