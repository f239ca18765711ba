"""`ingot serve` whose repository cannot be opened, and what is measured without models. Usage: lifecycle.py INGOT WORK_DIR"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

try:
    import tritonclient.grpc as grpcclient
    import tritonclient.http as httpclient
except ImportError as e:
    print(f"skipped: {e} (install tools/requirements-test.txt)")
    sys.exit(1 if os.environ.get("CI") else 77)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python_backend"))
from python_server import PythonServer


def check_broken(binary, work):
    """The old server answers, and is neither live nor ready, under --exit-on-error=false; else it ends."""
    s = PythonServer(binary, work, [], "--exit-on-error=false", begin=False)
    shutil.rmtree(s.repository)
    end = subprocess.run([*map(str, s.command), "--exit-on-error=true"], capture_output=True, timeout=60)
    assert end.returncode == 1 and b"found no such directory" in end.stderr, end
    s.begin()
    with s:
        for client, port in ((httpclient, s.http), (grpcclient, s.grpc)):
            with client.InferenceServerClient(f"127.0.0.1:{port}") as c:
                assert not c.is_server_live() and not c.is_server_ready() and not c.is_model_ready("never")
                metadata = c.get_server_metadata()
                assert (metadata["name"] if client is httpclient else metadata.name) == "triton"
        assert "found no such directory" in s.log()


def check_metrics(binary, work):
    for cpu in ("true", "false"):
        with PythonServer(binary, work, [], f"--allow-cpu-metrics={cpu}") as s:
            assert s.get("/metrics", s.metrics) == 200
            assert "nv_pinned_memory_pool_total_bytes 0\n" in s.body and "nv_pinned_memory_pool_used_bytes 0\n" in s.body, s.body
            assert ("nv_cpu_utilization " in s.body and "nv_cpu_memory_used_bytes " in s.body) == (cpu == "true"), s.body


def check_refusals(binary, work):
    """Taken ports and contradicting flags end the start in the words that scripts wait for."""
    with PythonServer(binary, work, []) as s:
        for service, port, flags in (
            ("GRPC", s.grpc, []),
            ("Metrics", s.metrics, ["--allow-grpc=false"]),
            ("HTTP", s.http, ["--allow-grpc=false", "--allow-metrics=false"]),
        ):
            end = subprocess.run([*map(str, s.command), *flags], capture_output=True, text=True, timeout=60)
            want = f"failed to start {service} service: Unavailable - Socket '0.0.0.0:{port}' already in use"
            assert end.returncode == 1 and end.stderr.count(want) == 1, end
    for text, *flags in (
        ("incompatible flags", "--response-cache-byte-size=12345", "--cache-config=local,size=67890"),
        ("multiple cache configurations", "--cache-config=local,size=8192", "--cache-config=redis,key=value"),
        ("No backend specified. --backend-config option format is", "--backend-config=,key=value"),
        ("--backend-config option format is", "--backend-config=key="),
    ):
        end = subprocess.run([*map(str, s.command), *flags], capture_output=True, text=True, timeout=60)
        assert end.returncode != 0 and text in end.stderr, end


def main():
    binary, work = sys.argv[1:3]
    check_broken(binary, work)
    check_metrics(binary, work)
    check_refusals(binary, work)
    print("lifecycle: all passed")


if __name__ == "__main__":
    main()
