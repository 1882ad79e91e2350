"""What the page says, without a browser: every section, what is missing, and nothing that a file could smuggle in."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from reports.documents import HOSTILE, blocks, empty, full, hostile

from lacoot_deploy.reports import answer_line, render_page
from lacoot_deploy.reports.page import plain
from lacoot_deploy.reports.svg import linear_axis, log_axis
from lacoot_deploy.reports.words import fixed, significant, wrapped

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Holds that tags are balanced, and collects what a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.words, self.addresses, self.handlers = [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "href") and v]
        self.handlers += [k for k, _ in attributes if k.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


def test_a_full_page_says_everything():
    page = Page(render_page(full()))
    for words in (
        "3 of 8 blocks are gone",
        "drops by 1.50 points, from 82.00 to 80.50 %",
        "1.86 times as fast",
        "The network that is left, trained from scratch, is 0.50 points better",
        "map across channels",
        "layer1.3 refitted",
        "cannot go: Its shape changes.",
        "sample 28",
        "a smaller difference means nothing",
        "lacoot-deploy collapse run/model.onnx",
    ):
        assert words in page.text, words
    assert page.tags.count("img") == 5


def test_a_page_needs_nothing_else():
    text = render_page(full())
    page = Page(text)
    assert "script" not in page.tags
    assert not page.handlers
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text
    assert "@import" not in text


def test_what_is_missing_is_said_once_and_drawn_nowhere():
    document = empty()
    page = Page(render_page(document))
    for sentence in document.missing.values():
        assert page.text.count(sentence) == 1
    assert "Nothing has been cut from this network yet." in page.text


def test_hostile_names_stay_text():
    text = render_page(hostile())
    page = Page(text)
    assert "script" not in page.tags
    assert not page.handlers
    assert page.tags.count("img") == 5, "the pictures alone"
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert plain(HOSTILE) in page.text.replace("&nbsp;", " ") or "<script>alert(1)" in page.text
    assert not set("\u202e\x1b") & set(text)


def test_signs_that_turn_or_hide_text_become_visible():
    assert plain("a\u202eb\x00c\nd") == "a\ufffdb\ufffdc d"
    assert plain("Größe 日本 — ok") == "Größe 日本 — ok"


def test_the_same_document_gives_the_same_bytes():
    assert render_page(full()) == render_page(full())


@pytest.mark.parametrize("count", [1, 60])
def test_networks_of_any_depth_are_drawn(count):
    page = Page(render_page(full(blocks=blocks(count, count // 2))))
    assert page.text.count("All figures by block") == 1


def test_zero_distances_and_equal_scores_are_drawn():
    zero = [block | {"distances": {"mswd": 0.0}, "floors": {"mswd": 0.0}} for block in blocks(3, 1)]
    curve = {"name": "s", "kind": "search", "points": [{"removed": i, "score": 100.0} for i in range(3)]}
    Page(render_page(full(blocks=zero, curves=[curve])))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cost": None, "gain": None, "scratch": None}, "3 of 8 blocks are gone."),
        ({"written": False, "cost": None, "gain": None, "scratch": None}, "3 of 8 blocks can go."),
    ],
)
def test_the_answer_says_no_more_than_is_known(change, said):
    answer = full().answer.model_copy(update=change)
    line = answer_line(full(answer=answer.model_dump()))
    assert line.replace("\N{NO-BREAK SPACE}", " ") == said


def test_activations_that_became_linear_are_part_of_the_answer():
    answer = full().answer.model_copy(
        update={"removed": [], "linearised": ["layer1.0.relu", "relu2"], "merged": ["a + b"], "scratch": None}
    )
    document = full(answer=answer.model_dump())
    page = Page(render_page(document))
    assert "2 activations became linear and 1 pair of operators one" in answer_line(document)
    assert "layer1.0.relu" in page.text
    assert "0 of 8 blocks" not in page.text


def test_no_difference_in_latency_is_called_that():
    document = full()
    document.answer.gain.verdict = "no detectable difference"
    assert "no detectable difference in latency" in answer_line(document)


def test_ticks_are_round_and_hold_the_values():
    axis = linear_axis("x", [0.3, 8.7], whole=True, zero=True)
    assert axis.ticks == (0, 5, 10) or axis.ticks == tuple(range(0, 11, 2))
    assert linear_axis("y", [61.0, 99.9], most=100).high <= 100
    log = log_axis("ms", [0.2, 40])
    assert all(log.low <= tick <= log.high for tick in log.ticks)
    assert log.place(log.low, 0, 1) == 0
    assert log.place(log.high, 0, 1) == pytest.approx(1)


def test_numbers():
    assert (fixed(-0.001), fixed(-1.5), fixed(None)) == ("0.00", "\N{MINUS SIGN}1.50", "\N{EN DASH}")
    assert (significant(0.012345), significant(1234.5), significant(1.2e-7)) == (
        "0.0123",
        "1230",
        "1.20e\N{MINUS SIGN}07",
    )
    long = "lacoot-deploy compare a.onnx b.onnx " + " ".join(f"--option{i} value" for i in range(8))
    assert max(map(len, wrapped(long).splitlines())) <= 96
    assert wrapped(long).replace(" \\\n    ", " ") == long
