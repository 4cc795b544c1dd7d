"""The part of the Hugging Face Hub's API that an upload uses, keeping what it is sent."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_good"


class FakeHub:
    """Repositories by id; large files come by a link of their own, as on the Hub."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, Any]] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.messages: list[str] = []
        self.blobs: dict[str, bytes] = {}
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.repos.setdefault(name, asked)
            return {"url": f"{self.url}/{name}", "name": name, "id": name}
        if path == "/api/validate-yaml":  # of the model card
            return {"warnings": [], "errors": []}
        repo = "/".join(path.removeprefix("/api/models/").removeprefix("/").split("/")[:2])
        repo = repo.removesuffix(".git")
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            return {"files": [self._mode(file["path"]) for file in files]}
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            return {"transfer": "basic", "objects": [self._upload(each) for each in objects]}
        if "/commit/" in path:
            return self._commit(repo, path.rpartition("/")[2].partition("?")[0], body)
        raise AssertionError(f"unexpected request: {path}")

    def _mode(self, path: str) -> dict[str, Any]:
        mode = "lfs" if path.endswith(".safetensors") else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None}

    def _upload(self, each: dict[str, Any]) -> dict[str, Any]:
        link = {"href": f"{self.url}/blobs/{each['oid']}"}
        return {**each, "authenticated": True, "actions": {"upload": link}}

    def _commit(self, repo: str, revision: str, body: bytes) -> dict[str, Any]:
        files = self.files.setdefault(repo, {})
        for line in body.decode().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                self.messages.append(value["summary"])
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
        url = f"{self.url}/{repo}/commit/{'0' * 40}"
        return {"success": True, "commitOid": "0" * 40, "commitUrl": url, "hookOutput": revision}

    def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def _body(self) -> bytes:
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def do_POST(self) -> None:
                body = self._body()
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    self._answer(401, {"error": "Invalid username or password."})
                    return
                self._answer(200, hub.post(self.path, body))

            def do_PUT(self) -> None:
                body = self._body()
                oid = self.path.rpartition("/")[2]
                assert hashlib.sha256(body).hexdigest() == oid
                hub.blobs[oid] = body
                self._answer(200, {})

            def log_message(self, *_: object) -> None: ...

        return Handler


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A Hub that runs while the block does."""
    hub = FakeHub()
    thread = threading.Thread(target=hub.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.http.shutdown()
        hub.http.server_close()
        thread.join()
