"""Everything about access that the settings ask for, together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import StartError
from service.security.gatekeeper import Gatekeeper
from service.security.keyfile import KeyFile
from service.security.tls import Certificates
from service.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Access:
    """Who may ask, and how they know whom they ask.

    Args:
        gatekeeper: None where no key is asked for.
        certificates: None without TLS.
        key_file: Where the gatekeeper's keys come from.
    """

    gatekeeper: Gatekeeper | None
    certificates: Certificates | None
    key_file: KeyFile | None

    @classmethod
    def of(cls, settings: Settings, count: Callable[[str, str], None]) -> Access:
        """Read what the settings name.

        Args:
            settings: The settings.
            count: As for :class:`Gatekeeper`.

        Raises:
            StartError: The keys or the certificate cannot be used, or settings contradict.
        """
        certificates = Certificates.of(settings)
        if settings.api_keys is None:
            if settings.metrics_need_key:
                raise StartError(
                    "GPUSQ_METRICS_NEED_KEY asks for keys, and GPUSQ_API_KEYS names no file of "
                    "them. Set it too."
                )
            return cls(None, certificates, None)
        key_file = KeyFile(settings.api_keys)
        if not key_file.keys():
            logger.warning("%s has no key, so nobody may ask anything", settings.api_keys)
        return cls(Gatekeeper(key_file.keys, count), certificates, key_file)

    async def watch(self) -> None:
        """Follow the files until cancelled."""
        followed = [part.watch() for part in (self.key_file, self.certificates) if part is not None]
        await asyncio.gather(*followed)
