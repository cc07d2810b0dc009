"""A server that answers like Nomad's API, and refuses what Nomad refuses."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pygohcl

from scripts.nomad.jobs import FOLDER

TOKEN, OPERATORS_TOKEN = "of-the-pipeline", "of-an-operator"
_POLICIES = {TOKEN: "pipeline", OPERATORS_TOKEN: "operator"}

# Each call with the capabilities one of which Nomad demands for it.
_CALLS = (
    ("POST", r"/v1/jobs/parse", "parse", {"parse-job", "submit-job"}),
    ("POST", r"/v1/jobs", "register", {"submit-job"}),
    ("GET", r"/v1/job/([^/]+)", "job", {"read-job"}),
    ("GET", r"/v1/job/([^/]+)/deployments", "deployments_of", {"read-job"}),
    ("GET", r"/v1/job/(.+)/allocations", "allocations", {"read-job"}),
    ("GET", r"/v1/deployment/([^/]+)", "deployment", {"read-job"}),
    ("POST", r"/v1/deployment/fail/([^/]+)", "fail", {"submit-job"}),
    ("POST", r"/v1/job/([^/]+)/revert", "revert", {"submit-job"}),
    ("POST", r"/v1/job/([^/]+)/dispatch", "dispatch", {"dispatch-job"}),
)


class Refusal(Exception):
    """An answer that isn't 200."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Cluster:
    """Jobs, deployments and runs.

    ``outcomes`` says how a job's next deployment or run ends, ``running`` is never; after a deployment that isn't
    successful the versions that are reverted to are, unless ``reverts`` says otherwise. While there are
    ``answers_without_leader`` left, calls get nothing but those.
    """

    def __init__(self, outcomes: dict[str, str]) -> None:
        self.outcomes = outcomes
        self.reverts = "successful"
        self.answers_without_leader = 0
        self.jobs: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, list[dict[str, Any]]] = {}
        self.deployments: dict[str, list[dict[str, Any]]] = {}
        self.runs: dict[str, str] = {}
        self.calls: list[str] = []
        self._index = 100

    def parse(self, body: dict[str, Any]) -> dict[str, Any]:
        parsed = pygohcl.loads(body["JobHCL"], True)
        given = pygohcl.loads(body["Variables"])
        declared = parsed.get("variable", {}).keys()
        if undeclared := given.keys() - declared:
            raise Refusal(500, f"Undeclared variable: {', '.join(undeclared)}")
        if missing := declared - given.keys():
            raise Refusal(500, f"Unset variable: {', '.join(missing)}")
        ((name, job),) = parsed["job"].items()
        return {"ID": name, "Type": job["type"], "Parameterized": job.get("parameterized"), "Image": given["image"]}

    def register(self, body: dict[str, Any]) -> dict[str, Any]:
        job = body["Job"]
        present = self.jobs.get(job["ID"])
        if body["EnforceIndex"] and body["JobModifyIndex"] != (present["JobModifyIndex"] if present else 0):
            raise Refusal(500, f"Enforcing job modify index {body['JobModifyIndex']}: conflicting job modify index")
        assert body["PreserveCounts"]
        registered = self._put(job, self.outcomes.get(job["ID"], "successful"))
        return {"EvalID": "", "JobModifyIndex": registered["JobModifyIndex"]}

    def dispatch(self, job_id: str, body: dict[str, Any]) -> dict[str, Any]:
        parameters = self.job(job_id)["Parameterized"]
        if parameters is None:
            raise Refusal(500, "Specified job is not a parameterized job")
        if missing := set(parameters["meta_required"]) - body["Meta"].keys():
            raise Refusal(500, f"Dispatch did not provide required meta keys: {missing}")
        run = f"{job_id}/dispatch-{len(self.runs) + 1}"
        self.runs[run] = self.outcomes.get(job_id, "complete")
        return {"DispatchedJobID": run, "EvalID": ""}

    def allocations(self, run: str) -> list[dict[str, Any]]:
        return [{"ClientStatus": self.runs[run]}]

    def deployments_of(self, job_id: str) -> list[dict[str, Any]]:
        self.job(job_id)
        return self.deployments.get(job_id, [])

    def deployment(self, deployment_id: str) -> dict[str, Any]:
        for found in self.deployments.values():
            for deployment in found:
                if deployment["ID"] == deployment_id:
                    return deployment
        raise Refusal(404, "deployment not found")

    def fail(self, deployment_id: str, _body: Any) -> dict[str, Any]:
        deployment = self.deployment(deployment_id)
        if deployment["Status"] != "running":
            raise Refusal(500, "can't fail terminal deployment")
        self._failed(deployment, "Deployment marked as failed")
        return {}

    def revert(self, job_id: str, body: dict[str, Any]) -> dict[str, Any]:
        job, wanted = self.job(job_id), body["JobVersion"]
        if wanted == job["Version"]:
            raise Refusal(500, "can't revert to current version")
        if wanted >= len(self.versions[job_id]):
            raise Refusal(500, f'job "{job_id}" in namespace "default" at version {wanted} not found')
        self._put(self.versions[job_id][wanted], self.reverts)
        return {}

    def job(self, job_id: str) -> dict[str, Any]:
        if job_id not in self.jobs:
            raise Refusal(404, "job not found")
        return self.jobs[job_id]

    def _put(self, job: dict[str, Any], outcome: str) -> dict[str, Any]:
        """A new version with a deployment, unless it is just what is there already."""
        job_id, present = job["ID"], self.jobs.get(job["ID"])
        if present is not None and present["Image"] == job["Image"]:
            return present
        self._index += 1
        stored = job | {"JobModifyIndex": self._index, "Stable": False}
        stored["Version"] = len(self.versions.setdefault(job_id, []))
        self.versions[job_id].append(stored)
        self.jobs[job_id] = stored
        if job["Type"] != "service":
            return stored
        begun = self.deployments.setdefault(job_id, [])
        if begun and begun[-1]["Status"] == "running":
            begun[-1] |= {"Status": "cancelled", "StatusDescription": "Cancelled due to newer version of job"}
        deployment = {
            "ID": f"deployment-{self._index}",
            "JobID": job_id,
            "Status": outcome,
            "StatusDescription": "",
            "JobSpecModifyIndex": self._index,
        }
        begun.append(deployment)
        stored["Stable"] = outcome == "successful"
        if outcome == "failed":
            self._failed(deployment, "Failed due to unhealthy allocations")
        return stored

    def _failed(self, deployment: dict[str, Any], why: str) -> None:
        """With auto_revert: the latest stable version comes again as a new one, with a deployment of its own."""
        deployment |= {"Status": "failed", "StatusDescription": why}
        stable = [version for version in self.versions[deployment["JobID"]] if version["Stable"]]
        if stable:
            self._put(stable[-1], self.reverts)

    def answer(self, method: str, path: str, body: Any, token: str | None) -> Any:
        self.calls.append(f"{method} {path}")
        if self.answers_without_leader:
            self.answers_without_leader -= 1
            raise Refusal(500, "No cluster leader")
        for wanted_method, pattern, name, capabilities in _CALLS:
            if method == wanted_method and (found := re.fullmatch(pattern, path)):
                if not capabilities & _capabilities(token):
                    raise Refusal(403, "Permission denied")
                return getattr(self, name)(*found.groups(), *([] if body is None else [body]))
        raise Refusal(404, "Invalid path")


def _capabilities(token: str | None) -> set[str]:
    if token not in _POLICIES:
        return set()
    policy = pygohcl.loads((FOLDER / "policies" / f"{_POLICIES[token]}.hcl").read_text())
    return set(policy["namespace"]["default"]["capabilities"])


@contextmanager
def serving(cluster: Cluster) -> Iterator[str]:
    """The cluster's address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            try:
                answer = cluster.answer(self.command, self.path, body, self.headers["X-Nomad-Token"])
                status, text = 200, json.dumps(answer)
            except Refusal as refusal:
                status, text = refusal.status, str(refusal)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            """Nothing: the calls are noted in the cluster."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="nomad", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
