"""Third-party backends through `ingot serve`, asked by the published tritonclient over HTTP and gRPC.

Usage: backends_test.py INGOT BACKEND_DIRECTORY WORK_DIRECTORY
"""

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

try:
    import numpy as np
    import tritonclient.grpc as grpcclient
    import tritonclient.http as httpclient
    from tritonclient.utils import InferenceServerException
except ImportError as e:
    print(f"skipped: {e} (install tools/requirements-test.txt)")
    sys.exit(1 if os.environ.get("CI") else 77)

IO = 'input [ {{ name: "INPUT0" data_type: {type} dims: [ {dims} ] }} ]\noutput [ {{ name: "OUTPUT0" data_type: {type} dims: [ {dims} ] }} ]\n'
INT32 = IO.format(type="TYPE_INT32", dims="-1")
MODELS = {
    "identity": "max_batch_size: 8\n" + INT32,
    "strings": "max_batch_size: 8\n" + IO.format(type="TYPE_STRING", dims="-1"),
    "batch": "max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 100000 }\ninstance_group [ { count: 1 kind: KIND_CPU } ]\n" + INT32,
    "repeat": 'model_transaction_policy { decoupled: true }\ninput [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]\n'
              'output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]\n',
    "fail_execute": INT32,
    "fail_response": INT32,
    "short_output": INT32,
    "late": INT32,
    "callee": 'parameters { key: "target" value { string_value: "identity" } }\nmax_batch_size: 8\n' + INT32,
    "callee_of_none": 'parameters { key: "target" value { string_value: "nobody" } }\nmax_batch_size: 8\n' + INT32,
    "complete": "",
    "accumulate": "max_batch_size: 1\nsequence_batching { state [ { input_name: \"STATE_IN\" output_name: \"STATE_OUT\" data_type: TYPE_INT32 dims: [ 1 ] "
                  'initial_state { name: "zero" data_type: TYPE_INT32 dims: [ 1 ] zero_data: true } } ] }\n' + IO.format(type="TYPE_INT32", dims="1"),
    "fail_initialize": INT32,
    "fail_instance": INT32,
    "absent_backend": INT32,
    "broken_library": INT32,
    "no_entry": INT32,
}


def write_models(root, backends):
    shutil.rmtree(root, ignore_errors=True)
    for name, text in MODELS.items():
        folder = root / name
        (folder / "1").mkdir(parents=True)
        behave = "callee" if name == "callee_of_none" else name
        backend = {"absent_backend": "absent", "broken_library": "broken", "no_entry": "hollow"}.get(name, "plain")
        (folder / "config.pbtxt").write_text(f'backend: "{backend}"\n{text}parameters {{ key: "behave" value {{ string_value: "{behave}" }} }}\n')
    # Found before the installed one: beside the version, beside the model, by the name in `runtime`.
    library = backends / "plain" / "libtriton_plain.so"
    for name, place, extra in (("beside_version", "1/libtriton_own.so", ""), ("beside_model", "libtriton_own.so", ""),
                               ("by_runtime", "other.so", 'runtime: "other.so"\n')):
        (root / name / "1").mkdir(parents=True)
        shutil.copy(library, root / name / place)
        (root / name / "config.pbtxt").write_text(f'backend: "own"\n{extra}max_batch_size: 8\n{INT32}')
    (root / "broken_library" / "libtriton_broken.so").write_text("this is no library")
    source = root.parent / "hollow.c"
    source.write_text("int nothing;\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", root / "no_entry" / "libtriton_hollow.so", source], check=True)


class Server:
    def __init__(self, binary, repository, backends, log, *flags):
        self.args = [binary, "serve", "--model-repository", repository, "--backend-directory", backends, "--http-port", "0", "--grpc-port", "0", "--metrics-port",
                     "0", "--exit-on-error", "false", "--strict-readiness", "false", *flags]
        self.log_path = log

    def __enter__(self):
        self.log = open(self.log_path, "w")
        self.process = subprocess.Popen(self.args, stdout=self.log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and "ready after" not in self.text():
            assert self.process.poll() is None, self.text()
            time.sleep(0.02)
        ports = {name: int(re.search(name + r" at \S+?:(\d+)", self.text()).group(1)) for name in
                 ("Started HTTPService", "Started GRPCInferenceService", "Started Metrics Service")}
        self.http, self.grpc, self.metrics = ports.values()
        return self

    def text(self):
        return Path(self.log_path).read_text()

    def __exit__(self, *unused):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        self.log.close()
        assert code == 0 or unused[0], f"the server ended with {code}\n{self.text()}"


def tensor(client, values, datatype="INT32", name="INPUT0"):
    values = np.array(values, dtype=np.object_ if datatype == "BYTES" else np.int32)
    x = client.InferInput(name, list(values.shape), datatype)
    x.set_data_from_numpy(values)
    return [x]


def refused(text, call, *args, **more):
    try:
        call(*args, **more)
    except InferenceServerException as e:
        assert text in e.message(), f"found '{e.message()}', want '{text}'"
        return
    raise AssertionError(f"want an error: {text}")


def check_identity(client, c):
    for model in ("identity", "beside_version", "beside_model", "by_runtime", "callee", "complete"):
        out = c.infer(model, tensor(client, [[1, 2, 3], [4, 5, 6]])).as_numpy("OUTPUT0")
        assert (out == [[1, 2, 3], [4, 5, 6]]).all(), model
    out = c.infer("strings", tensor(client, [["é".encode(), b"", b"\x00\xff"]], "BYTES")).as_numpy("OUTPUT0")
    assert list(out[0]) == ["é".encode(), b"", b"\x00\xff"], out
    for _ in range(3):
        assert (c.infer("late", tensor(client, [1, 2])).as_numpy("OUTPUT0") == [1, 2]).all()


def check_errors(client, c):
    refused("this model fails to execute", c.infer, "fail_execute", tensor(client, [1]))
    refused("this model answers with an error", c.infer, "fail_response", tensor(client, [1]))
    refused("output 'OUTPUT0' holds 2 bytes, want 4 by its shape [1] and datatype INT32", c.infer, "short_output", tensor(client, [1]))
    refused("Request for unknown model: 'nobody' is not found", c.infer, "callee_of_none", tensor(client, [[1]]))
    refused("unexpected inference input 'INPUT9' for model 'identity'", c.infer, "identity", tensor(client, [[1]], name="INPUT9"))


def check_parameters(c):
    r = c.infer("identity", tensor(httpclient, [[1]]), parameters={"word": "x", "number": 7, "flag": True, "real": 0.5}).get_response()
    assert r["parameters"] == {"word": "x", "number": 7, "flag": True, "real": 0.5}, r


def statistics(c, model, done):
    """Of `model`, once done(statistics): a backend reports them when its answers are out already."""
    end = time.time() + 10
    while not done(stats := c.get_inference_statistics(model)["model_stats"][0]):
        assert time.time() < end, stats
        time.sleep(0.01)
    return stats


def check_batches(c):
    running = [c.async_infer("batch", tensor(httpclient, [[i]])) for i in range(8)]
    answers = [r.get_result() for r in running]
    assert [int(a.as_numpy("OUTPUT0")[0][0]) for a in answers] == list(range(8))
    most = max(a.get_response()["parameters"]["requests"] for a in answers)
    stats = statistics(c, "batch", lambda s: sum(b["batch_size"] * b["compute_infer"]["count"] for b in s["batch_stats"]) >= 8)
    assert stats["inference_count"] == 8 and stats["inference_stats"]["success"]["count"] == 8, stats
    assert sum(b["batch_size"] * b["compute_infer"]["count"] for b in stats["batch_stats"]) == 8, stats
    assert stats["execution_count"] == sum(b["compute_infer"]["count"] for b in stats["batch_stats"]), stats
    return most


def check_statistics(c):
    stats = statistics(c, "fail_response", lambda s: s["inference_stats"]["fail"]["count"] >= 2)
    assert stats["inference_stats"]["fail"]["count"] == 2 and stats["inference_stats"]["success"]["count"] == 0, stats
    stats = statistics(c, "fail_execute", lambda s: s["inference_stats"]["fail"]["count"] >= 2)
    assert stats["inference_stats"]["fail"]["count"] == 2 and stats["execution_count"] == 0, stats
    stats = c.get_inference_statistics("identity")["model_stats"][0]
    assert stats["memory_usage"] == [{"type": "CPU", "id": 0, "byte_size": 4096}], stats
    config = c.get_model_config("complete")
    assert config["max_batch_size"] == 8 and config["input"][0]["name"] == "INPUT0", config
    assert config["instance_group"][0]["count"] == 2, config  # the backend's preferred group


def check_stream(port):
    with grpcclient.InferenceServerClient(f"127.0.0.1:{port}") as c:
        answers = queue.Queue()
        c.start_stream(lambda result, error: answers.put((result, error)))
        for count in (5, 0):
            c.async_stream_infer("repeat", tensor(grpcclient, [count], name="IN"), enable_empty_final_response=True)
            got = []
            while True:
                result, error = answers.get(timeout=30)
                assert error is None, error
                if result.as_numpy("OUT") is not None:
                    got.append(int(result.as_numpy("OUT")[0]))
                if result.get_response().parameters["triton_final_response"].bool_param:
                    break
            assert got == list(range(count)), got
        c.async_stream_infer("repeat", tensor(grpcclient, [1000000], name="IN"))
        answers.get(timeout=30)
        c.stop_stream(cancel_requests=True)  # the backend sees the cancellation: the server could not stop in time otherwise
    refused("doesn't support models with decoupled transaction policy", grpcclient.InferenceServerClient(f"127.0.0.1:{port}").infer, "repeat",
            tensor(grpcclient, [1], name="IN"))


def check_sequence(c):
    for sequence, values in ((7, [1, 2, 3]), (8, [10, 20, 30])):
        total = 0
        for i, value in enumerate(values):
            total += value
            r = c.infer("accumulate", tensor(httpclient, [[value]]), sequence_id=sequence, sequence_start=i == 0, sequence_end=i + 1 == len(values))
            assert int(r.as_numpy("OUTPUT0")[0][0]) == total, (sequence, i, r.as_numpy("OUTPUT0"))


def check_index(c):
    reasons = {m["name"]: m.get("reason", "") for m in c.get_model_repository_index()}
    assert "this model fails to initialize" in reasons["fail_initialize"], reasons
    assert "this instance fails to initialize" in reasons["fail_instance"], reasons
    assert "unable to find backend library for backend 'absent', try specifying runtime on the model configuration." in reasons["absent_backend"], reasons
    assert "unable to load shared library" in reasons["broken_library"], reasons
    assert "unable to find required entrypoint 'TRITONBACKEND_ModelInstanceExecute'" in reasons["no_entry"], reasons


def check_trace(c, path):
    """The call of a traced request is traced as its child, and a backend adds stamps of its own."""
    c.update_trace_settings("callee", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    c.infer("callee", tensor(httpclient, [[1, 2]]))
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, "no trace"
        time.sleep(0.01)
    events = json.loads(path.read_text())
    [top] = [e for e in events if e.get("model_name") == "callee"]
    [inner] = [e for e in events if e.get("model_name") == "identity"]
    assert "parent_id" not in top and inner["parent_id"] == top["id"] != inner["id"], events
    names = {s["name"] for e in events for s in e.get("timestamps", []) if e["id"] == top["id"]}
    assert {"ASKS", "REQUEST_START", "COMPUTE_START", "COMPUTE_END", "REQUEST_END", "HTTP_SEND_END"} <= names, names
    c.update_trace_settings("callee", {"trace_level": None, "trace_rate": None})


def check_unload(server, c):
    library = "libtriton_own.so"
    maps = lambda: Path(f"/proc/{server.process.pid}/maps").read_text()
    assert f"beside_model/{library}" in maps()
    c.unload_model("beside_model")
    deadline = time.monotonic() + 10
    while f"beside_model/{library}" in maps():
        assert time.monotonic() < deadline, "the library of an unloaded model is still mapped"
        time.sleep(0.05)
    assert "plain backend 'own' finalized with 0 models and 0 instances" in server.text()
    c.load_model("beside_model")
    assert (c.infer("beside_model", tensor(httpclient, [[4]])).as_numpy("OUTPUT0") == [[4]]).all()
    for _ in range(3):
        c.unload_model("identity")
        c.load_model("identity")


def main():
    binary, backends, work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    repository = work / "models"
    write_models(repository, backends)
    log = work / "server.log"
    with Server(binary, repository, backends, log, "--model-control-mode", "explicit", "--load-model", "*",
                "--trace-config", f"triton,file={work / 'trace.json'}") as server:
        http = httpclient.InferenceServerClient(f"127.0.0.1:{server.http}", concurrency=8)
        grpc = grpcclient.InferenceServerClient(f"127.0.0.1:{server.grpc}")
        for client, c in ((httpclient, http), (grpcclient, grpc)):
            check_identity(client, c)
            check_errors(client, c)
        check_parameters(http)
        most = check_batches(http)
        assert most > 1, "eight requests at once were never batched"
        check_stream(server.grpc)
        check_statistics(http)
        check_sequence(http)
        check_index(http)
        check_trace(http, work / "trace.json")
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{server.metrics}/metrics").read().decode()
        assert 'plain_executions{behave="batch"}' in metrics, metrics
        check_unload(server, http)
        grpc.close()
        http.close()
    text = log.read_text()
    assert re.search(r"plain backend 'plain' finalized with 0 models and 0 instances", text), text[-2000:]
    # A backend that refuses to start says why, for each of its models; a setting without a name is for every backend.
    with Server(binary, repository, backends, log, "--model-control-mode", "explicit", "--load-model", "identity", "--backend-config", "refuse=yes") as server:
        reasons = {m["name"]: m.get("reason", "") for m in httpclient.InferenceServerClient(f"127.0.0.1:{server.http}").get_model_repository_index()}
        assert "refused by --backend-config" in reasons["identity"], json.dumps(reasons)
    print("backends_test: all passed")


main()
