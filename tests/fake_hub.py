"""A server on this machine that answers as much of the hub's interface as uploads and downloads of small files need.

Repositories are kept in memory: every commit is a dictionary of files. A name that begins with "private/" needs the
token "right".
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "right"


class Hub(ThreadingHTTPServer):
    """Stops by itself when `seconds` are over."""

    daemon_threads = True

    def __init__(self, seconds: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        timer = threading.Timer(seconds, self.shutdown)
        timer.daemon = True
        timer.start()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a revision: "main", or the commit's own name."""
        commits = self.commits.get(name, [])
        if revision == "main":
            return commits[-1] if commits else None
        return next((commit for commit in commits if commit[0] == revision), None)


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Says nothing."""

    def _answer(self, status: int, body: Any = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refused(self, name: str) -> bool:
        if name.startswith("private/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "no"}, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return True
        return False

    def _commit(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if self._refused(name):
            return None
        if name not in self.server.commits:
            self._answer(404, {"error": "no"}, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return None
        if (found := self.server.find(name, revision)) is None:
            self._answer(404, {"error": "no"}, X_Error_Code="RevisionNotFound", X_Error_Message="Revision not found")
        return found

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            name, revision = "/".join(parts[2:4]), parts[5] if parts[4:5] in (["revision"], ["tree"]) else "main"
            if (found := self._commit(name, revision)) and parts[4:5] == ["tree"]:
                files = [
                    {"type": "file", "path": file, "size": len(data), "oid": file} for file, data in found[1].items()
                ]
                self._answer(200, files)
            elif found:
                siblings = [{"rfilename": file, "size": len(data)} for file, data in found[1].items()]
                self._answer(200, {"id": name, "modelId": name, "sha": found[0], "siblings": siblings, "tags": []})
            return
        name, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        if found := self._commit(name, revision):
            if file not in found[1]:
                self._answer(404, {}, X_Error_Code="EntryNotFound", X_Repo_Commit=found[0])
                return
            data = found[1][file]
            etag = hashlib.sha1(data).hexdigest()
            headers = {"X_Repo_Commit": found[0], "ETag": f'"{etag}"', "Content_Length": str(len(data))}
            self._answer(200, data, **headers)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path).path.strip("/").split("/")
        if parts[:3] == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked.get('organization', 'me')}/{asked['name']}"
            if not self._refused(name):
                self.server.commits.setdefault(name, [])
                self._answer(200, {"url": f"{self.server.url}/{name}", "id": name, "name": name})
        elif parts[1] == "validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif parts[4] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif parts[4] == "commit":
            name = "/".join(parts[2:4])
            commits = self.server.commits[name]
            files = dict(commits[-1][1]) if commits else {}
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            sha = hashlib.sha1(body + bytes([len(commits)])).hexdigest()
            commits.append((sha, files))
            url = f"{self.server.url}/{name}/commit/{sha}"
            self._answer(200, {"success": True, "commitOid": sha, "commitUrl": url})
