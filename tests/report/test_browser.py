"""The page as a browser shows it, on a phone and on a screen: `pytest -m browser`.

Needs the extra `browser` and a Chromium on the PATH (Debian's package chromium); without either these tests fail.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.paths import ROOT
from bench.report.html import page as html_page
from tests.report.test_html import ROWS, with_pictures

pytestmark = pytest.mark.browser
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
VIEWS = [(390, "light"), (390, "dark"), (1280, "light")]
LOOK = """() => {
  document.querySelectorAll('details').forEach(d => { d.open = true });
  const found = [...document.images].filter(i => !i.complete || i.naturalWidth === 0).map(i => 'image not loaded: ' + i.alt);
  const wide = document.documentElement.scrollWidth;
  if (wide > window.innerWidth) found.push(`overflows: ${wide} px in ${window.innerWidth}`);
  return found;
}"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, NAMES)), None)
    assert found, f"no browser on the PATH, none of {', '.join(NAMES)}; on Debian: apt-get install chromium"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield launched
        launched.close()


def problems(browser, path: Path, width: int, scheme: str) -> list[str]:
    """What is wrong with a page of this width: console messages, foreign requests, images not loaded, horizontal overflow."""
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    found: list[str] = []
    page.on("console", lambda message: found.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: found.append(f"error: {error}"))
    page.on("request", lambda request: None if request.url.startswith(("data:", path.as_uri())) else
            found.append(f"asks for {request.url}"))
    page.goto(path.as_uri())
    found += page.evaluate(LOOK)
    page.close()
    return found


@pytest.mark.parametrize("width, scheme", VIEWS)
def test_the_page_is_whole_and_fits(browser, tmp_path, width, scheme):
    page = html_page.render(ROWS, with_pictures(tmp_path))
    assert page.read_text().count("<img") > 8
    assert problems(browser, page, width, scheme) == []


@pytest.mark.parametrize("width, scheme", VIEWS)
def test_the_shipped_page_is_whole_and_fits(browser, width, scheme):
    assert problems(browser, ROOT / "results" / "report.html", width, scheme) == []


@pytest.mark.parametrize("broken, said", [
    ("<img src='data:image/png;base64,AAAA' alt='samples'>", "image not loaded: samples"),
    ("<img src='data:image/svg+xml,<svg' alt='curve'>", "image not loaded: curve"),
    ("<table><tr><td style='min-width:400px'>1</table>", "overflows: "),
    ("<details><p style='width:500px'>1</details>", "overflows: "),
    ("<script>console.error('bad')</script>", "console: bad"),
    ("<script>nowhere()</script>", "error: nowhere is not defined"),
    ("<img src='https://example.invalid/a.png' alt='far'>", "asks for https://example.invalid/a.png"),
])
def test_what_is_wrong_with_a_page_is_found(browser, tmp_path, broken, said):
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
                    f"<link rel=icon href='data:,'><body style='margin:0'>{broken}")
    assert any(line.startswith(said) for line in problems(browser, page, 390, "light"))
