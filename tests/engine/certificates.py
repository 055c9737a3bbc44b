"""A certificate of its own for this machine, and its key, as `openssl` makes them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from secondlook.engine.serve.settings import TlsFiles


def certificate(folder: Path, name: str = "server", *more: str) -> TlsFiles:
    """Files of a new certificate for localhost and 127.0.0.1, in a folder."""
    files = TlsFiles(folder / f"{name}.pem", folder / f"{name}.key")
    protection = more or ("-nodes",)
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-days",
                "2",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
            ),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", *protection),
            *("-keyout", str(files.key), "-out", str(files.certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return files
