"""A file of API keys beside the keys themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from service.security import keys


class Keyring:
    """Makes keys, and keeps a file of what a service has to know of them.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._secrets: dict[str, str] = {}
        self._entries: list[dict[str, Any]] = []

    def add(self, name: str, **chosen: Any) -> str:
        """Make a key, write it into the file and return it."""
        secret = self._secrets[name] = keys.generate()
        self._entries.append({"id": name, "sha256": keys.fingerprint(secret), **chosen})
        self.path.write_text(json.dumps({"keys": self._entries}))
        return secret

    def secret(self, name: str) -> str:
        return self._secrets[name]

    def headers(self, name: str) -> dict[str, str]:
        """Return what brings a key over REST."""
        return {"Authorization": f"Bearer {self._secrets[name]}"}

    def metadata(self, name: str) -> tuple[tuple[str, str], ...]:
        """Return what brings a key over gRPC."""
        return (("authorization", f"Bearer {self._secrets[name]}"),)
