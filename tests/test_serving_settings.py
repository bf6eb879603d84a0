"""What the chat server can't be told: each nonsense is one sentence, before anything is loaded."""

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.serve.settings import RANGES, BadSetting, ServeSettings
from scripts import chat_web

NUMBERS = [f.name for f in dataclasses.fields(ServeSettings) if f.type in (int, float)]


def is_whole(name: str) -> bool:
    return isinstance(getattr(ServeSettings(), name), int)


def test_every_number_has_a_range():
    assert len(NUMBERS) >= 20 and set(NUMBERS) == {*RANGES, "top_p"}


def test_the_defaults_and_the_ends_of_every_range_are_fine():
    assert ServeSettings() == ServeSettings(log_level="INFO")
    for name, ends in RANGES.items():
        for end in ends:
            more: dict[str, Any] = {"max_tokens_limit": int(end)} if name == "max_tokens" else {}
            if name == "max_tokens_limit":
                more = {"max_tokens": 1}
            more[name] = int(end) if is_whole(name) else end
            settings = ServeSettings(**more)
            assert getattr(settings, name) == end


@given(st.sampled_from(sorted(RANGES)), st.data())
def test_a_number_out_of_its_range_is_refused_in_a_sentence_with_what_was_seen(name, data):
    least, most = RANGES[name]
    if is_whole(name):
        outside = st.integers(max_value=int(least) - 1) | st.integers(min_value=int(most) + 1)
        value: Any = data.draw(outside)
    else:
        below = st.floats(max_value=least, exclude_max=True)
        value = data.draw(below | st.floats(min_value=most, exclude_min=True) | st.just(math.nan))
    with pytest.raises(BadSetting) as refused:
        ServeSettings(**{name: value})
    sentence = str(refused.value)
    assert sentence.startswith(f"--{name.replace('_', '-')} is {value!r:.80}: it must be from ")
    assert f"{least:,} to {most:,}" in sentence and "\n" not in sentence


@pytest.mark.parametrize(
    "changes",
    [
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"log_level": "LOUD"},
        {"otlp_endpoint": "localhost:4318"},
        {"cors_origins": ("*",)},
        {"cors_origins": ("https://a.example/page",)},
        {"allowed_hosts": ("https://chat.example",)},
        {"allowed_hosts": ("chat.example:443",)},
        {"allowed_hosts": ("",)},
        {"max_tokens": 500, "max_tokens_limit": 400},
    ],
)
def test_other_values_that_could_not_work_are_refused_by_name(changes):
    with pytest.raises(BadSetting, match=f"--{next(iter(changes)).replace('_', '-')} is "):
        ServeSettings(**changes)


def test_names_sites_and_addresses_that_work_are_taken():
    ServeSettings(
        allowed_hosts=("chat.example.org", "[::1]", "10.0.0.7"),
        cors_origins=("https://a.example", "http://localhost:5173/"),
        otlp_endpoint="http://localhost:4318/v1",
    )


@pytest.mark.parametrize(
    "flags", ["--read-tokens 0", "--running-limit 0", "--deadline-s nan", "--upload-s inf"]
)
def test_a_bad_flag_is_refused_before_a_door_is_opened_or_a_model_loaded(flags, monkeypatch):
    def too_far(*_: Any) -> None:
        raise AssertionError("a bad setting came this far")

    monkeypatch.setattr(chat_web, "open_socket", too_far)
    with pytest.raises(BadSetting, match=flags.split()[0]):
        chat_web.main(flags.split())
