"""A service with a certificate that few know."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

import gpusq
from tests.gpusq.asking import KINDS, Asker
from tests.gpusq.scripted import Scripted, running


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def script(authority: trustme.CA) -> Iterator[Scripted]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with running(context) as script:
        yield script


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_of_an_authority_that_is_named_is_taken(
    kind, script: Scripted, authority: trustme.CA, tmp_path: Path, monkeypatch
):
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))

    with Asker(kind, script.url) as client:
        assert client.classify(b"a picture").model == "deit-tiny"


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_of_another_is_refused_at_once(kind, script: Scripted):
    before = len(script.came)
    started = time.monotonic()

    with (
        Asker(kind, script.url, retries=20) as client,
        pytest.raises(gpusq.ConnectionFailedError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        client.classify(b"a picture")

    # Twenty waits would take most of a minute.
    assert time.monotonic() - started < 5
    assert len(script.came) == before
