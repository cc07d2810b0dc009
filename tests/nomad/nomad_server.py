"""A server that answers like Nomad's API, and refuses what Nomad refuses."""

import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pygohcl

from scripts.nomad.jobs import FOLDER

TOKEN, OPERATORS_TOKEN, SCALERS_TOKEN = "of-the-pipeline", "of-an-operator", "of-the-scaler"
_POLICIES = {TOKEN: "pipeline", OPERATORS_TOKEN: "operator", SCALERS_TOKEN: "scaler"}

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
    ("GET", r"/v1/job/([^/]+)/scale", "scale_status", {"read-job", "read-job-scaling"}),
    ("POST", r"/v1/job/([^/]+)/scale", "scale", {"scale-job", "submit-job"}),
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
        self.scalings: dict[tuple[str, str], list[dict[str, Any]]] = {}  # by job and group, the last one first
        self.running: dict[tuple[str, str], int] = {}  # where it isn't what is desired
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
        groups = {name: _group(group, given) for name, group in job["group"].items()}
        return {
            "ID": name,
            "Type": job["type"],
            "Parameterized": job.get("parameterized"),
            "Image": given["image"],
            "Groups": groups,
        }

    def register(self, body: dict[str, Any]) -> dict[str, Any]:
        job = body["Job"]
        present = self.jobs.get(job["ID"])
        if body["EnforceIndex"] and body["JobModifyIndex"] != (present["JobModifyIndex"] if present else 0):
            raise Refusal(500, f"Enforcing job modify index {body['JobModifyIndex']}: conflicting job modify index")
        assert body["PreserveCounts"]
        if present is not None:
            counts = {name: group["Count"] for name, group in present["Groups"].items()}
            groups = job["Groups"].items()
            job["Groups"] = {name: group | {"Count": counts.get(name, group["Count"])} for name, group in groups}
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

    def scale_status(self, job_id: str) -> dict[str, Any]:
        job = self.job(job_id)
        shown = {
            name: {
                "Desired": group["Count"],
                "Placed": group["Count"],
                "Running": self.running.get((job_id, name), group["Count"]),
                "Healthy": group["Count"],
                "Unhealthy": 0,
                "Events": self.scalings.get((job_id, name)),
            }
            for name, group in job["Groups"].items()
        }
        index = job["JobModifyIndex"]
        return {"JobID": job_id, "JobModifyIndex": index, "JobStopped": False, "TaskGroups": shown}

    def scale(self, job_id: str, body: dict[str, Any]) -> dict[str, Any]:
        job, name, count = self.job(job_id), body["Target"]["Group"], body["Count"]
        if name not in job["Groups"]:
            raise Refusal(400, f'task group "{name}" specified for scaling does not exist in job')
        group = job["Groups"][name]
        if count < group.get("Min", 0):
            raise Refusal(400, f"group count was less than scaling policy minimum: {count} < {group['Min']}")
        if count > group.get("Max", count):
            raise Refusal(400, f"group count was greater than scaling policy maximum: {count} > {group['Max']}")
        begun = self.deployments.get(job_id, [])
        if begun and begun[-1]["Status"] == "running":
            raise Refusal(400, "job scaling blocked due to active deployment")
        if body.get("JobModifyIndex", 0) not in (0, job["JobModifyIndex"]):
            wanted = body["JobModifyIndex"]
            raise Refusal(500, f"Enforcing job modify index {wanted}: job exists with conflicting job modify index")
        event = {"Count": count, "PreviousCount": group["Count"], "Message": body["Message"], "Meta": body["Meta"]}
        self.scalings.setdefault((job_id, name), []).insert(0, event)
        scaled = job | {"Groups": job["Groups"] | {name: group | {"Count": count}}}
        # What only stops allocations is no deployment.
        self._store(scaled, self.outcomes.get(job_id, "successful") if count > group["Count"] else None)
        return {"EvalID": "", "JobModifyIndex": self._index}

    def job(self, job_id: str) -> dict[str, Any]:
        if job_id not in self.jobs:
            raise Refusal(404, "job not found")
        return self.jobs[job_id]

    def _put(self, job: dict[str, Any], outcome: str) -> dict[str, Any]:
        """A new version with a deployment, unless it is just what is there already."""
        present = self.jobs.get(job["ID"])
        if present is not None and present["Image"] == job["Image"]:
            return present
        return self._store(job, outcome)

    def _store(self, job: dict[str, Any], outcome: str | None) -> dict[str, Any]:
        """A new version, with a deployment that ends so; None: without one."""
        job_id = job["ID"]
        self._index += 1
        stored = job | {"JobModifyIndex": self._index, "Stable": False}
        stored["Version"] = len(self.versions.setdefault(job_id, []))
        self.versions[job_id].append(stored)
        self.jobs[job_id] = stored
        if job["Type"] != "service" or outcome is None:
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
        path, _, query = path.partition("?")
        self.calls.append(f"{method} {path}")
        if parse_qs(query).get("namespace", ["default"]) != ["default"]:
            raise Refusal(403, "Permission denied")  # the policies are for that one
        if self.answers_without_leader:
            self.answers_without_leader -= 1
            raise Refusal(500, "No cluster leader")
        for wanted_method, pattern, name, capabilities in _CALLS:
            if method == wanted_method and (found := re.fullmatch(pattern, path)):
                if not capabilities & _capabilities(token):
                    raise Refusal(403, "Permission denied")
                return getattr(self, name)(*found.groups(), *([] if body is None else [body]))
        raise Refusal(404, "Invalid path")


def _group(group: dict[str, Any], given: dict[str, Any]) -> dict[str, int]:
    """Its count and what its scaling block allows; numbers are written, or of a variable."""

    def number(value: Any) -> int:
        return int(given[value.removeprefix("var.")] if isinstance(value, str) else value)

    found = {"Count": number(group.get("count", 1))}
    if scaling := group.get("scaling"):
        found |= {"Min": number(scaling["min"]), "Max": number(scaling["max"])}
    return found


def _capabilities(token: str | None) -> set[str]:
    if token not in _POLICIES:
        return set()
    policy = pygohcl.loads((FOLDER / "policies" / f"{_POLICIES[token]}.hcl").read_text())
    return set(policy["namespace"]["default"]["capabilities"])


@contextmanager
def serving(cluster: Cluster, tls: ssl.SSLContext | None = None) -> Iterator[str]:
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
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="nomad", daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
