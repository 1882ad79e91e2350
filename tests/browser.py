"""A headless Chromium for tests of pages: one that is on the machine, driven by playwright; else the test skips."""

from __future__ import annotations

import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
)


def launch():
    """Yield a browser; use it as the body of a fixture."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (in the dev extra)")
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"needs a Chromium on the PATH ({', '.join(NAMES)})")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(OPTIONS))
        yield browser
        browser.close()


CHECKS = r"""
() => {
  const problems = [], say = text => problems.push(text);
  const seen = {};
  for (const e of document.querySelectorAll('[id]')) {
    if (seen[e.id]) say(`id ${e.id} twice`);
    seen[e.id] = true;
  }
  if (!document.documentElement.lang) say('no language');
  if (document.querySelectorAll('h1').length !== 1) say('not one h1');
  let level = 0;
  for (const h of document.querySelectorAll('h1,h2,h3,h4,h5,h6')) {
    const own = +h.tagName[1];
    if (own > level + 1) say(`heading "${h.textContent.trim()}" jumps from ${level} to ${own}`);
    level = own;
  }
  for (const i of document.querySelectorAll('img')) if (!i.alt) say('image without alt');
  for (const s of document.querySelectorAll('svg')) {
    if (s.getAttribute('aria-hidden') === 'true') continue;
    const names = (s.getAttribute('aria-labelledby') || '').split(' ').map(id => document.getElementById(id));
    if (s.getAttribute('role') !== 'img' || !names.length || names.some(n => !n || !n.textContent.trim()))
      say('drawing without a name or a description');
  }
  for (const t of document.querySelectorAll('table')) {
    if (!t.caption || !t.caption.textContent.trim()) say('table without a caption');
    for (const h of t.querySelectorAll('th')) if (!h.scope) say(`header "${h.textContent}" without scope`);
  }
  for (const l of document.querySelectorAll('a[href^="#"]'))
    if (!document.getElementById(l.getAttribute('href').slice(1))) say(`link to nothing: ${l.href}`);
  for (const s of document.querySelectorAll('section'))
    if (!document.getElementById(s.getAttribute('aria-labelledby'))) say('section without a heading');
  const parts = c => (c.match(/[\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = parts(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || ['title', 'desc'].includes(e.tagName)) continue;
    const style = getComputedStyle(e), drawn = e instanceof SVGElement;
    const a = light(parts(drawn ? style.fill : style.color));
    const b = light(behind(drawn ? e.closest('svg').parentElement : e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && +style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) say(`contrast ${ratio.toFixed(2)} of "${e.textContent.trim().slice(0, 40)}"`);
  }
  return problems;
}
"""
"""What can be told of a page's accessibility by looking at it: names, order, relations, contrast."""
