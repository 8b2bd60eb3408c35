"""The figures as a page for Prometheus, through OpenTelemetry's own exporter.

    from outbox.metrics.prometheus import serve

    with serve(outbox):     # http://127.0.0.1:9464/metrics

It uses the exporter rather than `prometheus_client` alone, so there is one set of instruments, and a bot that moves to
an OpenTelemetry collector later keeps its names, rules and dashboards. Needs the extra `prometheus`.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self
from wsgiref.simple_server import WSGIServer

try:
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.sdk.metrics import MeterProvider
    from prometheus_client import CollectorRegistry, start_http_server
except ModuleNotFoundError as _missing:
    hint = (
        "outbox.metrics.prometheus needs the extra `prometheus` of durable-outbox:"
        " python3 -m pip install --pre opentelemetry-exporter-prometheus"
    )
    raise ModuleNotFoundError(hint, name=_missing.name) from _missing

from outbox.errors import ConfigError
from outbox.metrics import instrument
from outbox.outbox import Outbox

# OpenTelemetry's own choice for this exporter.
_PORT = 9464


class Endpoint:
    """The page while it is served, in its own threads. A context manager; `close` ends it."""

    def __init__(self, server: WSGIServer, thread: threading.Thread, provider: MeterProvider) -> None:
        self._server = server
        self._thread = thread
        self._provider = provider

    @property
    def url(self) -> str:
        """Where Prometheus finds it."""
        host, port = self._server.server_address[:2]
        name = host if isinstance(host, str) else host.decode()
        return f"http://{f'[{name}]' if ':' in name else name}:{port}/metrics"

    def close(self) -> None:
        """Stop serving and free the port. Idempotent."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._provider.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(*outboxes: Outbox, port: int = _PORT, host: str = "127.0.0.1", name: str | None = None) -> Endpoint:
    """Serve the figures of `outboxes` until the result is closed; its `url` says where.

    The figures name files and tables, and contain neither payloads nor keys.

    Args:
        *outboxes: Open outboxes.
        port: 0 is any that is free.
        host: The loopback, so that nobody on another machine reads them; a Prometheus elsewhere needs "0.0.0.0" here
            and a firewall.
        name: The label `outbox_name` instead of OUTBOX_SOURCE, if there is one outbox; several have a source each.

    Raises:
        ConfigError: One name for several outboxes; the address is taken or no address of this machine.
    """
    if name is not None and len(outboxes) > 1:
        raise ConfigError("belongs to one outbox; give each of several its OUTBOX_SOURCE", field="name")
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(registry=registry)
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    for outbox in outboxes:
        instrument(outbox, provider, name=name)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        provider.shutdown()
        raise ConfigError(f"{host}:{port} cannot be served: {error.strerror}", field="port") from error
    return Endpoint(server, thread, provider)
