"""HTTPS: handshake, keep-alive, streaming, a necessary client certificate, plain bytes on the port. Usage: tls_http.py FAKE_SERVER"""

import http.client
import json
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile

from fake_server import FakeServer

if shutil.which("openssl") is None:
    print("skipped: no openssl command to make a certificate with")
    sys.exit(77)


def certificate(folder, name):
    cert, key = f"{folder}/{name}.pem", f"{folder}/{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
                   check=True, capture_output=True)
    return cert, key


def ask(c, path, body=None):
    c.request("POST" if body else "GET", path, json.dumps(body) if body else None)
    r = c.getresponse()
    return r.status, r.read().decode()


def main():
    with tempfile.TemporaryDirectory() as folder:
        cert, key = certificate(folder, "server")
        client_cert, client_key = certificate(folder, "client")
        context = ssl.create_default_context(cafile=cert)
        with FakeServer(sys.argv[1], "--http-server-cert", cert, "--http-server-key", key) as server:
            c = http.client.HTTPSConnection("localhost", server.http_port, context=context, timeout=20)
            for _ in range(3):
                assert ask(c, "/v2/health/ready") == (200, "")
            big = "x" * 300000
            status, text = ask(c, "/v2/models/llm/generate", {"text_input": big})
            assert status == 200 and json.loads(text)["text_output"] == big
            status, text = ask(c, "/v2/models/llm/generate_stream", {"text_input": "a b c", "stream": True, "delay_ms": 5})
            assert status == 200 and text.count("data: ") == 3, text
            with socket.create_connection(("localhost", server.http_port)) as plain:
                plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
                try:
                    assert b"HTTP/1.1" not in plain.recv(1000)  # an alert at most
                except ConnectionError:
                    pass
            assert ask(c, "/v2/health/live") == (200, "")
        with FakeServer(sys.argv[1], "--http-server-cert", cert, "--http-server-key", key, "--http-client-ca", client_cert) as server:
            try:
                ask(http.client.HTTPSConnection("localhost", server.http_port, context=context, timeout=20), "/v2")
                raise AssertionError("a client without a certificate was served")
            except (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected):
                pass
            context.load_cert_chain(client_cert, client_key)
            c = http.client.HTTPSConnection("localhost", server.http_port, context=context, timeout=20)
            assert ask(c, "/v2")[0] == 200
        bad = subprocess.run([sys.argv[1], "--http-port", "0", "--metrics-port", "0", "--http-server-cert", cert, "--http-server-key", client_key],
                             capture_output=True, text=True)
        assert bad.returncode == 1 and "tls: " in bad.stderr, bad.stderr
    print("tls_http: all passed")


main()
