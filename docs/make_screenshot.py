"""Writes docs/page.png: `python docs/make_screenshot.py [ADDRESS]`, while the page runs there (http://127.0.0.1:7860).

Needs playwright (`pip install ".[dev]"`) and an installed Chromium.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

TARGET = Path(__file__).with_name("page.png")
ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:7860"

with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
    page = browser.new_page(viewport={"width": 1280, "height": 1000}, color_scheme="light")
    page.goto(ADDRESS)
    page.wait_for_selector("#copy-python")
    page.wait_for_selector("#splash", state="hidden")
    page.wait_for_selector("#foot p")  # the last part that the server fills in
    page.screenshot(path=TARGET, animations="disabled")
    browser.close()
print(f"{TARGET} shows {ADDRESS}")
