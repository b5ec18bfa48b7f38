"""Every tab, in both themes and on both sizes: axe-core finds nothing, and nothing is wider than the screen."""

import pytest

SIZES = {"wide": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
TABS = ("write", "compare", "score", "inside", "learn", "train", "families", "all-at-once", "turn", "lessons", "morph")


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_tab_is_accessible_and_fits(visit, size, theme):
    first = visit(f"/?__theme={theme}", viewport=SIZES[size], color_scheme=theme)
    assert set(first.page.evaluate("[...document.querySelectorAll('[id^=tab-][id$=-button]')].map((e) => e.id)")) >= {
        f"tab-{tab}-button" for tab in TABS
    }
    for tab in TABS:
        first.open_tab(tab)
        first.page.wait_for_timeout(1000)  # for what the tab requests when it is opened
        first.screenshot(f"{tab}-{size}-{theme}")
        assert first.page.evaluate("document.documentElement.scrollWidth") <= SIZES[size]["width"], tab
        assert first.violations() == [], tab
