from __future__ import annotations

import PIL

from secondlook.edge.versions import installed_version


def test_the_first_that_is_installed_tells_its_version() -> None:
    assert installed_version("pillow") == PIL.__version__
    assert installed_version("no-such-distribution", "Pillow", "pip") == PIL.__version__
    assert installed_version("no-such-distribution") is None
    assert installed_version() is None
