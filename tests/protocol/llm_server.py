"""A real server on the demo engine, for the tests of the LLM surfaces; the demo engine comes from `make demo`."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def engine_or_skip(demo):
    engine = Path(demo) / "engine"
    if not (engine / "rank0.engine").exists():
        print(f"no engine in {engine}: `make demo` makes it")
        sys.exit(1 if os.environ.get("CI") else 77)
    return engine


class LlmServer:
    def __init__(self, ingot, engine, *flags):
        self.http, self.grpc, self.metrics = free_port(), free_port(), free_port()
        self.lines = []
        command = [ingot, "serve", *([str(engine)] if engine else []), f"--http-port={self.http}", f"--grpc-port={self.grpc}", f"--metrics-port={self.metrics}", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            self.lines.append(line)
            if "ready after" in line:
                break
        else:
            raise AssertionError("the server ended: " + "".join(self.lines))

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.send_signal(signal.SIGTERM)
        _, rest = self.process.communicate(timeout=60)
        self.lines.append(rest)
        assert self.process.returncode == 0, "".join(self.lines)

    def log(self):
        return "".join(self.lines)

    def call(self, path, body=None, headers=None, port=None):
        """(status, parsed JSON)"""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port or self.http}{path}", data, headers or {})
        try:
            with urllib.request.urlopen(request, timeout=120) as r:
                text, status = r.read().decode(), r.status
        except urllib.error.HTTPError as e:
            text, status = e.read().decode(), e.code
        return status, json.loads(text) if text and text[0] in "{[" else text

    def events(self, path, body, headers=None):
        """[(event or "", data)] of a server-sent stream."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", json.dumps(body).encode(), headers or {})
        out, name = [], ""
        with urllib.request.urlopen(request, timeout=120) as r:
            for line in r.read().decode().split("\n"):
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    out.append((name, line[6:] if line[6:] == "[DONE]" else json.loads(line[6:])))
                    name = ""
        return out
