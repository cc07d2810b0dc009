"""The few calls of Nomad's HTTP API that a deployment and the scaler need."""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

_TIMEOUT_S = 10


class NomadError(Exception):
    """Nomad refused a call or didn't answer; the message has its words."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Nomad:
    """Nomad at NOMAD_ADDR, with NOMAD_TOKEN where there is one. Every method may raise NomadError."""

    def __init__(
        self,
        address: str | None = None,
        token: str | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        query: Mapping[str, str] | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self._address = (address or os.environ.get("NOMAD_ADDR", "http://127.0.0.1:4646")).rstrip("/")
        self._token = os.environ.get("NOMAD_TOKEN", "") if token is None else token
        self._tls = tls
        self._query = f"?{urlencode(query)}" if query else ""
        self._timeout_s = timeout_s

    def parse(self, hcl: str, variables: str) -> dict[str, Any]:
        """The job that a file describes, by Nomad's own parser."""
        return self._call("POST", "/v1/jobs/parse", {"JobHCL": hcl, "Variables": variables, "Canonicalize": True})

    def job(self, job_id: str) -> dict[str, Any] | None:
        """The job as it is registered; None when there is none."""
        try:
            return self._call("GET", f"/v1/job/{job_id}")
        except NomadError as error:
            if error.status == 404:
                return None
            raise

    def register(self, job: dict[str, Any], over: int) -> int:
        """Register a job in the place of that with modify index ``over`` (0: of none); its own modify index.

        Counts stay as they have been scaled. Refused when somebody else has changed the job meanwhile.
        """
        body = {"Job": job, "EnforceIndex": True, "JobModifyIndex": over, "PreserveCounts": True}
        return int(self._call("POST", "/v1/jobs", body)["JobModifyIndex"])

    def deployment_of(self, job_id: str, spec_index: int) -> dict[str, Any] | None:
        """The deployment of the job as it was registered at ``spec_index``; None while there is none."""
        return next((each for each in self.deployments(job_id) if each["JobSpecModifyIndex"] == spec_index), None)

    def deployment(self, deployment_id: str) -> dict[str, Any]:
        """One deployment as it is now."""
        found: dict[str, Any] = self._call("GET", f"/v1/deployment/{deployment_id}")
        return found

    def fail(self, deployment_id: str) -> None:
        """End a deployment; with auto_revert Nomad goes back to the last stable version."""
        self._call("POST", f"/v1/deployment/fail/{deployment_id}", {})

    def revert(self, job_id: str, version: int) -> None:
        """Back to a version; without effect where the job is already what it was then."""
        self._call("POST", f"/v1/job/{job_id}/revert", {"JobID": job_id, "JobVersion": version})

    def dispatch(self, job_id: str, meta: dict[str, str]) -> str:
        """Run a parameterised job once; the id of that run."""
        return str(self._call("POST", f"/v1/job/{job_id}/dispatch", {"Meta": meta})["DispatchedJobID"])

    def allocations(self, job_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._call("GET", f"/v1/job/{job_id}/allocations")
        return found

    def deployments(self, job_id: str) -> list[dict[str, Any]]:
        """Those that Nomad still knows of."""
        found: list[dict[str, Any]] = self._call("GET", f"/v1/job/{job_id}/deployments")
        return found

    def scale_status(self, job_id: str) -> dict[str, Any]:
        """``JobModifyIndex``, ``JobStopped`` and, in ``TaskGroups``, what is desired and what runs."""
        found: dict[str, Any] = self._call("GET", f"/v1/job/{job_id}/scale")
        return found

    def scale(self, job_id: str, group: str, count: int, over: int, message: str, meta: Mapping[str, Any]) -> None:
        """Have ``count`` of a group, unless the job has changed since modify index ``over``.

        An older Nomad doesn't look at the index. Refused with 400 outside of the scaling block's limits, and
        while a deployment of the job is active.
        """
        body = {"Count": count, "Target": {"Group": group}, "Message": message, "Meta": meta, "JobModifyIndex": over}
        self._call("POST", f"/v1/job/{job_id}/scale", body)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self._address + path + self._query,
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"X-Nomad-Token": self._token, "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(  # nosec B310: the operator's own Nomad
                request, timeout=self._timeout_s, context=self._tls
            ) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            words = error.read(1000).decode(errors="replace").strip()
            raise NomadError(f"{method} {path}: {error.code} {words}", error.code) from error
        except (OSError, ValueError) as error:
            raise NomadError(f"{method} {path}: {error}") from error
