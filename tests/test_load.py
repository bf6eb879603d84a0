"""The load tool: the same requests from the same seed, right numbers from known outcomes, and a
client that takes whatever a server does to it."""

import asyncio
import doctest
import itertools
import json
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat import load_plan, load_report
from nanochat.load_client import Outcome, Target, ask, get
from nanochat.load_plan import Ask, BadLoad, LoadSettings, asks, check, poisson_times
from nanochat.load_report import percentile, picture, record, summary, table
from nanochat.load_run import LoadTest, NotReady, Phase, closed_loop, open_loop, whole_test
from scripts import load_test

WISH = Ask("Hello", "", 8, 1)


def test_the_examples_in_the_docstrings_are_true():
    for module in (load_plan, load_report):
        result = doctest.testmod(module)
        assert result.attempted and not result.failed


# --- the plan ---


def test_the_same_seed_asks_the_same_and_another_does_not():
    settings = LoadSettings(mixed=True, disconnect=0.2)
    one, same, other = (
        list(itertools.islice(asks(s, "x"), 50))
        for s in (settings, settings, LoadSettings(mixed=True, disconnect=0.2, seed=1))
    )
    assert one == same and one != other
    assert len({wish.max_tokens for wish in one}) > 10 and len({wish.seed for wish in one}) == 50


def test_the_wished_share_leaves_early_some_in_the_queue_and_some_while_writing():
    wishes = list(itertools.islice(asks(LoadSettings(disconnect=0.2), "x"), 2000))
    early = [w for w in wishes if w.leave_after_s is not None]
    late = [w for w in wishes if w.leave_after_tokens is not None]
    assert 300 < len(early) + len(late) < 500 and len(early) > 100 and len(late) > 100
    assert not set(map(id, early)) & set(map(id, late))


def test_prompts_have_about_the_wished_length():
    for words in (10, 40, 300):
        wish = next(asks(LoadSettings(prompt_words=words), "x"))
        assert words - 8 <= len(wish.text.split()) <= words + 8


def test_gaps_between_arrivals_are_exponential():
    times = poisson_times(10.0, 1000.0, "gaps")
    gaps = [b - a for a, b in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(0.1, rel=0.05) and deviation == pytest.approx(mean, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (LoadSettings(clients=0), "must be positive"),
        (LoadSettings(disconnect=2.0), "share from 0 to 1"),
        (LoadSettings(overload=4, rate=1), "leave --rate out"),
        (LoadSettings(random_model=True), "needs --self-host"),
    ],
)
def test_a_load_that_makes_no_sense_is_refused(settings, complaint):
    with pytest.raises(BadLoad, match=complaint):
        check(settings)


# --- the numbers ---


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0.5, 100))
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(values, percent):
    enough = [v for v in values if sum(w <= v for w in values) >= percent / 100 * len(values)]
    assert percentile(values, percent) == min(enough)


def answered(sent: float, *pieces: float, tokens: int = 0, **more) -> Outcome:
    ended = pieces[-1] if pieces else sent + 1
    return Outcome(sent, 200, list(pieces), ended, tokens or len(pieces), "stop", **more)


def test_the_summary_of_a_hand_made_phase():
    """A window of 10 s from 100 to 110; limits 500 ms to the first token, 100 ms a token."""
    settings = LoadSettings(slo_ttft_ms=500, slo_tpot_ms=100, usd_per_hour=3.6)
    outcomes = [
        answered(101.0, 101.2, 101.25, 101.3),  # good
        answered(102.0, 102.9, 103.0),  # first token too late
        answered(103.0, 103.1, 103.6),  # then too slow
        answered(109.0, 109.4, 109.5, 110.5, tokens=6),  # a third of it after the window
        answered(99.0, 99.1, 99.2),  # before the window
        Outcome(104.0, 503, [], 104.1, retry_after_s=1.0),
        Outcome(105.0, 429, [], 105.1),
        Outcome(106.0, 200, [106.1], 106.2, error="engine_failed"),
        Outcome(107.0, 0, [], 107.1, error="ConnectionRefusedError"),
        Outcome(108.0, 200, [108.1], 108.2, left=True),
        answered(108.0, tokens=5, streamed=False),  # not streamed: five tokens at 109
    ]
    phase = Phase("x", 1.1, 100.0, 110.0, outcomes, [0.004, 0.001])
    row = summary(phase, settings)
    assert row["requests"] == 10
    assert (row["rejected"], row["errors"], row["disconnected"]) == (2, 2, 1)
    assert row["goodput_rps"] == 0.2  # the first and the one that was not streamed
    assert row["tokens_per_s"] == pytest.approx((3 + 2 + 2 + 4 + 1 + 1 + 5) / 10)
    assert row["ttft_ms"] == {"p50": 200.0, "p95": 900.0, "p99": 900.0}
    assert row["itl_ms"]["p99"] == 1000.0 and row["livez_ms"]["p50"] == 1.0
    assert row["usd_per_million_tokens"] == pytest.approx(0.01 / 18 * 1e6, rel=1e-3)
    assert row["error_kinds"] == ["ConnectionRefusedError", "engine_failed"]


def two_phases() -> tuple[LoadTest, list[dict]]:
    alone = Phase("1 client", None, 0.0, 10.0, [answered(1.0, 1.1, 1.2), answered(2.0, 2.1)])
    crowd = Phase("2 clients", None, 0.0, 10.0, [answered(n, n + 0.5, n + 0.6) for n in range(9)])
    gauges = {"num_requests_running": 0.0}
    before, after = ({**gauges, "resident_bytes": size} for size in (100e6, 102e6))
    test = LoadTest([alone, crowd], before, after)
    return test, [summary(phase, LoadSettings()) for phase in test.phases]


def test_the_record_names_what_one_client_gets_and_what_memory_did():
    test, rows = two_phases()
    found = record(test, rows, LoadSettings())
    assert found["tokens_per_s"] == 1.8 and found["tokens_per_s_one_client"] == 0.3
    assert found["speedup"] == 6.0 and found["memory_growth"] == 0.02
    assert found["gauges_after"] == {"num_requests_running": 0.0}
    for key in ("ttft_ms", "itl_ms"):
        assert set(found[key]) == {"p50", "p95", "p99"}
    assert {"goodput_rps", "rejected", "errors"} <= found.keys()
    json.dumps(found, allow_nan=False)


def test_goodput_under_overload_is_compared_with_its_peak():
    _, rows = two_phases()
    rows = [rows[0] | {"goodput_rps": goodput, "errors": 1} for goodput in (5.0, 8.0, 6.0)]
    found = record(two_phases()[0], rows, LoadSettings(overload=4))
    assert (found["peak_goodput_rps"], found["goodput_share"], found["errors"]) == (8.0, 0.75, 3)


def test_table_and_pictures_show_every_phase():
    test, rows = two_phases()
    shown = table(rows)
    assert "1 client" in shown and "2 clients" in shown
    assert len({len(line) for line in shown.splitlines()}) == 1  # columns stand in line
    for phases in (test.phases, [Phase("a", 1.0), Phase("b", 4.0)]):
        ET.fromstring(picture(rows, phases))


# --- the client ---

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
EVENTS = (
    b': keep-alive\n\ndata: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"One"}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":" \xc3\xa4"}}]}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"completion_tokens":3}}\n\ndata: [DONE]\n\n'
)


def chunked(data: bytes, size: int) -> bytes:
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


def talk_to(*replies: bytes, wish: Ask = WISH, hold: bool = False, **changes) -> list[Outcome]:
    """Ask a server that answers with these very bytes, one after the other."""

    async def conversation() -> list[Outcome]:
        waiting = list(replies)

        async def serve(reader, writer) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(waiting.pop(0))
            await writer.drain()
            if hold:
                await reader.read()  # until the client leaves
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        target = Target(LoadSettings(**changes), f"http://127.0.0.1:{port}")
        outcomes = [await ask(target, wish) for _ in replies]
        server.close()
        return outcomes

    return asyncio.run(conversation())


def test_a_stream_reads_the_same_however_the_bytes_are_cut():
    cut = [HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(EVENTS, n) for n in (1, 7, 999)]
    for outcome in talk_to(*cut, HEAD + b"\r\n" + EVENTS):
        assert outcome.answered and len(outcome.pieces) == 2 and outcome.completion_tokens == 3
        assert outcome.finish_reason == "stop" and outcome.ttft_s is not None
        assert outcome.tpot_s == pytest.approx((outcome.pieces[1] - outcome.pieces[0]) / 2)


def test_an_answer_in_one_piece_is_counted_by_its_usage():
    body = b'{"usage":{"completion_tokens":9},"choices":[{"finish_reason":"length"}]}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    (outcome,) = talk_to(head % len(body) + body, wish=Ask("x", "", 9, 1, stream=False))
    assert outcome.answered and outcome.completion_tokens == 9 and outcome.ttft_s is None


def test_being_turned_away_is_no_error_and_keeps_the_time_to_come_back():
    empty = b"Retry-After: 7\r\nContent-Length: 0\r\n\r\n"
    for outcome in talk_to(b"HTTP/1.1 503 No\r\n" + empty, b"HTTP/1.1 429 No\r\n" + empty):
        assert outcome.rejected and not outcome.error and outcome.retry_after_s == 7


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (HEAD + b"\r\n" + EVENTS[:-16], r"without \[DONE\]"),
        (HEAD + b'\r\ndata: {"error":{"code":"engine_failed"}}\n\ndata: [DONE]\n\n', "engine_f"),
        (HEAD + b"\r\ndata: {nonsense\n\n", "JSONDecodeError"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "ValueError"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\nshort", "EOFError"),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\nbang", "HTTP 500: bang"),
        (b"HTTP/1.1 400 Oh\r\nContent-Length: 4\r\n\r\nnope", "HTTP 400: nope"),
        (b"SSH-2.0-x\r\n\r\n", "Error"),
        (b"", "IncompleteReadError"),
    ],
)
def test_whatever_else_a_server_does_is_one_error_and_never_a_crash(reply, complaint):
    (outcome,) = talk_to(reply)
    assert not outcome.answered and not outcome.rejected
    assert load_report.is_error(outcome)
    assert re.search(complaint, outcome.error), outcome.error


def test_a_client_leaves_when_it_was_meant_to():
    half = HEAD + b"\r\n" + EVENTS[:-16]
    for wish in (Ask("x", "", 8, 1, leave_after_s=0.01), Ask("x", "", 8, 1, leave_after_tokens=1)):
        (outcome,) = talk_to(half, wish=wish, hold=True)
        assert outcome.left and not outcome.error and not load_report.is_error(outcome)


def test_a_server_that_never_answers_is_an_error_after_the_timeout():
    (outcome,) = talk_to(b"", hold=True, timeout_s=0.01)
    assert "no end within 0.01 s" in outcome.error and load_report.is_error(outcome)


def test_nobody_there_is_told_in_one_sentence():
    target = Target(LoadSettings(), "http://127.0.0.1:9")
    with pytest.raises(NotReady, match=r"does not answer.*nanochat chat-web"):
        asyncio.run(whole_test(target, LoadSettings()))
    assert asyncio.run(get(target, "/livez")) == (0, b"")
    with pytest.raises(BadLoad, match="needs an address"):
        load_test.main(["--url", "https://example.com"])


def test_the_loops_keep_to_their_number_of_clients_and_their_arrivals(monkeypatch):
    busy, most, sent = 0, 0, 0

    async def pretend(target, wish) -> Outcome:
        nonlocal busy, most, sent
        busy, sent = busy + 1, sent + 1
        most = max(most, busy)
        start = asyncio.get_running_loop().time()
        await asyncio.sleep(0.002)
        busy -= 1
        return answered(start, start + 0.001, start + 0.002)

    async def no_probe(target, phase) -> None:
        pass

    monkeypatch.setattr("nanochat.load_run.ask", pretend)
    monkeypatch.setattr("nanochat.load_run.probe", no_probe)
    target = Target(LoadSettings(), "http://127.0.0.1:9")
    phase = asyncio.run(closed_loop(target, LoadSettings(requests=40), 4, "c"))
    assert len(phase.outcomes) == sent == 40 and most == 4
    settings = LoadSettings(seconds=0.2, warmup_s=0.1)
    phase = asyncio.run(open_loop(target, settings, 200.0, "o"))
    assert len(phase.outcomes) == len(poisson_times(200.0, 0.3, "0 o"))


# --- a real server ---

TINY = "--self-host --random-model --depth 1 --channels 32 --vocab 300 --context 256 --clients 8"


@pytest.mark.slow
def test_a_thousand_mixed_requests_leave_nothing_behind(tmp_path, capsys):
    flags = "--requests 1000 --mixed --disconnect 0.2 --prompt-words 9 --max-tokens 8 --json"
    load_test.main([*TINY.split(), *flags.split(), "--picture", str(tmp_path / "p.svg")])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["requests"] == 1000 and found["errors"] == 0, found
    assert 100 < found["disconnected"] < 300
    assert set(found["gauges_after"].values()) == {0.0} and len(found["gauges_after"]) == 3
    assert found["memory_growth"] < 0.05
    ET.parse(tmp_path / "p.svg")


@pytest.mark.slow
def test_an_overloaded_server_answers_or_says_when_to_come_back(tmp_path, capsys):
    flags = "--overload 4 --seconds 1.5 --warmup-s 0.3 --prompt-words 12 --max-tokens 24 --json"
    load_test.main([*TINY.split(), *flags.split(), "--picture", str(tmp_path / "p.svg")])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["errors"] == 0, found
    assert [row["phase"] for row in found["phases"]] == ["8 clients", "1 x load", "4 x load"]
    assert found["offered_rps"] == pytest.approx(4 * found["phases"][1]["offered_rps"], rel=0.01)
    assert found["goodput_share"] is not None and found["failed_probes"] == 0
    assert set(found["gauges_after"].values()) == {0.0}
