"""A server on this machine that keeps repositories and takes commits as the Hugging Face Hub does.

It answers what huggingface_hub asks to make a repository, a branch and a commit, with large files
sent beforehand (git-lfs, basic transfer), and what a download asks. Xet, the other way in which
the library sends large files, is not spoken.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml

WRITER, READER = "hf_abcdefghijklmnop_writer", "hf_abcdefghijklmnop_reader"
"""Tokens: of one who may write to "team", and of one who may only read what is public."""

Fault = Callable[["Handler"], None]


@dataclass
class Stored:
    """A file of a commit."""

    content: bytes
    large: bool

    @property
    def entry(self) -> dict[str, Any]:
        size = len(self.content)
        blob = hashlib.sha1(b"blob %d\0" % size + self.content).hexdigest()
        found: dict[str, Any] = {"type": "file", "size": size, "oid": blob}
        if self.large:
            sha256 = hashlib.sha256(self.content).hexdigest()
            found["lfs"] = {"oid": sha256, "size": size, "pointerSize": 134}
        return found


@dataclass
class Repository:
    """Commits, each with all of its files, and the branches and tags that point to them."""

    private: bool
    commits: dict[str, dict[str, Stored]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def at(self, revision: str) -> str | None:
        """Return the commit that a branch, tag or commit is."""
        known = {**self.tags, **self.branches}.get(revision, revision)
        return known if known in self.commits else None

    def commit(self, branch: str, files: dict[str, Stored], message: str) -> str:
        base = self.commits[self.branches[branch]] if branch in self.branches else {}
        made = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[made] = base | files
        self.branches[branch] = made
        self.messages.append(message)
        return made


class HubServer(ThreadingHTTPServer):
    """The server.

    Attributes:
        repositories: Those that there are, by owner/name.
        blobs: Large files that were sent, by sha256.
        requests: What was asked for, as "POST /path".
        faults: What happens instead of an answer: pattern of requests, and what is done.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[tuple[str, Fault]] = []
        self.ignored = ""
        self.lock = Lock()
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def make(self, name: str, private: bool = False) -> Repository:
        made = self.repositories[name] = Repository(private)
        made.commit("main", {".gitattributes": Stored(b"*.safetensors filter=lfs\n", False)}, "")
        return made

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay quiet about clients that go away."""


def market_of(patch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Serve a Hub as long as a test runs, to one who may write to "team"."""
    from huggingface_hub import constants

    server = HubServer()
    patch.setenv("HF_ENDPOINT", server.url)
    patch.setenv("HF_TOKEN", WRITER)
    patch.setenv("SPENDER_TIMEOUT", "3")
    # the library reads its settings once; the server speaks git-lfs, not Xet
    patch.setattr(constants, "ENDPOINT", server.url)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield server
    server.stop()


class Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        with self.server.lock:
            self.server.requests.append(request)
            hit = next((f for f in self.server.faults if re.search(f[0], request)), None)
            if hit:
                self.server.faults.remove(hit)
        if hit:
            hit[1](self)
            return
        body = self.body()
        for pattern, act in ROUTES:
            found = re.fullmatch(pattern, request)
            if found:
                with self.server.lock:
                    act(self, body, *found.groups())
                return
        self.reply(404, {"error": "no such route"})

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def reply(self, status: int, content: Any, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def opened(self, name: str, writing: bool = False) -> Repository | None:
        """Return a repository that the user may see, or write to; else say why not."""
        if self.token() not in ("", WRITER, READER):
            self.reply(401, {}, X_Error_Message="Invalid credentials in Authorization header")
            return None
        found = self.server.repositories.get(name)
        own = self.token() == WRITER and name.startswith("team/")
        if found is None or (found.private and not own):
            self.reply(404, {}, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return None
        if writing and not own:
            self.reply(403, {}, X_Error_Message="Forbidden: you have no write permission")
            return None
        return found

    # -- the routes ------------------------------------------------------------------------

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if self.token() != WRITER or asked["organization"] != "team":
            self.reply(403, {}, X_Error_Message="You don't have the rights to create a model")
        elif name in self.server.repositories:
            self.reply(409, {}, X_Error_Message="You already created this model repo")
        else:
            private = asked.get("private") or asked.get("visibility") == "private"
            self.server.make(name, bool(private))
            self.reply(200, {"url": f"{self.server.url}/{name}"})

    def info(self, body: bytes, name: str) -> None:
        if found := self.opened(name):
            self.reply(200, {"id": name, "private": found.private, "sha": found.branches["main"]})

    def refs(self, body: bytes, name: str) -> None:
        if found := self.opened(name):
            listed = {
                kind: [
                    {"name": n, "ref": f"refs/{git}/{n}", "targetCommit": c}
                    for n, c in refs.items()
                ]
                for kind, git, refs in (
                    ("branches", "heads", found.branches),
                    ("tags", "tags", found.tags),
                )
            }
            self.reply(200, {**listed, "converts": []})

    def branch(self, body: bytes, name: str, branch: str) -> None:
        if found := self.opened(name, writing=True):
            found.branches[branch] = found.branches["main"]
            self.reply(200, {})

    def paths(self, body: bytes, name: str, revision: str) -> None:
        if not (found := self.opened(name)):
            return
        if (commit := found.at(revision)) is None:
            self.reply(404, {}, X_Error_Code="RevisionNotFound")
            return
        asked = parse_qs(body.decode())["paths"]
        files = found.commits[commit]
        self.reply(200, [{"path": p, **files[p].entry} for p in asked if p in files])

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        if not self.opened(name, writing=True):
            return
        files = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": one["path"] == self.server.ignored,
            }
            for one in json.loads(body)["files"]
        ]
        self.reply(200, {"files": files})

    def batch(self, body: bytes, name: str) -> None:
        if not self.opened(name, writing=True):
            return
        objects = []
        for one in json.loads(body)["objects"]:
            if one["oid"] not in self.server.blobs:
                one["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}
            objects.append(one)
        self.reply(200, {"transfer": "basic", "objects": objects})

    def large(self, body: bytes, sha256: str) -> None:
        if hashlib.sha256(body).hexdigest() == sha256:
            self.server.blobs[sha256] = body
            self.reply(200, b"")
        else:
            self.reply(400, b"")

    def check_front(self, body: bytes) -> None:
        front = json.loads(body)["content"].split("---\n")[1]
        known = isinstance(yaml.safe_load(front).get("license"), str)
        self.reply(200 if known else 400, {"errors": [], "warnings": []})

    def commit(self, body: bytes, name: str, branch: str) -> None:
        if not (found := self.opened(name, writing=True)):
            return
        lines = [json.loads(line) for line in body.splitlines()]
        header, files = lines[0]["value"], {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                files[value["path"]] = Stored(self.server.blobs[value["oid"]], True)
            else:
                files[value["path"]] = Stored(base64.b64decode(value["content"]), False)
        if branch not in found.branches:
            self.reply(404, {}, X_Error_Code="RevisionNotFound")
        elif header.get("parentCommit") not in (None, found.branches[branch]):
            self.reply(412, {}, X_Error_Message="A commit has happened since")
        else:
            made = found.commit(branch, files, header["summary"])
            self.reply(
                200, {"commitOid": made, "commitUrl": f"{self.server.url}/{name}/commit/{made}"}
            )

    def resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        if not (found := self.opened(name)):
            return
        commit = found.at(revision)
        stored = found.commits[commit].get(path) if commit else None
        if commit is None or stored is None:
            self.reply(404, {}, X_Error_Code="EntryNotFound")
        else:
            self.reply(200, stored.content, X_Repo_Commit=commit)


_REPO = r"([\w-]+/[\w.-]+)"
ROUTES: list[tuple[str, Callable[..., None]]] = [
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.check_front),
    (rf"GET /api/models/{_REPO}", Handler.info),
    (rf"GET /api/models/{_REPO}/refs", Handler.refs),
    (rf"POST /api/models/{_REPO}/branch/([\w.-]+)", Handler.branch),
    (rf"POST /api/models/{_REPO}/paths-info/([\w.-]+)", Handler.paths),
    (rf"POST /api/models/{_REPO}/preupload/([\w.-]+)", Handler.preupload),
    (rf"POST /api/models/{_REPO}/commit/([\w.-]+)", Handler.commit),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /lfs/([0-9a-f]{64})", Handler.large),
    (rf"GET /{_REPO}/resolve/([\w.-]+)/(.+)", Handler.resolve),
]


# -- the ways of failing --------------------------------------------------------------------


def status(code: int, message: str = "") -> Fault:
    """Take the request, and answer with an error."""

    def act(handler: Handler) -> None:
        handler.body()
        handler.reply(code, {}, X_Error_Message=message)

    return act


def drop(handler: Handler) -> None:
    """Close the connection in the middle of the request."""
    handler.rfile.read(1)
    handler.close_connection = True
