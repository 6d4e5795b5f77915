"""The certificate that a server shows: checked at the start, taken up again when it is renewed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.errors import StartError
from service.security import files
from service.security.files import Look
from service.settings import Settings

logger = logging.getLogger(__name__)

_CHECK_S: Final = 10.0
_SOON_S: Final = 14 * 86_400
_STEPS: Final = 8
# OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
_DATES: Final = {9: "is not valid yet", 10: "has expired"}


@dataclass(frozen=True)
class Pem:
    """A certificate chain and its key, as text files have them."""

    chain: bytes
    key: bytes


class Certificates:
    """What a server shows of itself, and what it asks of clients.

    Args:
        chain: The certificate, then those between it and its authority; PEM.
        key: The key of the first; PEM, without a passphrase.
        client_ca: The authorities of clients; None where clients need no certificate.

    Raises:
        StartError: A file cannot be read, or the two do not belong together.
    """

    def __init__(self, chain: Path, key: Path, client_ca: Path | None = None) -> None:
        self._chain = chain
        self._key = key
        self._seen = self._looks()
        self.client_ca = None if client_ca is None else _read(client_ca)
        # Every handshake begins with the first context and shows what the newest has. Were renewed
        # files loaded into the first, it would have the old certificate beside one of another kind
        # of key, and show some clients that.
        self.context, self.pem = self._made()
        self._newest = self.context
        self.context.sni_callback = self._show
        self._warn()

    @classmethod
    def of(cls, settings: Settings) -> Certificates | None:
        """Return those that the settings name; None without.

        Raises:
            StartError: One is named without the other, or cannot be used.
        """
        chain, key, client_ca = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
        if chain is not None and key is not None:
            return cls(chain, key, client_ca)
        if chain is not None or key is not None:
            raise StartError(
                "GPUSQ_TLS_CERTIFICATE and GPUSQ_TLS_KEY belong together, one is missing. Set "
                "both, or neither."
            )
        if client_ca is not None:
            raise StartError(
                "GPUSQ_TLS_CLIENT_CA asks clients for certificates, which needs TLS. Set "
                "GPUSQ_TLS_CERTIFICATE and GPUSQ_TLS_KEY too."
            )
        return None

    def refresh(self) -> None:
        """Take up renewed files; where they cannot be used, those of before stay."""
        looks = self._looks()
        if looks == self._seen:
            return
        self._seen = looks
        if (fault := self._take_up()) is not None:
            logger.error("%s The certificate of before stays.", fault)
            return
        logger.info("took up the certificate in %s", self._chain)
        self._warn()

    def _take_up(self) -> Exception | None:
        try:
            self._newest, self.pem = self._made()
        except (StartError, OSError) as error:
            return error
        return None

    def _made(self) -> tuple[ssl.SSLContext, Pem]:
        pem = self._read()
        made = _context(self._chain, self._key)
        if self._read() != pem:
            # One may be of before and one of after.
            raise StartError(f"{self._chain} and {self._key} are being replaced. Try again.")
        if self.client_ca is not None:
            _ask_for_certificates(made, self.client_ca)
        return made, pem

    def _read(self) -> Pem:
        return Pem(_read(self._chain), _read(self._key))

    def _show(self, shaking: ssl.SSLObject, _name: str, _first: ssl.SSLContext) -> None:
        shaking.context = self._newest

    async def watch(self) -> None:
        """Follow the files until cancelled."""
        while True:
            await asyncio.sleep(_CHECK_S)
            await asyncio.to_thread(self.refresh)

    def _looks(self) -> tuple[Look | None, Look | None]:
        return _look(self._chain), _look(self._key)

    def _warn(self) -> None:
        if said := _dates(self._chain, self._key):
            logger.warning("%s", said)
        if files.is_open(self._key):
            logger.warning(
                "the key in %s can be read by everyone on this machine. Take that away: chmod o-rw",
                self._key,
            )


def _look(path: Path) -> Look | None:
    try:
        return files.look(path)
    except OSError:
        return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartError(f"cannot read {path}: {error.strerror}.") from error


def _context(chain: Path, key: Path) -> ssl.SSLContext:
    for path in (chain, key):
        # OpenSSL would not say which of the two is missing.
        _read(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # With an empty passphrase it does not ask for one at the terminal.
        context.load_cert_chain(chain, key, password="")
    except (ssl.SSLError, ValueError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise StartError(
                f"the key in {key} does not belong to the certificate in {chain}. Name the two "
                "that were made together."
            ) from error
        raise StartError(
            f"expected a certificate in {chain} and its key without a passphrase in {key}, both "
            f"PEM; OpenSSL says: {getattr(error, 'reason', None) or error}."
        ) from error
    return context


def _ask_for_certificates(context: ssl.SSLContext, client_ca: bytes) -> None:
    try:
        # What stands between certificates may be in any language.
        context.load_verify_locations(cadata=client_ca.decode("ascii", "ignore"))
    except ssl.SSLError as error:
        raise StartError(
            "expected certificates in GPUSQ_TLS_CLIENT_CA, in PEM, got none."
        ) from error
    context.verify_mode = ssl.CERT_REQUIRED


def _dates(chain: Path, key: Path) -> str | None:
    """Say of a certificate that clients will refuse it for its dates, or will so soon.

    The standard library reads dates only of a certificate that a server shows, so one does.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        client.load_verify_locations(chain)
        shown = _shown(client, _context(chain, key))
    except ssl.SSLError as error:
        why = _DATES.get(getattr(error, "verify_code", 0))
        return why and f"the certificate in {chain} {why}; clients will refuse it. Renew it."
    except (StartError, OSError):
        # Replaced just now: the next look will see it.
        return None
    ends_s = ssl.cert_time_to_seconds(str(shown["notAfter"]))
    if ends_s - time.time() > _SOON_S:
        return None
    return f"the certificate in {chain} expires on {shown['notAfter']}. Renew it before."


def _shown(client: ssl.SSLContext, server: ssl.SSLContext) -> dict[str, object]:
    """Shake hands in memory and return the server's certificate."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True)
    for _ in range(_STEPS):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return dict(ends[0].getpeercert() or {})
