"""Whether a pod is to come back, asked of an API that answers as Kubernetes does."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from typer.testing import CliRunner

from operator_cli import scaling
from operator_cli.main import app
from operator_cli.scaling import KubernetesApi, in_cluster, is_scaled_away, replicas_wanted
from shared.errors import Misconfigured, Transient

PATH = "/apis/apps/v1/namespaces/production/statefulsets/tidemark-consumer/scale"


def scale_of(replicas: int) -> dict[str, Any]:
    """A Scale as the API answers it; it leaves out a number that is 0."""
    scale = {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {"name": "tidemark-consumer", "namespace": "production"},
        "spec": {"replicas": replicas} if replicas else {},
        "status": {"replicas": 3, "selector": "app.kubernetes.io/component=consumer"},
    }
    kubernetes_validate.validate(scale, "1.37", strict=True)
    return scale


@contextmanager
def answering(status: int, body: object = None) -> Iterator[KubernetesApi]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers["Authorization"] == "Bearer t0ken" and self.path == PATH
            self.send_response(status if allowed else 418)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield KubernetesApi(
            f"http://127.0.0.1:{server.server_port}", "production", "t0ken", ca_file=None
        )
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("replicas", [0, 1, 720])
def test_the_number_of_pods_wanted_is_read_from_the_scale(replicas: int) -> None:
    with answering(200, scale_of(replicas)) as api:
        assert replicas_wanted("tidemark-consumer", api) == replicas


def test_of_a_set_that_is_deleted_no_pods_are_wanted() -> None:
    with answering(404) as api:
        assert replicas_wanted("tidemark-consumer", api) == 0


def test_a_missing_grant_is_for_a_human_and_an_error_is_not() -> None:
    with answering(403) as api, pytest.raises(Misconfigured, match="let the service account get"):
        replicas_wanted("tidemark-consumer", api)
    with answering(500) as api, pytest.raises(Transient, match="answers 500"):
        replicas_wanted("tidemark-consumer", api)
    with pytest.raises(Transient, match="does not answer"):
        replicas_wanted("tidemark-consumer", api)


@pytest.mark.parametrize(
    ("pod", "replicas", "away"),
    [("consumer-2", 3, False), ("consumer-3", 3, True), ("consumer-0", 0, True)],
)
def test_a_pod_is_scaled_away_when_its_ordinal_is_not_below_the_number_wanted(
    pod: str, replicas: int, *, away: bool
) -> None:
    assert is_scaled_away(pod, replicas) is away


def test_the_api_is_found_as_a_pod_finds_it(tmp_path: Path) -> None:
    (tmp_path / "namespace").write_text("production")
    (tmp_path / "token").write_text("t0ken\n")

    api = in_cluster(
        {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}, tmp_path
    )

    assert api == KubernetesApi("https://[fd00::1]:443", "production", "t0ken", tmp_path / "ca.crt")


def test_outside_of_a_pod_it_says_so() -> None:
    with pytest.raises(Misconfigured, match="no pod with a service account's token"):
        in_cluster({}, Path("/nowhere"))


@pytest.mark.parametrize(("pod", "signals"), [("consumer-2", 0), ("consumer-3", 1)])
def test_before_it_stops_a_pod_that_is_scaled_away_tells_its_consumer_to_leave(
    monkeypatch: pytest.MonkeyPatch, pod: str, signals: int
) -> None:
    received: list[int] = []
    previous = signal.signal(signal.SIGUSR1, lambda number, _frame: received.append(number))
    try:
        with answering(200, scale_of(3)) as api:
            monkeypatch.setattr(scaling, "in_cluster", lambda: api)
            arguments = ["pre-stop", "tidemark-consumer", "--pod", pod, "--pid", str(os.getpid())]
            result = CliRunner().invoke(app, arguments)
    finally:
        signal.signal(signal.SIGUSR1, previous)

    assert result.exit_code == 0, result.output
    assert len(received) == signals
