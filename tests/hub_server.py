"""A small stand-in for huggingface.co on loopback, with the API that huggingface_hub downloads by.

It answers as the real one does: small files directly, weights by a redirect to a "CDN" on another
host name, errors with X-Error-Code. Each repository can misbehave in one way (see `Repo`). Every
request is recorded, so that a test can say what was downloaded and what was not.
"""

import hashlib
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

TOKENS = {"hf_owner", "hf_stranger"}  # valid ones; any other is answered "invalid credentials"
PAGE = b"<!doctype html><title>Welcome to the hotel's network</title>"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Repo:
    files: dict[str, bytes]  # branch main
    branches: dict[str, dict[str, bytes]] = field(default_factory=dict)  # the others
    readers: set[str] | None = None  # tokens that may read it; None: everybody
    gated: bool = False  # to others it is "gated" instead of "not found"
    moved: str | None = None  # its new name
    status: dict[str, int] = field(default_factory=dict)  # file (or "*") -> answer this to it
    page: bool = False  # answer a web page to everything, as a login portal does
    wrong: bool = False  # deliver other bytes than those of a weight file, as many as it has
    etags: dict[str, str] = field(default_factory=dict)  # file -> answer with this etag
    sizes: dict[str, int] = field(default_factory=dict)  # file -> promise so many bytes of it
    short: int | None = None  # deliver only so many bytes of a weight file, as if they were all
    cut: int | None = None  # end the connection after so many bytes of a weight file …
    cuts: int = 0  # … this many times
    reset: bool = False  # … with a TCP reset, not a polite close

    def revisions(self) -> dict[str, tuple[str, dict[str, bytes]]]:
        """Branch or commit -> (commit, files)."""
        found = {}
        for branch, files in {"main": self.files, **self.branches}.items():
            commit = digest(b"".join(name.encode() + files[name] for name in sorted(files)))[:40]
            found[branch] = found[commit] = commit, files
        return found


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append(
            (self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
        )
        if self.path.startswith("/cdn/"):
            repo, data = self.server.blobs[self.path[5:]]
            sent = data[:-1] + bytes([data[-1] ^ 1]) if repo.wrong else data[: repo.short]
            return self.send(200, sent, {"ETag": f'"{digest(data)}"'}, repo)
        parts = re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", self.path)
        if not parts:  # the library's own business, such as /api/agent-harnesses
            return self.send(404, b"{}")
        name, revision, file = map(unquote, parts.groups())
        repo = self.server.repos.get(name)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repo and repo.page:
            return self.send(200, PAGE, {"Content-Type": "text/html", "ETag": '"page"'})
        if repo and (status := repo.status.get(file, repo.status.get("*"))):
            return self.send(status, b"something is wrong here")
        if token and token not in TOKENS:
            return self.send(
                401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"}
            )
        if repo is None or (repo.readers is not None and token not in repo.readers):
            gated = repo is not None and repo.gated
            status = 401 if not token else 403 if gated else 404
            return self.send(
                status, b"", {"X-Error-Code": "GatedRepo" if gated else "RepoNotFound"}
            )
        if repo.moved:
            return self.send(307, b"", {"Location": self.path.replace(name, repo.moved, 1)})
        if revision not in repo.revisions():
            return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        commit, files = repo.revisions()[revision]
        headers = {
            "X-Repo-Commit": commit,
            "X-HF-Warning": "unauthenticated; Please set a HF_TOKEN.",
        }
        if file not in files:
            return self.send(404, b"", {**headers, "X-Error-Code": "EntryNotFound"})
        data = files[file]
        if file.endswith((".safetensors", ".bin")):
            self.server.blobs[digest(data)] = repo, data
            port = self.server.server_port  # localhost: another host than 127.0.0.1, as a CDN is
            headers["Location"] = f"http://localhost:{port}/cdn/{digest(data)}"
            headers |= {"X-Linked-Etag": f'"{digest(data)}"', "X-Linked-Size": str(len(data))}
            return self.send(302, b"", headers)
        headers["ETag"] = f'"{repo.etags.get(file, digest(data)[:40])}"'
        headers |= {"Content-Length": repo.sizes[file]} if file in repo.sizes else {}
        self.send(200, data, headers)

    do_HEAD = do_GET

    def send(self, status: int, data: bytes, headers: dict | None = None, repo: Repo | None = None):
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start and status == 200:
            status, whole, data = 206, len(data), data[int(start[1]) :]
            headers = {**headers, "Content-Range": f"bytes {start[1]}-{whole - 1}/{whole}"}
        self.send_response(status)
        for key, value in {
            "Content-Length": len(data),
            "Accept-Ranges": "bytes",
            **(headers or {}),
        }.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        if repo and repo.cut is not None and repo.cuts > 0:
            repo.cuts -= 1
            data, self.close_connection = data[: repo.cut], True
            if repo.reset:  # closing with linger 0 sends RST
                self.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
        self.wfile.write(data)
        if self.close_connection and repo and repo.reset:
            self.connection.close()

    def log_message(self, *args):
        pass


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, repos: dict[str, Repo]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.blobs, self.requests = repos, {}, []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request, client_address):
        """Clients that go away are part of the tests."""

    def asked(self) -> set[str]:
        """The names of all repository files that were asked for."""
        paths = [path.partition("/resolve/")[2] for _, path, _ in self.requests]
        return {unquote(path.partition("/")[2]) for path in paths if path}

    def stop(self):
        self.shutdown()
        self.server_close()
