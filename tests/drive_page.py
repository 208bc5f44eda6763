"""Drives the page of `s4gen serve` in headless Chromium: every panel draws something, and nothing sticks out.

    python tests/drive_page.py URL WIDTH HEIGHT PICTURE

It is a program of its own since a test may not ask for the name localhost, by which selenium speaks to its driver. The
last argument is where a screenshot of the whole page goes.
"""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

from selenium import webdriver


def main(url: str, width: int, height: int, picture: str) -> None:
    options = webdriver.ChromeOptions()
    # A click by a script is no gesture of a user, without which a page may play no sound.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"):
        options.add_argument(argument)
    metrics = {"width": width, "height": height, "pixelRatio": 1.0}
    options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.get(url)
        for kind, button in (("image", ".free"), ("text", ".write"), ("audio", ".classes button")):
            (panel,) = waited(lambda kind=kind: browser.find_elements("css selector", f".panel.{kind}"))
            browser.execute_script("arguments[0].click()", panel.find_element("css selector", button))
            said, alert, stop = (panel.find_element("css selector", name) for name in (".said", ".alert", ".stop"))
            waited(lambda said=said, alert=alert: said.text.startswith("seed ") or alert.text)
            assert alert.text == "", f"{kind}: {alert.text}"
            waited(lambda stop=stop: not stop.is_enabled())
        assert len(browser.find_elements("css selector", ".results canvas")) == 20
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        messages = browser.get_log("browser")
        assert messages == [], messages
        whole = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": int(whole["height"]), "deviceScaleFactor": 1, "mobile": False},
        )
        browser.save_screenshot(picture)
    finally:
        browser.quit()


def waited(what: Any) -> Any:
    """Return what `what` returns once it is true."""
    until = time.monotonic() + 60
    while not (found := what()) and time.monotonic() < until:
        time.sleep(0.1)
    assert found
    return found


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
