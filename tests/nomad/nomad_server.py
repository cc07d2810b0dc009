"""A server that answers like Nomad's API, and refuses what Nomad refuses."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pygohcl

TOKEN = "of-this-test"


class Refusal(Exception):
    """An answer that isn't 200."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Cluster:
    """Jobs, deployments and runs. ``outcomes`` says how a job's next deployment or run ends; ``running`` is never."""

    def __init__(self, outcomes: dict[str, str]) -> None:
        self.outcomes = outcomes
        self.jobs: dict[str, dict[str, Any]] = {}
        self.images: dict[str, list[str]] = {}  # each version's, by job
        self.deployments: dict[str, dict[str, Any]] = {}
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
        self._put(job, self.outcomes.get(job["ID"], "successful"))
        return {"EvalID": "", "JobModifyIndex": self.jobs[job["ID"]]["JobModifyIndex"]}

    def dispatch(self, job_id: str, body: dict[str, Any]) -> dict[str, Any]:
        parameters = self._job(job_id)["Parameterized"]
        if parameters is None:
            raise Refusal(500, "Specified job is not a parameterized job")
        if missing := set(parameters["meta_required"]) - body["Meta"].keys():
            raise Refusal(500, f"Dispatch did not provide required meta keys: {missing}")
        run = f"{job_id}/dispatch-{len(self.runs) + 1}"
        self.runs[run] = self.outcomes.get(job_id, "complete")
        return {"DispatchedJobID": run, "EvalID": ""}

    def deployment_of(self, job_id: str) -> dict[str, Any] | None:
        self._job(job_id)
        return self.deployments.get(job_id)

    def fail(self, deployment_id: str) -> dict[str, Any]:
        job_id = deployment_id.removeprefix("deployment-of-")
        self.deployments[job_id] |= {"Status": "failed", "StatusDescription": "marked as failed"}
        self._auto_revert(job_id)
        return {}

    def revert(self, job_id: str, body: dict[str, Any]) -> dict[str, Any]:
        job = self._job(job_id)
        if body["JobVersion"] == job["Version"]:
            raise Refusal(500, f"can't revert to current version {job['Version']}")
        self._put({**job, "Image": self.images[job_id][body["JobVersion"]]}, "successful")
        return {}

    def _put(self, job: dict[str, Any], outcome: str) -> None:
        job_id = job["ID"]
        self._index += 1
        images = self.images.setdefault(job_id, [])
        images.append(job["Image"])
        self.jobs[job_id] = job | {"JobModifyIndex": self._index, "Version": len(images) - 1}
        if job["Type"] == "service":
            self.deployments[job_id] = {
                "ID": f"deployment-of-{job_id}",
                "Status": outcome,
                "StatusDescription": "Failed due to unhealthy allocations" if outcome == "failed" else "",
                "JobSpecModifyIndex": self._index,
            }
            if outcome == "failed":
                self._auto_revert(job_id)

    def _auto_revert(self, job_id: str) -> None:
        """To the version before, as a new version; the failed deployment stays the latest that anybody looks at."""
        if len(self.images[job_id]) > 1:
            self.images[job_id].append(self.images[job_id][-2])
            self.jobs[job_id] |= {"Image": self.images[job_id][-1], "Version": len(self.images[job_id]) - 1}

    def _job(self, job_id: str) -> dict[str, Any]:
        if job_id not in self.jobs:
            raise Refusal(404, "job not found")
        return self.jobs[job_id]

    def answer(self, method: str, path: str, body: Any) -> Any:
        self.calls.append(f"{method} {path}")
        if (method, path) == ("POST", "/v1/jobs/parse"):
            return self.parse(body)
        if (method, path) == ("POST", "/v1/jobs"):
            return self.register(body)
        if found := re.fullmatch(r"/v1/deployment/fail/(.+)", path):
            return self.fail(found[1])
        if found := re.fullmatch(r"/v1/job/(.+)/allocations", path):
            return [{"ClientStatus": self.runs[found[1]]}]
        if found := re.fullmatch(r"/v1/job/([^/]+)(?:/(deployment|dispatch|revert))?", path):
            match found[2]:
                case "deployment":
                    return self.deployment_of(found[1])
                case "dispatch":
                    return self.dispatch(found[1], body)
                case "revert":
                    return self.revert(found[1], body)
            return self._job(found[1])
        raise Refusal(404, "Invalid path")


@contextmanager
def serving(cluster: Cluster) -> Iterator[str]:
    """The cluster's address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            try:
                if self.headers["X-Nomad-Token"] != TOKEN:
                    raise Refusal(403, "Permission denied")
                status, answer = 200, json.dumps(cluster.answer(self.command, self.path, body))
            except Refusal as refusal:
                status, answer = refusal.status, str(refusal)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer.encode())

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            """Nothing: the calls are noted in the cluster."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="nomad", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
