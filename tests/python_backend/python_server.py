"""`ingot serve --model-repository` over a copy of the test models, with this interpreter for their processes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def children_of(pid):
    """Ids of the living processes whose parent is `pid`."""
    out = []
    for entry in os.listdir("/proc"):
        try:
            stat = Path(f"/proc/{entry}/stat").read_text() if entry.isdigit() else ""
        except OSError:
            continue
        fields = stat.rsplit(")", 1)[-1].split()
        if len(fields) > 1 and fields[0] != "Z" and int(fields[1]) == pid:
            out.append(int(entry))
    return sorted(out)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[-1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what, condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s: {what}")


class PythonServer:
    def __init__(self, binary, work, models, *flags, begin=True):
        self.work = Path(work)
        shutil.rmtree(work, ignore_errors=True)
        self.repository = self.work / "models"
        self.repository.mkdir(parents=True)
        for model in models:
            shutil.copytree(HERE / "models" / model, self.repository / model)
        self.log_path = self.work / "server.log"
        self.http, self.grpc, self.metrics = free_port(), free_port(), free_port()
        self.command = [binary, "serve", "--model-repository", self.repository, "--http-port", str(self.http), "--grpc-port", str(self.grpc),
                        "--metrics-port", str(self.metrics), "--backend-directory", HERE / "backends", *flags]
        if begin:
            self.begin()

    def begin(self):
        environment = dict(os.environ, PATH=os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"], PYTHONDONTWRITEBYTECODE="1")
        self.process = subprocess.Popen(self.command, stderr=open(self.log_path, "w"), env=environment)

    def start(self):
        wait_for("the server answers", lambda: self.process.poll() is not None or self.get("/v2") == 200, 120)
        assert self.process.poll() is None, self.log()
        return self

    def get(self, path, port=None):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port or self.http}{path}", timeout=30) as r:
                self.body = r.read().decode()
                return r.status
        except urllib.error.HTTPError as e:
            self.body = e.read().decode()
            return e.code
        except OSError:
            return 0

    def post(self, path, body):
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=30) as r:
                return r.status, r.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()

    def log(self):
        return self.log_path.read_text(errors="replace")

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.process.kill()
            raise

    def __exit__(self, kind, *unused):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        if kind is not None:
            print(self.log())
        else:
            assert code == 0, self.log()
