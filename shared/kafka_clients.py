"""Options that every aiokafka client of ours shares: addresses, TLS, SASL, time-outs."""

import ssl
from typing import Any

from aiokafka.helpers import create_ssl_context

from shared.errors import Misconfigured
from shared.settings import KafkaSettings


def client_options(kafka: KafkaSettings, client_id: str) -> dict[str, Any]:
    """Return keyword arguments for any aiokafka client.

    Raises:
        Misconfigured: a certificate or key file cannot be loaded.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "client_id": client_id,
        "request_timeout_ms": kafka.request_timeout_ms,
        "security_protocol": kafka.security_protocol,
    }
    if kafka.security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(kafka)
    if kafka.sasl_password is not None:
        options["sasl_mechanism"] = kafka.sasl_mechanism
        options["sasl_plain_username"] = kafka.sasl_username
        options["sasl_plain_password"] = kafka.sasl_password.get_secret_value()
    return options


def _ssl_context(kafka: KafkaSettings) -> ssl.SSLContext:
    try:
        context: ssl.SSLContext = create_ssl_context(
            cafile=kafka.ssl_ca_file, certfile=kafka.ssl_cert_file, keyfile=kafka.ssl_key_file
        )
    except OSError as error:  # ssl.SSLError is one too
        raise Misconfigured(
            f"Kafka's TLS files cannot be loaded ({error.strerror or error}); check ssl_ca_file, "
            "ssl_cert_file and ssl_key_file."
        ) from error
    return context
