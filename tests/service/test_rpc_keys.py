"""API keys and TLS over gRPC: a real server on the loopback."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.app import create_app
from service.rpc.gpusq.v1 import vision_pb2 as messages
from service.rpc.guard import scope_of
from service.security.keys import Scope
from service.settings import Settings
from tests.conftest import Serve
from tests.service.fakes import FakeExecutor
from tests.service.keyring import Keyring

Metadata = tuple[tuple[str, str], ...]


class Served:
    """A gateway that asks for keys, over both transports."""

    def __init__(self, client: httpx.Client, channel: grpc.Channel, keyring: Keyring) -> None:
        self.client = client
        self.channel = channel
        self.bearer = keyring.metadata

    def classify(self, image: bytes, metadata: Metadata = (), model: str = "") -> str:
        request = messages.ClassifyRequest(image=image, model=model)
        method = unary(self.channel, "/gpusq.v1.Vision/Classify", messages.ClassifyResponse)
        return method(request, metadata=metadata, timeout=10).predictions[0].label

    def list_models(self, metadata: Metadata = ()) -> Any:
        method = unary(self.channel, "/gpusq.v1.Vision/ListModels", messages.ListModelsResponse)
        return method(messages.ListModelsRequest(), metadata=metadata, timeout=10)

    def counts(self) -> str:
        return self.client.get("/metrics").text

    def admitted(self, name: str) -> float:
        series = f'gpusq_key_requests_total{{key="{name}",outcome="admitted"}}'
        found = re.search(rf"^{re.escape(series)} (\S+)", self.counts(), re.MULTILINE)
        return float(found[1]) if found else 0.0


def unary(channel: grpc.Channel, method: str, response: Any) -> Any:
    return channel.unary_unary(method, lambda m: m.SerializeToString(), response.FromString)


def refused(status: grpc.StatusCode, code: str, call: Any, *arguments: Any) -> dict[str, str]:
    """Check how a call is refused, and return what came at its end."""
    with pytest.raises(grpc.RpcError) as raised:
        call(*arguments)
    assert raised.value.code() is status
    trailing = dict(raised.value.trailing_metadata() or ())
    assert trailing["x-error-code"] == code
    return trailing


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        # What gRPC takes over has to be shareable until then.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        yield listener


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, serve: Serve) -> Iterator[Served]:
    keyring = Keyring(tmp_path_factory.mktemp("keys") / "keys.json")
    keyring.add("ann")
    keyring.add("some", models=["colours"], quota=2)
    keyring.add("limited", rate=0.001)
    keyring.add("lister", scopes=["models"])
    keyring.add("spent", quota=1)
    keyring.add("both", quota=1)
    settings = Settings(api_keys=keyring.path, deadline_s=30)
    executor = FakeExecutor(models=("colours", "more"))
    with listening() as listener:
        app = create_app(settings, executor, listener)
        with serve(app) as client, grpc.insecure_channel(app.state.rpc.address) as channel:
            yield Served(client, channel, keyring)


def test_a_key_comes_in_the_metadata(served: Served, red_jpeg: bytes):
    assert served.classify(red_jpeg, served.bearer("ann")) == "red"
    ((_, bearer),) = served.bearer("ann")
    assert served.classify(red_jpeg, (("x-api-key", bearer.removeprefix("Bearer ")),)) == "red"
    assert 'key_requests_total{key="ann",outcome="admitted"}' in served.counts()


@pytest.mark.parametrize(
    "metadata",
    [(), (("authorization", "Bearer guess"),), (("authorization", "Basic YTpi"),)],
)
def test_without_a_valid_key_nothing_is_answered(served: Served, metadata: Metadata):
    unauthenticated = grpc.StatusCode.UNAUTHENTICATED

    refused(unauthenticated, "unauthenticated", served.classify, b"", metadata)
    refused(unauthenticated, "unauthenticated", served.list_models, metadata)
    assert 'requests_total{model="colours",outcome="unauthenticated"' in served.counts()


def test_a_wrong_key_is_refused_before_its_message_comes(served: Served):
    silent = threading.Event()

    def nothing() -> Iterator[bytes]:
        silent.wait(10)
        yield from ()

    call = served.channel.stream_unary("/gpusq.v1.Vision/Classify").future(nothing(), timeout=10)

    assert call.code() is grpc.StatusCode.UNAUTHENTICATED
    silent.set()


def test_a_key_is_for_its_scopes_only(served: Served):
    assert len(served.list_models(served.bearer("lister")).models) == 2
    denied = grpc.StatusCode.PERMISSION_DENIED
    refused(denied, "forbidden", served.classify, b"", served.bearer("lister"))


def test_a_key_for_some_models_names_one_of_them(served: Served, red_jpeg: bytes):
    some, denied = served.bearer("some"), grpc.StatusCode.PERMISSION_DENIED
    for model in ("", "more", "none"):
        refused(denied, "forbidden", served.classify, red_jpeg, some, model)

    # What was refused took nothing from the quota of two.
    assert [served.classify(red_jpeg, some, "colours") for _ in range(2)] == ["red", "red"]
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    refused(exhausted, "quota_exceeded", served.classify, red_jpeg, some, "colours")
    assert served.list_models(some).models


def test_a_key_over_its_rate_or_quota_hears_when_to_come_back(served: Served, red_jpeg: bytes):
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    for name, code, most_s in (
        ("limited", "rate_limited", 1000),
        ("spent", "quota_exceeded", 86_400),
    ):
        served.classify(red_jpeg, served.bearer(name))

        trailing = refused(exhausted, code, served.classify, red_jpeg, served.bearer(name))

        assert 1 <= int(trailing["retry-after"]) <= most_s


def test_both_transports_count_on_one_quota(served: Served, red_jpeg: bytes):
    ((_, bearer),) = served.bearer("both")
    headers = {"Content-Type": "image/jpeg", "Authorization": bearer}
    answer = served.client.post("/v1/classify", content=red_jpeg, headers=headers)
    assert answer.status_code == 200

    refused(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "quota_exceeded",
        served.classify,
        red_jpeg,
        served.bearer("both"),
    )


def test_health_needs_no_key_and_reflection_does(served: Served):
    health = health_pb2_grpc.HealthStub(served.channel)
    reflection = reflection_pb2_grpc.ServerReflectionStub(served.channel)
    question = reflection_pb2.ServerReflectionRequest(list_services="")

    assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1
    with pytest.raises(grpc.RpcError) as raised:
        list(reflection.ServerReflectionInfo(iter((question,)), timeout=10))
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    before = served.admitted("some")
    for name in ("ann", "some", "lister"):
        (answer,) = reflection.ServerReflectionInfo(
            iter((question,)), metadata=served.bearer(name), timeout=10
        )
        assert "gpusq.v1.Vision" in str(answer)
    assert served.admitted("some") == before + 1


@pytest.mark.parametrize("method", ["/a.B/C", "/gpusq.v1.Vision/ClassifyNew", "/x/Health/Check"])
def test_a_method_that_is_new_is_closed(method: str):
    assert scope_of(method) is Scope.INFER


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return tmp_path / "chain.pem"


def write(chain: Path, made: trustme.LeafCert) -> None:
    key = chain.with_name("key.pem")
    key.write_bytes(made.private_key_pem.bytes())
    key.chmod(0o600)
    chain.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))


def healthy(address: str, **credentials: bytes) -> int:
    """Ask for health over TLS, on a connection of its own."""
    shown = grpc.ssl_channel_credentials(**credentials)
    with grpc.secure_channel(address, shown, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        request = health_pb2.HealthCheckRequest()
        status: int = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status
        return status


def test_grpc_shows_a_renewed_certificate_and_speaks_nothing_but_tls(serve: Serve, chain: Path):
    first, second = trustme.CA(), trustme.CA()
    write(chain, first.issue_cert("127.0.0.1"))
    settings = Settings(tls_certificate=chain, tls_key=chain.with_name("key.pem"))
    with listening() as listener:
        app = create_app(settings, FakeExecutor(), listener)
        with serve(app):
            address = app.state.rpc.address
            assert healthy(address, root_certificates=first.cert_pem.bytes()) == 1
            with grpc.insecure_channel(address) as plain, pytest.raises(grpc.RpcError):
                health_pb2_grpc.HealthStub(plain).Check(health_pb2.HealthCheckRequest(), timeout=5)
            write(chain, second.issue_cert("127.0.0.1"))
            app.state.access.certificates.refresh()

            assert healthy(address, root_certificates=second.cert_pem.bytes()) == 1
            with pytest.raises(grpc.RpcError):
                healthy(address, root_certificates=first.cert_pem.bytes())


def test_grpc_lets_in_only_clients_of_the_authority(serve: Serve, chain: Path):
    authority = trustme.CA()
    write(chain, authority.issue_cert("127.0.0.1"))
    authority.cert_pem.write_to_path(chain.with_name("ca.pem"))
    settings = Settings(
        tls_certificate=chain,
        tls_key=chain.with_name("key.pem"),
        tls_client_ca=chain.with_name("ca.pem"),
    )
    with listening() as listener:
        app = create_app(settings, FakeExecutor(), listener)
        with serve(app):
            address, root = app.state.rpc.address, authority.cert_pem.bytes()
            for issuer, lets_in in ((authority, True), (trustme.CA(), False)):
                made = issuer.issue_cert("client")
                own = {
                    "private_key": made.private_key_pem.bytes(),
                    "certificate_chain": made.cert_chain_pems[0].bytes(),
                }
                if lets_in:
                    assert healthy(address, root_certificates=root, **own) == 1
                else:
                    with pytest.raises(grpc.RpcError):
                        healthy(address, root_certificates=root, **own)
            with pytest.raises(grpc.RpcError):
                healthy(address, root_certificates=root)
