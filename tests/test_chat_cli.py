"""Talking in the terminal: a real checkpoint and settings, scripted keyboards and models."""

import os
import pty
import signal
import subprocess
import sys
from dataclasses import asdict

import pytest
from tiny_models import Scripted, byte_tokenizer, lively_model

from nanochat.checkpoint import save_checkpoint
from nanochat.engine import Engine
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.sampling import BadSampling, Sampling
from scripts import chat_cli

TOKENIZER = byte_tokenizer()
SPECIAL = TOKENIZER.special_ids
END = SPECIAL["assistant_end"]


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A small model, never trained, saved as the newest one of stage sft."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    model = lively_model(300)
    meta = {"model": asdict(model.config), "tokenizer": TOKENIZER.fingerprint()}
    TOKENIZER.save(tokenizer_dir())
    save_checkpoint(checkpoints_dir("sft", "d3"), 1, model.state_dict(), {}, meta)
    return tmp_path


def keyboard(monkeypatch, *lines):
    """input() gives these lines one by one; an exception among them is raised; then Ctrl-D."""
    typed = iter(lines)

    def read(_prompt: str = "") -> str:
        line = next(typed, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", read)


def chat_with(reply: list[int], **changes) -> chat_cli.Chat:
    """A chat whose model answers every prompt with `reply`, whatever the prompt's length."""

    class Parrot(Scripted):
        def forward(self, idx, *args, cache=None, **more):
            if idx.size(1) > 1:
                self.prompt_tokens = idx.size(1)
            return super().forward(idx, *args, cache=cache, **more)

    engine = Engine(Parrot(reply, 0, **changes), TOKENIZER)
    return chat_cli.Chat(engine, Sampling(max_tokens=40, temperature=0))


def test_one_question_on_the_command_line_prints_what_the_engine_says(trained, capsys):
    flags = ["--prompt", "Hi", "--max-tokens", "20", "--temperature", "0.9", "--seed", "5"]
    assert chat_cli.main([*flags, "--device", "cpu"]) == 0
    engine = Engine(lively_model(300), TOKENIZER)
    prompt = TOKENIZER.render_for_completion({"messages": [{"role": "user", "content": "Hi"}]})
    events = engine.stream(prompt, Sampling(max_tokens=20, temperature=0.9, seed=5))
    said = "".join(chat_cli.shown("text", event) for event in events)
    assert capsys.readouterr().out.startswith(said + "\n")


def test_a_bad_flag_value_is_refused_before_a_model_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "nothing here"))
    with pytest.raises(BadSampling, match="top_p is 2"):
        chat_cli.main(["--top-p", "2", "--prompt", "Hi"])


def test_the_conversation_goes_on_and_clear_forgets_it(monkeypatch, capsys):
    chat = chat_with([*b"fine", END])
    keyboard(monkeypatch, "how are you?", "", "and now?")
    chat_cli.talk(chat)
    assert [m["content"] for m in chat.messages] == ["how are you?", "fine", "and now?", "fine"]
    assert capsys.readouterr().out == "fine\nfine\n\n"
    keyboard(monkeypatch, "/clear", "/quit", "never read")
    chat_cli.talk(chat)
    assert chat.messages == []


def test_commands_are_obeyed_and_a_wrong_one_shows_the_list(monkeypatch, capsys):
    chat = chat_with([END])
    keyboard(monkeypatch, "/temperature 1.5", "/temperature hot", "/temperature -1", "/what", "/")
    chat_cli.talk(chat)
    assert chat.sampling.temperature == 1.5
    out = capsys.readouterr().out
    assert out.count("(temperature is nan: it must be 0") == 1
    assert out.count("(temperature is -1.0: it must be 0") == 1
    assert out.count("/clear") == 2 and chat.messages == []


def test_a_tool_call_is_shown_with_its_result_and_kept_in_the_conversation(capsys):
    call = [SPECIAL["python_start"], *b"48*7", SPECIAL["python_end"]]
    chat = chat_with([*call, *[0] * 5, *b"336.", END])
    chat.ask("What is 48*7?")
    assert capsys.readouterr().out == "[48*7 = 336] 336.\n"
    assert [part["type"] for part in chat.messages[-1]["content"]] == [
        "python",
        "python_output",
        "text",
    ]
    chat.ask("Again?")  # the parts render back into a prompt


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(monkeypatch, capsys):
    chat = chat_with([*b"a long answer", END])
    run = chat.engine.run

    def interrupted(answer):
        for count, event in enumerate(run(answer)):
            if count == 6:
                raise KeyboardInterrupt
            yield event

    monkeypatch.setattr(chat.engine, "run", interrupted)
    keyboard(monkeypatch, "go", KeyboardInterrupt(), "/help")
    chat_cli.talk(chat)
    out = capsys.readouterr().out
    assert out.startswith("a long\n(stopped)\n") and "Ctrl-D or /quit leaves" in out
    # the character in the making when Ctrl-C came is kept too: it was already computed
    assert chat.messages[-1]["content"].startswith("a long")
    assert not chat.ask("again")


def test_old_turns_are_dropped_with_a_notice_when_the_context_is_full(monkeypatch, capsys):
    chat = chat_with([*b"ok", END])
    keyboard(monkeypatch, *["x" * 60] * 7)
    chat_cli.talk(chat)
    out = capsys.readouterr().out
    assert out.count("ok\n") == 7
    assert "(the conversation outgrew the context: its 2 oldest messages are dropped)" in out
    assert len(chat.messages) < 14 and chat.messages[0]["role"] == "user"


def test_a_question_longer_than_the_context_costs_one_sentence(monkeypatch, capsys):
    chat = chat_with([*b"ok", END])
    keyboard(monkeypatch, "short", "y" * 400, "short again")
    chat_cli.talk(chat)
    assert "shorten the prompt" in capsys.readouterr().out
    assert [m["content"] for m in chat.messages] == ["short", "ok", "short again", "ok"]


def test_a_cut_answer_says_why(capsys):
    chat = chat_with([*b"z" * 50])
    chat.ask("Hi")
    assert capsys.readouterr().out == "z" * 40 + "\n(cut: --max-tokens is reached)\n"


def test_control_characters_never_reach_the_terminal(capsys):
    chat = chat_with([*b"a\x1b[2J\x07\tb\n", *"\x9bc".encode(), END])
    chat.ask("Hi")
    assert capsys.readouterr().out == "a\ufffd[2J\ufffd\tb\n\ufffdc\n"


@pytest.mark.slow
def test_ctrl_c_and_ctrl_d_in_a_real_terminal(trained):
    """A process on a terminal of its own: SIGINT while it answers, then Ctrl-D at the prompt."""
    main, side = pty.openpty()
    command = [sys.executable, "-m", "scripts.chat_cli", "--max-tokens", "290", "--device", "cpu"]
    process = subprocess.Popen(command, stdin=side, stdout=side, stderr=side, close_fds=True)
    os.close(side)
    seen = b""

    def read_until(mark: bytes) -> bytes:
        nonlocal seen
        while mark not in seen:
            seen += os.read(main, 4096)
        before, seen = seen.split(mark, 1)
        return before

    read_until(b"you> ")
    os.write(main, b"Hello\n")
    read_until(b"Hello\r\n")
    while not seen:  # until the first words of the answer are there
        seen += os.read(main, 4096)
    process.send_signal(signal.SIGINT)
    assert b"(stopped)" in read_until(b"you> ")
    os.write(main, b"\x04")
    assert process.wait(timeout=60) == 0
    os.close(main)
