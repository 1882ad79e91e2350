"""The page in a real browser: no errors, no requests, no sideways scrolling, readable in light and dark."""

from __future__ import annotations

import pytest
from browser import CHECKS, launch
from reports.documents import empty, full, hostile

from lacoot_deploy.reports import render_page

SIZES = {"phone": (390, 844), "desktop": (1280, 800)}
DOCUMENTS = {"full": full, "empty": empty, "hostile": hostile}


@pytest.fixture(scope="module")
def browser():
    yield from launch()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name, build in DOCUMENTS.items():
        found[name] = folder / f"{name}.html"
        found[name].write_text(render_page(build()), encoding="utf-8")
    return found


@pytest.fixture
def opened(browser, pages):
    contexts = []

    def open_page(name, size="desktop", scheme="light"):
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("dialog", lambda dialog: (page.said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(pages[name].as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_page_is_shown_whole_and_asks_for_nothing(opened, pages, name, size, scheme):
    page = opened(name, size, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.said == []
    assert [url for url in page.asked if not url.startswith("data:")] == [pages[name].as_uri()]
    width, inner = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= inner
    assert page.evaluate(CHECKS) == []


def test_drawings_fit_their_place_and_letters_stay_readable(opened):
    for size in SIZES:
        page = opened("full", size)
        drawn = page.evaluate(
            "[...document.querySelectorAll('figure svg[role=img]')].filter(s => s.getClientRects().length)"
            ".map(s => [s.getBoundingClientRect().width, s.viewBox.baseVal.width])"
        )
        assert len(drawn) == 6
        assert all(shown / own > 0.9 for shown, own in drawn), "letters would shrink with the drawing"


def test_labels_stay_inside_their_drawing(opened):
    for size in SIZES:
        outside = opened("full", size).evaluate(
            "[...document.querySelectorAll('figure svg[role=img] text')].filter(t => {"
            "const a = t.getBoundingClientRect(), b = t.closest('svg').getBoundingClientRect();"
            "return a.width && (a.left < b.left - 2 || a.right > b.right + 12 || a.bottom > b.bottom + 2) })"
            ".map(t => t.textContent)"
        )
        assert outside == []


def test_dark_is_dark_and_light_is_light(opened):
    backgrounds = [
        opened("full", scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert backgrounds == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]


def test_print_is_dark_on_light_whatever_the_screen_is(opened):
    page = opened("full", scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(CHECKS) == []


def test_the_keyboard_reaches_everything_that_opens_or_scrolls(opened):
    page = opened("full")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    box = page.evaluate("document.activeElement.getBoundingClientRect().left")
    assert box >= 0, "the skip link shows when it has the focus"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    summaries = page.locator("summary").count()
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.tagName + document.activeElement.textContent.trim()")
        )
    assert sum(name.startswith("SUMMARY") for name in reached) == summaries
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('details').open")


def test_the_answer_is_on_the_first_screen(opened):
    page = opened("full")
    bottoms = page.evaluate(
        "[...document.querySelectorAll('.card .big')].map(e => e.getBoundingClientRect().bottom)"
    )
    assert len(bottoms) == 4
    assert max(bottoms) < 800


def test_every_series_is_told_apart_without_colour(opened):
    looks = opened("full").evaluate(
        "[...document.querySelectorAll('figure:first-of-type .legend')][0].querySelectorAll('li').length"
    )
    shapes = opened("full").evaluate(
        "[...[...document.querySelectorAll('figure .legend')][0].querySelectorAll('li svg')].map(s =>"
        "[...s.children].map(c => c.tagName + (c.getAttribute('points') || '') + (c.getAttribute('r') || '')"
        "+ getComputedStyle(c).strokeDasharray + (c.getAttribute('d') || '')).join(' '))"
    )
    assert len(set(shapes)) == len(shapes) == looks
