"""What lies under the RPCs, with grpcio: TLS, mutual TLS, compression on the wire, keepalive, reflection, health watches, and the server's
end while streams and watches are open. Usage: grpc_transport.py FAKE_SERVER"""

import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

try:
    import grpc
    from tritonclient.grpc import service_pb2
except ImportError as e:
    print(f"skipped: {e} (install tools/requirements-test.txt)")
    sys.exit(1 if os.environ.get("CI") else 77)

from fake_server import FakeServer

GRPC = ("--allow-grpc", "true", "--grpc-port", "0")
SERVICE = "/inference.GRPCInferenceService/"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


def raw(channel, method, kind="unary_unary"):
    return getattr(channel, kind)(method, request_serializer=lambda b: b, response_deserializer=lambda b: b)


def live(channel):
    return raw(channel, SERVICE + "ServerLive")(b"", timeout=10) == b"\x08\x01"


def infer(channel):
    return channel.unary_unary(SERVICE + "ModelInfer", request_serializer=service_pb2.ModelInferRequest.SerializeToString,
                               response_deserializer=service_pb2.ModelInferResponse.FromString)


def stream(channel):
    return channel.stream_stream(SERVICE + "ModelStreamInfer", request_serializer=service_pb2.ModelInferRequest.SerializeToString,
                                 response_deserializer=service_pb2.ModelStreamInferResponse.FromString)


def echo_request(size):
    request = service_pb2.ModelInferRequest(model_name="echo")
    request.inputs.add(name="I_UINT8", datatype="UINT8", shape=[1, size])
    request.raw_input_contents.append(bytes(size))
    return request


class Proxy:
    """Between client and server: counts the server's bytes, can stop passing anything on."""

    def __init__(self, port):
        self.port, self.received, self.frozen, self.closed = port, 0, threading.Event(), threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.port))
            threading.Thread(target=self.copy, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self.copy, args=(server, client, True), daemon=True).start()

    def copy(self, source, target, of_server):
        try:
            while data := source.recv(65536):
                if of_server:
                    self.received += len(data)
                if not self.frozen.is_set():
                    target.sendall(data)
        except OSError:
            pass
        if of_server:
            self.closed.set()
        for side in (source, target):  # an end on one side is one on the other
            try:
                side.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def certificate(folder, name):
    cert, key = f"{folder}/{name}.pem", f"{folder}/{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
                    "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def read(path):
    with open(path, "rb") as f:
        return f.read()


def check_tls(binary):
    with tempfile.TemporaryDirectory() as folder:
        cert, key = certificate(folder, "server")
        client_cert, client_key = certificate(folder, "client")
        tls = ("--grpc-use-ssl", "true", "--grpc-server-cert", cert, "--grpc-server-key", key)
        with FakeServer(binary, *GRPC, *tls) as s:
            address = f"localhost:{s.grpc_port}"
            with grpc.secure_channel(address, grpc.ssl_channel_credentials(read(cert))) as channel:
                assert live(channel)
                answer = infer(channel)(echo_request(3000000), timeout=30)
                assert answer.raw_output_contents[0] == bytes(3000000)
            for wrong in (grpc.insecure_channel(address), grpc.secure_channel(address, grpc.ssl_channel_credentials(read(client_cert)))):
                with wrong as channel:
                    try:
                        raw(channel, SERVICE + "ServerLive")(b"", timeout=3)
                        raise AssertionError("served without TLS, or under a certificate that is not trusted")
                    except grpc.RpcError as e:
                        assert e.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), e
        with FakeServer(binary, *GRPC, *tls, "--grpc-use-ssl-mutual", "true", "--grpc-root-cert", client_cert) as s:
            address = f"localhost:{s.grpc_port}"
            with grpc.secure_channel(address, grpc.ssl_channel_credentials(read(cert), read(client_key), read(client_cert))) as channel:
                assert live(channel)
            with grpc.secure_channel(address, grpc.ssl_channel_credentials(read(cert))) as channel:
                try:
                    raw(channel, SERVICE + "ServerLive")(b"", timeout=3)
                    raise AssertionError("a client without a certificate was served")
                except grpc.RpcError as e:
                    assert e.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), e
        for flags, text in ((("--grpc-use-ssl", "true"), "--grpc-use-ssl needs --grpc-server-cert and --grpc-server-key"),
                            ((*tls, "--grpc-use-ssl-mutual", "true"), "--grpc-use-ssl-mutual needs --grpc-root-cert"),
                            (("--grpc-use-ssl", "true", "--grpc-server-cert", "/nowhere", "--grpc-server-key", key), "/nowhere")):
            bad = subprocess.run([binary, "--http-port", "0", "--metrics-port", "0", *GRPC, *flags], capture_output=True, text=True, timeout=30)
            assert bad.returncode == 1 and text in bad.stderr, bad.stderr


def check_compression(binary):
    size = 1 << 20
    for level, most in (("none", 2 * size), ("low", size // 20), ("high", size // 20)):
        with FakeServer(binary, *GRPC, "--grpc-infer-response-compression-level", level) as s:
            proxy = Proxy(s.grpc_port)
            with grpc.insecure_channel(proxy.address) as channel:
                answer = infer(channel)(echo_request(size), timeout=30)
                assert answer.raw_output_contents[0] == bytes(size)
                answers = stream(channel)(iter([echo_request(size)]), timeout=30)
                assert next(answers).infer_response.raw_output_contents[0] == bytes(size)
            assert proxy.received < 2 * most + 20000, (level, proxy.received)
            assert level != "none" or proxy.received > 2 * size, proxy.received
            proxy.listener.close()


def check_keepalive(binary):
    with FakeServer(binary, *GRPC, "--grpc-keepalive-time", "300", "--grpc-keepalive-timeout", "300", "--grpc-keepalive-permit-without-calls", "true",
                    "--grpc-http2-max-pings-without-data", "0") as s:
        proxy = Proxy(s.grpc_port)
        with grpc.insecure_channel(proxy.address) as channel:
            assert live(channel)
            time.sleep(1.2)
            assert not proxy.closed.is_set() and live(channel)  # pings are answered
            proxy.frozen.set()
            assert proxy.closed.wait(10), "a connection whose pings get no answer stays open"
        proxy.listener.close()


def check_reflection(port):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = raw(channel, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "stream_stream")
        names = next(iter(call(iter([b"\x3a\x00"]), timeout=10)))  # list_services
        for name in (b"inference.GRPCInferenceService", b"grpc.health.v1.Health"):
            assert name in names, names
        symbol = b"inference.GRPCInferenceService"
        descriptor = next(iter(call(iter([b"\x22" + bytes([len(symbol)]) + symbol]), timeout=10)))  # file_containing_symbol
        assert b"ModelStreamInfer" in descriptor


def check_end(binary):
    """Open calls without work do not hold up the end; those with work get their answer."""
    server = FakeServer(binary, *GRPC, "--exit-timeout-secs", "30")
    server.__enter__()
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        states, ends = queue.Queue(), queue.Queue()

        def watch():
            try:
                for state in raw(channel, "/grpc.health.v1.Health/Watch", "unary_stream")(b""):
                    states.put(state)
            except grpc.RpcError as e:
                ends.put(("watch", e.code()))

        def listen(name, call):
            try:
                for answer in call:
                    ends.put((name, answer.infer_response.id))
            except grpc.RpcError as e:
                ends.put((name, e.code()))

        threading.Thread(target=watch, daemon=True).start()
        assert states.get(timeout=10) == SERVING
        try:
            raw(channel, SERVICE + "RepositoryModelLoad")(service_pb2.RepositoryModelLoadRequest(model_name="unloadable").SerializeToString(), timeout=10)
        except grpc.RpcError:
            pass
        assert states.get(timeout=10) == NOT_SERVING  # strict readiness: a model has failed
        cancelled = raw(channel, "/grpc.health.v1.Health/Watch", "unary_stream")(b"")
        assert next(cancelled) == NOT_SERVING
        cancelled.cancel()
        held = queue.Queue()
        idle = stream(channel)(iter(held.get, None))
        held.put(echo_request(4))
        assert next(idle).infer_response.model_name == "echo"
        threading.Thread(target=listen, args=("idle", idle), daemon=True).start()
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        got = dict(ends.get(timeout=10) for _ in range(2))
        assert got == {"idle": grpc.StatusCode.UNAVAILABLE, "watch": grpc.StatusCode.UNAVAILABLE}, got
        assert server.process.wait(timeout=20) == 0
        took = time.monotonic() - begun
        assert took < 8, f"the end took {took:.1f} s with idle calls only"
        held.put(None)


def main():
    binary = sys.argv[1]
    with FakeServer(binary, *GRPC) as s:
        check_reflection(s.grpc_port)
    check_end(binary)
    check_compression(binary)
    check_keepalive(binary)
    if shutil.which("openssl"):
        check_tls(binary)
    else:
        print("no openssl command to make a certificate with: TLS was not tested")
    print("grpc_transport: all passed")


main()
