"""A Hub of one model on this machine, whose weights come as slowly as one likes."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SHA = "a" * 40
FILES = {"config.json": b"{}", "model.safetensors": bytes(40_000_000)}  # the client writes 10 MB at a time


@contextmanager
def fake_hub(seconds: float, files: dict[str, bytes] = FILES) -> Iterator[str]:
    """The address of the Hub; `seconds` is how long each tenth of a file takes."""

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def head(self, size: int, **headers: str) -> None:
            self.send_response(200)
            for name, value in {"Content-Length": str(size), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()

        def do_GET(self) -> None:
            name = self.path.partition("?")[0].rpartition("/")[2]
            if self.path.startswith("/api/"):
                listed = [
                    {"type": "file", "path": k, "rfilename": k, "size": len(v), "oid": k} for k, v in files.items()
                ]
                told = {"id": "some/model", "sha": SHA, "siblings": listed}
                body = json.dumps(listed if "/tree/" in self.path else told).encode()
                self.head(len(body), Content_Type="application/json")
                self.wfile.write(body)
            elif name not in files:
                self.send_error(404)
            else:
                self.head(len(files[name]), ETag=f'"{name}"', X_Repo_Commit=SHA)
                part = -(-len(files[name]) // 10)
                for at in range(0, len(files[name]) if self.command == "GET" else 0, part):
                    time.sleep(seconds)
                    self.wfile.write(files[name][at : at + part])
                    self.wfile.flush()

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
