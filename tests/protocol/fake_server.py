"""Starts the fake server of tests/http for one test and stops it: with FakeServer(binary) as port: ..."""

import signal
import subprocess


class FakeServer:
    def __init__(self, binary, *flags):
        self.args = [binary, "--http-port", "0", "--metrics-port", "0", "--allow-client-shm", "true", "--log-info", "false", *flags]

    def __enter__(self):
        self.process = subprocess.Popen(self.args, stdout=subprocess.PIPE, text=True)
        words = self.process.stdout.readline().split()
        self.http_port, self.metrics_port = int(words[1]), int(words[3])
        self.grpc_port = int(words[5])
        return self

    def __exit__(self, *unused):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=30)
        assert code == 0, f"the server ended with {code}"
