"""Whether a consumer's pod is to come back: how many its StatefulSet wants, asked of Kubernetes."""

import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

from shared.errors import Misconfigured, Transient

_CREDENTIALS: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_S: Final = 3


@dataclass(frozen=True, slots=True)
class KubernetesApi:
    """Where the API is, and what a pod's service account may show it."""

    url: str
    namespace: str
    token: str
    ca_file: Path | None


def in_cluster(
    environment: Mapping[str, str] = os.environ, credentials: Path = _CREDENTIALS
) -> KubernetesApi:
    """Return the API as a pod sees it.

    Raises:
        Misconfigured: this is not a pod, or it has no token.
    """
    try:
        host, port = (environment[f"KUBERNETES_SERVICE_{name}"] for name in ("HOST", "PORT"))
        namespace = (credentials / "namespace").read_text("utf-8").strip()
        token = (credentials / "token").read_text("utf-8").strip()
    except (KeyError, OSError) as error:
        raise Misconfigured(
            f"This is no pod with a service account's token ({error}); run it as the consumers' "
            "preStop hook, with leaveWhenScaledDown."
        ) from error
    bracketed = f"[{host}]" if ":" in host else host
    return KubernetesApi(f"https://{bracketed}:{port}", namespace, token, credentials / "ca.crt")


def replicas_wanted(statefulset: str, api: KubernetesApi) -> int:
    """Return how many pods a StatefulSet is to have; none where it is deleted.

    Raises:
        Misconfigured: the API does not let us ask.
        Transient: it does not answer.
    """
    path = f"/apis/apps/v1/namespaces/{api.namespace}/statefulsets/{statefulset}/scale"
    request = urllib.request.Request(  # noqa: S310 - the address is the cluster's
        api.url + path, headers={"Authorization": f"Bearer {api.token}"}
    )
    context = ssl.create_default_context(cafile=api.ca_file) if api.ca_file else None
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=context) as answer:  # noqa: S310
            return int(json.load(answer)["spec"].get("replicas", 0))
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.NOT_FOUND:
            return 0
        if error.code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise Misconfigured(
                f"Kubernetes answers {error.code}; let the service account get the scale of "
                f"StatefulSet {statefulset}."
            ) from error
        raise Transient(f"Kubernetes answers {error.code}.") from error
    except OSError as error:
        raise Transient(f"Kubernetes does not answer ({type(error).__name__}).") from error


def is_scaled_away(pod: str, replicas: int) -> bool:
    """Say whether `pod` is not among the first `replicas` of its StatefulSet.

    Raises:
        Misconfigured: its name has no ordinal.
    """
    ordinal = pod.rpartition("-")[2]
    if not ordinal.isdecimal():
        raise Misconfigured(f"{pod} is not the name of a StatefulSet's pod.")
    return int(ordinal) >= replicas
