"""The two services as processes of a stack."""

import http.client
import sys
from collections.abc import Mapping
from functools import partial

from deploy.local import credentials
from deploy.local.layout import CHECKOUT, Layout
from deploy.local.ports import HOST, Plan
from deploy.local.processes import Daemon

GROUP = "tidemark-consumer"
PEERS = "TIDEMARK_TELEMETRY__PEERS"


def ingest_api(
    layout: Layout, plan: Plan, topic: str, extra: Mapping[str, str] | None = None
) -> Daemon:
    """Describe the HTTP service."""
    env = {
        **_kafka(plan, topic),
        **credentials.variables(),
        "TIDEMARK_LISTEN__HOST": HOST,
        "TIDEMARK_LISTEN__PORT": str(plan.ingest),
    }
    return _service(layout, "ingest-api", "ingest_api", plan.ingest, {**env, **(extra or {})})


def consumer(
    layout: Layout, plan: Plan, number: int, topic: str, extra: Mapping[str, str] | None = None
) -> Daemon:
    """Describe one consumer; the first has number 1."""
    port = plan.status[number - 1]
    env = {
        **_kafka(plan, topic),
        "TIDEMARK_SHARD_MAP_FILE": str(layout.shard_map),
        "TIDEMARK_GROUP__ID": GROUP,
        # A name of its own: a consumer that restarts gets the same partitions back.
        "TIDEMARK_GROUP__INSTANCE_ID": instance_id(number),
        "TIDEMARK_LISTEN__HOST": HOST,
        "TIDEMARK_LISTEN__PORT": str(port),
        PEERS: ",".join(f"http://{HOST}:{other}" for other in plan.status if other != port),
    }
    return _service(layout, instance_id(number), "consumer", port, {**env, **(extra or {})})


def instance_id(number: int) -> str:
    """Return the name of a consumer in its group."""
    return f"consumer-{number}"


def is_ready(port: int) -> bool:
    """Ask a service whether it is ready for its work."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _service(
    layout: Layout, name: str, module: str, port: int, variables: Mapping[str, str]
) -> Daemon:
    return Daemon(
        name=name,
        argv=[sys.executable, "-m", module],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **variables},
        cwd=CHECKOUT,
        address=f"http://{HOST}:{port}",
        pid_file=layout.pid_file(name),
        log_file=layout.log_file(name),
        probe=partial(is_ready, port),
    )


def _kafka(plan: Plan, topic: str) -> dict[str, str]:
    return {
        "TIDEMARK_KAFKA__BOOTSTRAP_SERVERS": plan.bootstrap_servers,
        "TIDEMARK_KAFKA__TOPIC": topic,
    }
