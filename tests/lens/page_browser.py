"""A headless Chromium that opens pages from disk and keeps a record of what they ask for."""

import os
import shutil
import time
from pathlib import Path

import pytest

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
)


def start(folder):
    """A browser, or a skip with the reason where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    binary, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not binary or not driver:
        assert "MINITRANSFORMER_AXE" not in os.environ, "pages are to be tested, and there is no browser"
        pytest.skip("needs chromium and chromedriver on the path")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    downloads = {"behavior": "allow", "downloadPath": str(folder)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", downloads)
    return browser


def wait_for(condition, seconds=20):
    """The first true answer; fails where none comes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := condition():
            return answer
        time.sleep(0.03)
    raise AssertionError("waited in vain")


class Reader:
    """One who opens pages, presses keys and reads."""

    def __init__(self, browser, folder: Path):
        self.browser, self.folder = browser, folder

    def open(self, html, address=""):
        file = self.folder / "page.html"
        file.write_text(html, encoding="utf-8")
        self.browser.get("about:blank")
        for kind in ("browser", "performance"):
            self.browser.get_log(kind)
        self.browser.get(f"{file.as_uri()}{address}")
        return self.first_picture()

    def first_picture(self):
        """Milliseconds from the beginning of loading to the first picture."""
        script = "return performance.getEntriesByName('first-picture').map((mark) => mark.startTime)"
        return wait_for(lambda: self.run(script))[0]

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def press(self, keys, where=".picture"):
        self.browser.find_element("css selector", where).send_keys(keys)

    def click(self, where):
        self.run("document.querySelector(arguments[0]).click()", where)

    def text(self, where):
        return self.run("return document.querySelector(arguments[0])?.textContent", where)

    def said(self):
        """The sentence for those who listen."""
        return self.text("[aria-live]").replace("\u2068", "").replace("\u2069", "")

    def address(self, part):
        wait_for(lambda: part in self.run("return location.hash"))

    def complaints(self):
        return [entry["message"] for entry in self.browser.get_log("browser")]
