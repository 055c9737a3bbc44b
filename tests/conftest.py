"""What every test relies on: connections to this machine go to this machine."""

from __future__ import annotations

import os


def pytest_configure() -> None:
    """Forget the proxies of the user's network: the tests' servers are on the loopback interface."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        os.environ.pop(name, None)
        os.environ.pop(name.upper(), None)
