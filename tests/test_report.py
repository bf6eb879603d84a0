"""What the stages measured comes back whole, and the card says it and nothing else."""

import json
import re

import pytest

from nanochat import report, report_card
from scripts import report as report_script


def curve_of(points: int) -> list[list[float | None]]:
    """step, training loss, bits per byte (every second time), tokens."""
    return [
        [n, 3.0 - n / 50, 2.0 - n / 40 if n % 2 == 0 else None, 1000 * n] for n in range(points)
    ]


BASE = {
    "val_bpb": 0.625,
    "curve": curve_of(20),
    "tokens": 4_100_000,
    "seconds": 300.0,
    "tokens_per_s": 13_666.7,
    "parameters": 3_500_000,
}
EXAM = {
    "overall": 0.875,
    "questions": 8,
    "kinds": {
        "where": {"accuracy": 1.0, "n": 4, "majority": 0.25},
        "<b>count</b>": {"accuracy": 0.75, "n": 4, "majority": 0.5},
    },
}


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A base folder in which every stage has left its record."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    report.record("base", BASE)
    report.record("exam", EXAM)
    ledger = {
        "install": {"state": "done", "seconds": 31.2, "fingerprint": ""},
        "base-train": {"state": "done", "seconds": 300.0, "fingerprint": "a"},
        "chat-sft": {"state": "started", "seconds": 4.0, "fingerprint": "b"},
    }
    (tmp_path / "report" / "stages.json").write_text(json.dumps(ledger))
    return tmp_path


def test_a_record_comes_back_as_it_was_written(measured):
    assert report.load("base") == BASE
    assert report.load("never-run") is None


def test_a_record_that_is_not_a_number_is_refused_and_the_old_one_stays(measured):
    with pytest.raises(ValueError, match="JSON compliant"):
        report.record("base", {"val_bpb": float("nan")})
    assert report.load("base") == BASE


def test_the_json_report_has_the_promised_shape(measured, capsys):
    assert report_script.main(["--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures == {
        "exam": {"overall": 0.875, "questions": 8, "kinds": EXAM["kinds"]},
        "stages_s": {"install": 31.2, "base-train": 300.0},
        "val_bpb": 0.625,
    }


@pytest.mark.parametrize("stage", ["exam", "base"])
def test_a_missing_record_is_one_sentence_with_the_remedy(measured, stage):
    (measured / "report" / f"{stage}.json").unlink()
    with pytest.raises(report.RecordMissing, match=rf"no {stage} record in .*run `make build`"):
        report_script.main([])
    assert not (measured / "report" / "card.html").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("exam", "{half"),
        ("exam", "[1, 2]"),
        ("exam", '{"overall": 0.9, "kinds": {}}'),
        ("exam", '{"overall": 93, "kinds": {"where": {"accuracy": 0.9}}}'),
        ("exam", '{"overall": 0.9, "kinds": {"where": 0.9}}'),
        ("base", '{"curve": []}'),
        ("base", "\x00"),
        ("stages", '{"base-train": 12}'),
    ],
)
def test_a_broken_record_is_named_with_the_command_that_makes_it_again(measured, name, text):
    (measured / "report" / f"{name}.json").write_text(text)
    with pytest.raises(report.RecordBroken, match=rf"{name}\.json .*run `"):
        report_script.main([])


def test_the_card_in_the_terminal_says_what_was_measured(measured, capsys):
    report_script.main([])
    card = capsys.readouterr().out
    assert "3.5 million parameters, made on this machine in 5 min 31 s" in card
    assert "It answers 88% of 8 questions that it had never seen." in card
    assert re.search(r"where +4 +100\.0% +25\.0%", card)
    assert card.index("count") < card.index("where "), "the weakest kind stands first"
    assert re.search(r"pretraining +4\.1 million +13,667 +0\.625", card)
    assert "chat-sft" not in card, "a stage that never finished has no time"


def test_a_fact_that_nobody_measured_is_left_out(measured):
    report.record("base", {"val_bpb": 0.5})
    report.record("exam", {"overall": 1.0, "kinds": {"where": {"accuracy": 1.0}}})
    card = report_card.text_card(report.read_report())
    assert "unknown size" in card and "100% of the questions" in card
    assert "None" not in card and "nan" not in card
    assert report_card.learning_curve(report.read_report()) == ""


def test_the_page_stands_alone_and_shows_both_pictures(measured):
    _, page = report_card.publish_card()
    html = page.read_text(encoding="utf-8")
    assert html.count("<svg") == 2
    assert not re.search(r"<script|<link|<img|\bsrc=|url\(", html)
    assert set(re.findall(r"https?://[^\"' ]+", html)) <= {"http://www.w3.org/2000/svg"}
    assert "&lt;b&gt;count" in html and "<b>count" not in html
    assert (page.parent / "card.md").read_text().startswith("# Report card")


def test_the_learning_curve_draws_one_point_for_each_evaluation(measured):
    svg = report_card.learning_curve(report.read_report())
    assert svg.count("<circle") == 10 + 1  # ten evaluations, and the mark in the legend


def test_many_kinds_are_spread_evenly_over_charts_weakest_first(measured):
    kinds = {f"kind_{n}": {"accuracy": n / 20, "majority": 0.0} for n in reversed(range(14))}
    charts = report_card.exam_charts({"overall": 0.5, "kinds": kinds})
    assert [chart.count("this model:") for chart in charts] == [7, 7]
    assert "kind 0" in charts[0] and "kind 13" in charts[1]


@pytest.mark.browser
def test_the_page_fits_a_phone_and_follows_light_and_dark(measured, chromium):
    _, page_file = report_card.publish_card()
    colours = {}
    for scheme in ("light", "dark"):
        page = chromium.new_page(viewport={"width": 375, "height": 800}, color_scheme=scheme)
        page.goto(page_file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 375
        colours[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.close()
    assert colours["light"] != colours["dark"]


def test_reinforcement_has_its_table_and_a_broken_record_is_named(measured):
    record = {"before": {"two_hop": 0.5}, "after": {"two_hop": 0.625}, "practised": ["two_hop"]}
    report.record("rl", record)
    assert re.search(r"two hop \*\s+50.0%\s+62.5%", report_card.text_card(report.read_report()))
    report.record("rl", {"before": {"two_hop": 0.5}, "after": {}})
    with pytest.raises(report.RecordBroken, match="nanochat chat-rl"):
        report.read_report()
