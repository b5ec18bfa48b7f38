"""Makes the README's picture: `python docs/picture.py` opens the page in Chromium and writes docs/page.png."""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # a script sees only its own folder

from browser import CHROMIUM, FLAGS, Visit, served

LINK = "/?model=gpt-shakespeare&prompt=ROMEO%3A&seed=1337&length=300&temperature=0.8&at=5"

with served() as address, sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    size = {"width": 1280, "height": 960}
    visit = Visit(browser, address, LINK, viewport=size, color_scheme="light")
    visit.wait_for_text()
    visit.page.wait_for_timeout(500)  # for the fonts and the address
    visit.page.screenshot(path=ROOT / "docs" / "page.png")
    browser.close()
