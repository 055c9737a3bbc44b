"""Headless Chromium through ChromeDriver's own protocol: what a page logs, measures and looks like."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
MISSING = None if CHROMIUM and DRIVER else "needs chromium and chromedriver on the PATH"
"""Why there is no browser; None: there is one."""

_SWITCHES = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    # Nothing but the page itself: no look-ups and no downloads of the browser's own.
    *("--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


class Browser:
    """One session. Pages are shown with a width, and in a colour scheme."""

    def __init__(self, client: httpx.Client, session: str) -> None:
        self._client, self._session = client, session

    def open(self, page: Path, width: int, scheme: str) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", features=media)
        self._post("url", url=page.resolve().as_uri())

    def run(self, script: str) -> Any:
        """What a script returns."""
        return self._post("execute/sync", script=script, args=[])

    def logged(self) -> list[str]:
        """What the console was told since the last time."""
        return [entry["message"] for entry in self._post("se/log", type="browser")]

    def screenshot(self, file: Path) -> None:
        """The whole page."""
        shot = self.command("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def command(self, name: str, **parameters: Any) -> Any:
        """One of the DevTools protocol."""
        return self._post("goog/cdp/execute", cmd=name, params=parameters)

    def _post(self, path: str, **body: Any) -> Any:
        return _value(self._client.post(f"/session/{self._session}/{path}", json=body))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own, closed at the end."""
    assert CHROMIUM is not None, MISSING
    assert DRIVER is not None, MISSING
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(
        [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait(port, driver)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120.0) as client:
            options = {"binary": CHROMIUM, "args": [*_SWITCHES, f"--user-data-dir={profile}"]}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            found = _value(client.post("/session", json={"capabilities": {"alwaysMatch": wanted}}))
            yield Browser(client, found["sessionId"])
            client.delete(f"/session/{found['sessionId']}")
    finally:
        driver.terminate()
        driver.wait(30)


def _wait(port: int, driver: subprocess.Popen[bytes]) -> None:
    """Until the driver listens; it says so nowhere but on its port."""
    with socket.socket() as listening:
        while listening.connect_ex(("127.0.0.1", port)):
            assert driver.poll() is None, f"chromedriver ended with status {driver.returncode}"
            time.sleep(0.05)


def _value(reply: httpx.Response) -> Any:
    value = reply.json()["value"]
    assert reply.status_code == 200, value
    return value
