"""Headless chromium without a network, for the tests of the site."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import need

DESKTOP, PHONE = (1280, 900), (390, 844)
WAIT_S = 60


@contextmanager
def browser() -> Iterator[Any]:
    """A selenium driver whose every host name leads nowhere; what it asked for and said is logged.

    The marker of what it needs is `browser`.
    """
    need("selenium", "pip install -e '.[dev]'")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "no-proxy-server",
                 "host-resolver-rules=MAP * ~NOTFOUND", "force-device-scale-factor=1", "hide-scrollbars",
                 "disable-background-networking", "disable-component-update"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        made.set_page_load_timeout(WAIT_S)
        yield made
    finally:
        made.quit()


def open_page(driver: Any, path: Path, fragment: str = "", size: tuple[int, int] = DESKTOP, dark: bool = False) -> None:
    """Open a file in a window of that size, as light or dark as asked for, and wait until it is drawn."""
    window = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    driver.get("about:blank")
    driver.get(path.resolve().as_uri() + fragment)
    wait_drawn(driver)


def wait_drawn(driver: Any) -> None:
    """Wait until the page has run its scripts."""
    from selenium.webdriver.support.wait import WebDriverWait

    driver.set_script_timeout(WAIT_S)
    WebDriverWait(driver, WAIT_S).until(lambda d: d.execute_script("return document.readyState") == "complete")


def complaints(driver: Any) -> list[str]:
    """What the console holds: errors, warnings, refused loads."""
    return [f"{entry['level']}: {entry['message']}" for entry in driver.get_log("browser") if entry["level"] != "INFO"]


def requested(driver: Any) -> list[str]:
    """Every address that was asked for since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


def overflow(driver: Any) -> int:
    """Pixels by which the page is wider than its window."""
    return int(driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth"))
