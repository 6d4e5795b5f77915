"""Certificates: which end the start, which are warned of, and that a renewed one is shown."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import httpx
import pytest
import trustme
import uvicorn
from cryptography.hazmat.primitives import serialization

from service import __main__ as command
from service.app import create_app
from service.errors import StartError
from service.security.tls import Certificates, Pem
from service.settings import Settings
from tests.service.fakes import FakeExecutor

HOST = "127.0.0.1"


class Files:
    """A certificate and its key, which can be replaced."""

    def __init__(self, folder: Path) -> None:
        self.chain = folder / "chain.pem"
        self.key = folder / "key.pem"

    def write(self, made: trustme.LeafCert) -> None:
        self.key.write_bytes(made.private_key_pem.bytes())
        self.key.chmod(0o600)
        self.chain.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def first(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert(HOST)


@pytest.fixture(scope="module")
def second(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert(HOST)


@pytest.fixture
def files(tmp_path: Path, first: trustme.LeafCert) -> Files:
    made = Files(tmp_path)
    made.write(first)
    return made


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def shown(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[bytes, str]:
    """Shake hands; return the server's certificate and the protocol."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(down, up, server_hostname=HOST)
    far = server.wrap_bio(up, down, server_side=True)
    for _ in range(4):
        for end in (near, far):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return near.getpeercert(binary_form=True), near.version()


def pem(made: trustme.LeafCert) -> Pem:
    chain = b"".join(one.bytes() for one in made.cert_chain_pems)
    return Pem(chain, made.private_key_pem.bytes())


def der(made: trustme.LeafCert) -> bytes:
    return ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode())


def test_without_the_settings_there_is_no_tls():
    assert Certificates.of(Settings()) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tls_certificate": "a.pem"}, "belong together"),
        ({"tls_key": "a.pem"}, "belong together"),
        ({"tls_client_ca": "a.pem"}, "needs TLS"),
    ],
)
def test_half_of_the_settings_ends_the_start(given: dict[str, str], said: str):
    with pytest.raises(StartError, match=said):
        Certificates.of(Settings(**given))


def test_a_certificate_of_another_key_ends_the_start(files: Files, second: trustme.LeafCert):
    files.key.write_bytes(second.private_key_pem.bytes())

    with pytest.raises(StartError, match=r"key\.pem does not belong to .*chain\.pem"):
        Certificates(files.chain, files.key)


@pytest.mark.parametrize("name", ["chain", "key"])
def test_a_file_that_is_missing_is_named(files: Files, name: str):
    getattr(files, name).unlink()

    with pytest.raises(StartError, match=rf"cannot read .*{name}\.pem: No such file"):
        Certificates(files.chain, files.key)


@pytest.mark.parametrize("name", ["chain", "key"])
def test_a_file_of_another_form_ends_the_start(files: Files, name: str):
    getattr(files, name).write_text("nothing")

    with pytest.raises(StartError, match="expected a certificate in"):
        Certificates(files.chain, files.key)


def test_a_key_with_a_passphrase_ends_the_start_and_asks_nobody(files: Files):
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    locked = key.private_bytes(*form, serialization.BestAvailableEncryption(b"x"))
    files.key.write_bytes(locked)

    with pytest.raises(StartError, match="without a passphrase"):
        Certificates(files.chain, files.key)


def test_authorities_of_clients_that_are_none_end_the_start(files: Files, tmp_path: Path):
    (tmp_path / "ca.pem").write_text("nothing")

    with pytest.raises(StartError, match="expected certificates in"):
        Certificates(files.chain, files.key, tmp_path / "ca.pem")


@pytest.mark.parametrize(("days", "said"), [(-1, "has expired"), (3, "expires on"), (30, None)])
def test_a_certificate_that_ends_is_warned_of(
    files: Files, authority: trustme.CA, caplog, days: int, said: str | None
):
    ends = datetime.now(timezone.utc) + timedelta(days=days)
    begins = ends - timedelta(days=40)
    files.write(authority.issue_cert(HOST, not_before=begins, not_after=ends))

    Certificates(files.chain, files.key)

    assert (said or "") in caplog.text
    assert bool(caplog.records) == (said is not None)


def test_a_key_that_everyone_may_read_is_warned_of(files: Files, caplog):
    files.key.chmod(0o644)

    Certificates(files.chain, files.key)

    assert "can be read by everyone" in caplog.text


def test_a_renewed_certificate_is_shown(
    files: Files, authority: trustme.CA, first: trustme.LeafCert, second: trustme.LeafCert
):
    certificates = Certificates(files.chain, files.key)
    client = trusting(authority)
    assert shown(certificates.context, client)[0] == der(first)
    files.write(second)

    certificates.refresh()

    assert shown(certificates.context, client)[0] == der(second)
    assert certificates.pem.key == second.private_key_pem.bytes()


@pytest.mark.parametrize("kinds", [("ECDSA", "RSA"), ("RSA", "ECDSA")])
def test_a_renewed_certificate_of_another_kind_of_key_is_shown_alone(
    files: Files, authority: trustme.CA, kinds: tuple[str, str]
):
    old, new = (authority.issue_cert(HOST, key_type=trustme.KeyType[kind]) for kind in kinds)
    files.write(old)
    certificates = Certificates(files.chain, files.key)
    files.write(new)

    certificates.refresh()

    assert shown(certificates.context, trusting(authority))[0] == der(new)
    # As clients do that know no other kind.
    client = trusting(authority)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(f"ECDHE+AESGCM+a{kinds[0]}")
    with pytest.raises(ssl.SSLError):
        shown(certificates.context, client)


def test_clients_need_a_certificate_after_a_renewal_too(
    files: Files, authority: trustme.CA, second: trustme.LeafCert, tmp_path: Path
):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificates = Certificates(files.chain, files.key, tmp_path / "ca.pem")
    files.write(second)
    certificates.refresh()
    known, other = trusting(authority), trusting(authority)
    authority.issue_cert("somebody").configure_cert(known)
    trustme.CA().issue_cert("somebody").configure_cert(other)

    assert shown(certificates.context, known)[0] == der(second)
    for client in (other, trusting(authority)):
        with pytest.raises(ssl.SSLError):
            shown(certificates.context, client)


def test_files_that_are_replaced_while_they_are_read_hurt_nothing(
    files: Files, authority: trustme.CA
):
    certificates = Certificates(files.chain, files.key)
    # Each once, so that no mixture of two comes twice.
    renewed = [authority.issue_cert(HOST) for _ in range(150)]
    pairs = [certificates.pem, *map(pem, renewed)]

    def renew() -> None:
        for made in renewed:
            files.write(made)
            time.sleep(0.002)

    renewing = threading.Thread(target=renew)
    renewing.start()
    while renewing.is_alive():
        certificates.refresh()
        assert certificates.pem in pairs
    renewing.join()
    certificates.refresh()

    assert shown(certificates.context, trusting(authority))[0] == der(renewed[-1])


def test_half_a_renewal_changes_nothing(
    files: Files, authority: trustme.CA, first: trustme.LeafCert, second: trustme.LeafCert, caplog
):
    certificates = Certificates(files.chain, files.key)
    files.key.write_bytes(second.private_key_pem.bytes())

    for _ in range(3):
        certificates.refresh()

    assert caplog.text.count("The certificate of before stays") == 1
    assert shown(certificates.context, trusting(authority))[0] == der(first)
    assert certificates.pem.key == first.private_key_pem.bytes()
    files.write(second)
    certificates.refresh()
    assert shown(certificates.context, trusting(authority))[0] == der(second)


def test_tls_older_than_1_2_is_not_spoken(files: Files, authority: trustme.CA):
    server = Certificates(files.chain, files.key).context
    client = trusting(authority)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shown(server, client)[1] == "TLSv1.2"
    # Deprecated, and so warned of, by the library itself.
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1

    with pytest.raises(ssl.SSLError):
        shown(server, client)


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA, first: trustme.LeafCert
) -> Iterator[str]:
    """A server that asks clients for certificates, as the command sets it up; its address."""
    folder = tmp_path_factory.mktemp("tls")
    files = Files(folder)
    files.write(first)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    settings = Settings(
        port=0,
        deadline_s=30,
        tls_certificate=files.chain,
        tls_key=files.key,
        tls_client_ca=folder / "ca.pem",
    )
    server = uvicorn.Server(command.configured(create_app(settings, FakeExecutor()), settings))
    thread = threading.Thread(target=server.run, args=([socket.create_server((HOST, 0))],))
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.005)
    yield f"https://{HOST}:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_pictures_are_answered_over_tls(
    running: str, authority: trustme.CA, second: trustme.LeafCert, red_jpeg: bytes
):
    client = trusting(authority)
    second.configure_cert(client)

    answer = httpx.post(
        f"{running}/v1/classify",
        content=red_jpeg,
        headers={"Content-Type": "image/jpeg"},
        verify=client,
    )

    assert answer.json()["predictions"][0]["label"] == "red"
    assert answer.headers["strict-transport-security"] == "max-age=2592000"


def test_a_client_without_a_certificate_is_not_answered(running: str, authority: trustme.CA):
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{running}/healthz", verify=trusting(authority))


def test_a_client_of_another_authority_is_not_answered(running: str, authority: trustme.CA):
    client = trusting(authority)
    trustme.CA().issue_cert("somebody").configure_cert(client)

    with pytest.raises(httpx.TransportError):
        httpx.get(f"{running}/healthz", verify=client)


def test_nothing_is_answered_without_tls(running: str):
    port = int(running.rpartition(":")[2])
    with socket.create_connection((HOST, port), 5) as sent:
        sent.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")

        assert b"HTTP" not in sent.recv(100)
