"""Renew `jars.lock`: let Maven say what a Kafka broker is made of. Needs `mvn`."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.local.jars import LOCK_FILE, Jar

KAFKA = "4.3.1"
LOG4J = "2.25.4"  # the version that this Kafka depends on

_POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tidemark</groupId><artifactId>broker</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
      <version>{KAFKA}</version>
    </dependency>
    <dependency><!-- without it the broker logs nothing -->
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOG4J}</version>
    </dependency>
  </dependencies>
</project>
"""

_HEADER = """\
# The jars of the local broker: Apache Kafka, its runtime dependencies, a log4j 2 binding.
# Written by `make lock`.
"""


def main() -> int:
    """Write the lock file anew."""
    mvn = shutil.which("mvn")
    if mvn is None:
        print("Maven (mvn) is not installed: jars.lock stays as it is.", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "pom.xml").write_text(_POM, encoding="utf-8")
        subprocess.run(
            [
                mvn,
                "--quiet",
                "--batch-mode",
                "dependency:copy-dependencies",
                "-DincludeScope=runtime",
                "-DoutputDirectory=jars",
                "-Dmdep.useRepositoryLayout=true",
            ],
            cwd=directory,
            check=True,
        )
        jars = sorted(_jar(path, directory / "jars") for path in directory.rglob("*.jar"))
    lines = "".join(f"{jar}\n" for jar in jars)
    LOCK_FILE.write_text(_HEADER + lines, encoding="utf-8")
    print(f"{LOCK_FILE.name}: {len(jars)} jars")
    return 0


def _jar(path: Path, repository: Path) -> Jar:
    *group, artifact, version, _ = path.relative_to(repository).parts
    return Jar(".".join(group), artifact, version, hashlib.sha256(path.read_bytes()).hexdigest())


if __name__ == "__main__":
    sys.exit(main())
