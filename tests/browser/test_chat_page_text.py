"""Text from a model or a person is never markup: hostile text, Markdown, the page's own policy."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from scripted_chat import HOSTILE
from served_chat import Served, serving
from tiny_models import byte_tokenizer, lively_model

from nanochat.engine import Engine
from tests.browser.chat_steps import answered, ask, last_answer

pytestmark = pytest.mark.browser


# --- text from a model or a person is never markup ---


def test_hostile_text_stays_text_everywhere(open_page):
    page = open_page()
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url))
    ask(page, "Attack")
    ask(page, HOSTILE)  # as the person's text: bubble, title and list
    page.click("#new-chat")
    ask(page, HOSTILE)
    page.reload()
    expect(page.locator(".bubble")).to_have_count(1)
    assert page.evaluate("window.pwned") is None
    inside = (
        ".answer :is(script, img, iframe, svg, object), .bubble *, #title *, .open :not(.pulse)"
    )
    assert page.locator(inside).count() == 0
    links = page.locator(".answer a").evaluate_all("all => all.map((a) => a.href)")
    assert all(link.startswith("http") for link in links)
    assert not [url for url in loaded if "pixel.png" in url]
    page.click(".chat-row >> nth=1")
    assert "<script>window.pwned = 1</script>" in page.locator(".answer").first.inner_text()


def test_the_page_breaks_none_of_its_own_policy(open_page):
    page = open_page(bypass_csp=False)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    for text in ("Markdown", "Attack", "Two sums"):
        ask(page, text)
    page.click("#open-settings")
    page.keyboard.press("Escape")
    page.click("#help")
    assert complaints == []


MARKDOWN_CASES = [
    ("2*3*4 and 5 * 6 * 7", "<p>2*3*4 and 5 * 6 * 7</p>"),
    ("snake_case_name", "<p>snake_case_name</p>"),
    ("**a *b* c**", "<p><strong>a <em>b</em> c</strong></p>"),
    ("*a **b** c*", "<p><em>a <strong>b</strong> c</em></p>"),
    ("~~no~~ __yes__ _so_", "<p><del>no</del> <strong>yes</strong> <em>so</em></p>"),
    ("**open", "<p>**open</p>"),
    ("***a*** **b *c***", "<p><strong><em>a</em></strong> <strong>b <em>c</em></strong></p>"),
    ("a ***** b", "<p>a ***** b</p>"),
    ("`` a`b `` `c", "<p><code>a`b</code> `c</p>"),
    (r"\*a\* \`b\`", "<p>*a* `b`</p>"),
    ("a\nb", "<p>a<br>b</p>"),
    ("# One #\n####### seven", "<h3>One</h3><p>####### seven</p>"),
    ("1984. A year", '<ol start="1984"><li>A year</li></ol>'),
    ("- a\n\n- b\ntail", "<ul><li>a</li><li>b</li></ul><p>tail</p>"),
    ("- a\n  - b\n    - c", "<ul><li>a<ul><li>b<ul><li>c</li></ul></li></ul></li></ul>"),
    ("1. a\n   b\n2) c", '<ol start="1"><li>a<br>b</li><li>c</li></ol>'),
    ("> a\n> > b", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>"),
    ("---\n* * *", "<hr><hr>"),
    ("-5 is less", "<p>-5 is less</p>"),
    ("| a | b |", "<p>| a | b |</p>"),
    ("a | b\n--|--|--\n1 | 2", "<p>a | b<br>--|--|--<br>1 | 2</p>"),
    ("|" * 60 + "\n" + "|-" * 60 + "|", "<p>" + "|" * 60 + "<br>" + "|-" * 60 + "|</p>"),
    ("### Three\n# One\n#### Four", "<h3>Three</h3><h3>One</h3><h4>Four</h4>"),
    ("x [1] [2, 3]", "<p>x [1] [2, 3]</p>"),
    ("<b>x</b> &amp;", "<p>&lt;b&gt;x&lt;/b&gt; &amp;amp;</p>"),
    ("[x](javascript:a)", "<p>[x](javascript:a)</p>"),
    ("[x](JaVaScRiPt:a) [y](/p) [z](//h)", "<p>[x](JaVaScRiPt:a) [y](/p) [z](//h)</p>"),
    ("", ""),
]


@pytest.fixture(scope="module")
def markdown(chromium: Browser, served: Served) -> Iterator[Any]:
    """markdown(text) -> the HTML of the nodes that were built."""
    page = chromium.new_page(bypass_csp=True)
    page.goto(str(served.client.base_url))
    script = """async (text) => {
      const { renderMarkdown } = await import("/static/markdown.js");
      const box = document.createElement("div");
      box.append(...renderMarkdown(text));
      return box.innerHTML;
    }"""
    yield lambda text: page.evaluate(script, text)
    page.close()


@pytest.mark.parametrize(("text", "html"), MARKDOWN_CASES)
def test_markdown_becomes_these_nodes(markdown, text, html):
    assert markdown(text) == html


def test_a_table_has_a_head_sides_and_as_many_cells_in_each_row(markdown):
    html = markdown("So:\n| *a* | b \\| c |\n|:-:|--:|\n| 1 |\n| <b> | [2] | 3 |\nafter")
    assert html == (
        '<p>So:</p><div class="table" tabindex="0" role="group" aria-label="Table"><table><thead>'
        '<tr><th class="center" scope="col"><em>a</em></th>'
        '<th class="right" scope="col">b | c</th></tr></thead><tbody>'
        '<tr><td class="center">1</td><td class="right"></td></tr>'
        '<tr><td class="center">&lt;b&gt;</td><td class="right">[2]</td></tr>'
        "</tbody></table></div><p>after</p>"
    )


def test_links_open_elsewhere_and_tell_nothing(markdown):
    rel = 'target="_blank" rel="noopener noreferrer nofollow"'
    assert markdown("[a](https://x.org/)") == f'<p><a href="https://x.org/" {rel}>a</a></p>'
    assert markdown("see https://x.org/a.") == (
        f'<p>see <a href="https://x.org/a" {rel}>https://x.org/a</a>.</p>'
    )
    assert "<img" not in markdown("![pic](https://x.org/p.png)")


def test_code_is_shown_as_it_is_even_before_it_ends(markdown):
    for text in ("```py\n<b>*a*</b>\n```", "```py\n<b>*a*</b>"):
        html = markdown(text)
        assert "<code>&lt;b&gt;*a*&lt;/b&gt;</code>" in html and "<span>py</span>" in html


@pytest.mark.parametrize(
    "piece",
    ["*", "**a ", "_", "`", "[", "![", "> ", "- ", "1. ", "~~x", "\\", "|", "[1,"],
)
def test_a_long_run_of_marks_is_drawn_and_loses_no_character(markdown, piece):
    text = "x " + piece * 4000
    html = markdown(text)
    assert html.count("<") < 5_000
    if piece.strip() in ("*", "_", "`", "["):
        assert piece.strip() * 100 in html


# --- and with a real model ---


def test_a_real_untrained_model_answers_in_the_page(chromium: Browser):
    engine = Engine(lively_model(sharpness=1.0), byte_tokenizer())
    with serving(engine) as served:
        page = chromium.new_page()
        page.goto(str(served.client.base_url))
        page.fill("#prompt", "Hello")
        page.click("#send")
        answered(page)
        expect(last_answer(page).locator(".stats")).to_contain_text("tokens/s")
        served.until(finished=1, running=0)
        page.close()
