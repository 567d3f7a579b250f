"""A real browser without a window, for the tests of HTML pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

SCRIPT = "<script>window.hacked = 1; document.title = 'hacked'</script>"
IMAGE = '"><img src=x onerror="window.hacked = 2">'
END = "</script><svg onload='window.hacked = 3'>"
HOSTILE = (SCRIPT, IMAGE, END, "{{ 7 * 7 }} ]]> <!-- \u2028 $x_1$")
"""Texts that would do something if they were taken for markup; `window.hacked` tells."""

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs a browser: install Debian's chromium and chromium-driver"
)


@contextmanager
def browser(profile: Path, width: int = 1280, height: int = 900) -> Iterator[Chrome]:
    """Start Chromium without a window and without services of its own, and close it at the end.

    Args:
        profile: A new folder for its profile.
        width: The window's width in pixels.
        height: Its height.
    """
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={profile}", f"--window-size={width},{height}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options, Service(str(DRIVER)))  # the path, so that selenium downloads none
    try:
        yield driver
    finally:
        driver.quit()


def console(driver: Chrome) -> list[str]:
    """Return what the page has logged since the last call: errors of scripts and refusals of its policy."""
    entries: list[dict[str, Any]] = driver.get_log("browser")  # type: ignore[no-untyped-call]
    return [str(entry["message"]) for entry in entries]


def text(driver: Chrome, name: str) -> str:
    """Return what an element shows."""
    return driver.find_element(By.ID, name).text


def choose(driver: Chrome, name: str, value: str) -> None:
    """Choose from a list of options."""
    Select(driver.find_element(By.ID, name)).select_by_visible_text(value)
    driver.execute_script("document.activeElement.blur()")  # a list of options takes letters itself


def listed(driver: Chrome) -> list[str]:
    """Return the rows in the list."""
    return [item.get_property("textContent") for item in driver.find_elements(By.CSS_SELECTOR, "#list li")]  # type: ignore[misc]


def press(driver: Chrome, *keys: str) -> None:
    """Press keys where the focus is."""
    ActionChains(driver).send_keys(*keys).perform()
