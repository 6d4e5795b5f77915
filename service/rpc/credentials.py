"""What a gRPC server shows of itself over TLS: always the newest certificate."""

from __future__ import annotations

from typing import Any

import grpc

from service.security.tls import Certificates, Pem


def of(certificates: Certificates) -> Any:
    """Return credentials that follow the certificates as these are renewed."""

    def configured(pem: Pem) -> Any:
        return grpc.ssl_server_certificate_configuration(
            [(pem.key, pem.chain)], root_certificates=certificates.client_ca
        )

    taken = certificates.pem

    def newest() -> Any:
        """Say what to show in a handshake that begins; None for what was shown before."""
        nonlocal taken
        if certificates.pem is taken:
            return None
        taken = certificates.pem
        return configured(taken)

    return grpc.dynamic_ssl_server_credentials(
        configured(taken),
        newest,
        require_client_authentication=certificates.client_ca is not None,
    )
