"""Trace files through the published tritonclient: every front end, ensembles, tensors, counts. Usage: traces.py FAKE_SERVER WORK_DIR"""

import http.server
import json
import os
import queue
import shutil
import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path

try:
    import numpy as np
    import tritonclient.grpc as grpc_client
    import tritonclient.http as http_client
except ImportError as e:
    print(f"skipped: {e} (install tools/requirements-test.txt)")
    sys.exit(1 if os.environ.get("CI") else 77)

from fake_server import FakeServer

CORE = ["REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END", "INFER_RESPONSE_COMPLETE", "REQUEST_END"]
HTTP = ["HTTP_RECV_START", "HTTP_RECV_END", "HTTP_SEND_START", "HTTP_SEND_END"]
GRPC = ["GRPC_WAITREAD_START", "GRPC_WAITREAD_END", "GRPC_SEND_START", "GRPC_SEND_END"]


def value(client, values):
    """One row for the models with a batch dimension, which want two values here; the others want one."""
    x = client.InferInput("IN", [1, 2] if len(values) == 2 else [1], "INT32")
    x.set_data_from_numpy(np.array(values, dtype=np.int32).reshape(x.shape()))
    return [x]


def read(path):
    """The traces of a file, by id: what is said of the request, its stamps (name -> times) and its tensors."""
    out = {}
    for event in json.loads(Path(path).read_text()):
        t = out.setdefault(event["id"], {"stamps": {}, "tensors": []})
        for stamp in event.get("timestamps", []):
            t["stamps"].setdefault(stamp["name"], []).append(stamp["ns"])
        if "tensor" in event:
            t["tensors"].append((event["activity"], event["tensor"]))
        t.update({k: v for k, v in event.items() if k in ("model_name", "model_version", "request_id", "parent_id")})
    return out


def wait_for(what, condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, f"not within 20 s: {what}"
        time.sleep(0.01)


def traces_of(path, n, old=()):
    """The traces that came to `path` since `old`, when they are `n`."""
    wait_for(f"{n} traces more in {path}", lambda: path.exists() and len(read(path)) >= len(old) + n)
    new = {k: v for k, v in read(path).items() if k not in old}
    assert len(new) == n, new
    return new


def check_stamps(trace, names):
    """All of them are there, in the order of their times."""
    stamps = trace["stamps"]
    assert sorted(stamps) == sorted(names), (sorted(stamps), names)
    order = [n for n in ("HTTP_RECV_START", "HTTP_RECV_END", "GRPC_WAITREAD_START", "GRPC_WAITREAD_END", *CORE, "HTTP_SEND_START", "HTTP_SEND_END",
                         "GRPC_SEND_START", "GRPC_SEND_END") if n in stamps]
    times = [stamps[n][0] for n in order]
    assert times == sorted(times), list(zip(order, times))


def check_front_ends(s, h, g, path):
    h.infer("single", value(http_client, [1]), request_id="over http")
    first = traces_of(path, 1)
    [trace] = first.values()
    check_stamps(trace, CORE + HTTP)
    assert (trace["model_name"], trace["model_version"], trace["request_id"]) == ("single", 1, "over http") and "parent_id" not in trace, trace
    g.infer("single", value(grpc_client, [1]))
    [trace] = traces_of(path, 1, first).values()
    check_stamps(trace, CORE + GRPC)
    assert "request_id" not in trace
    seen = read(path)
    body = json.dumps({"IN": [1]}).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{s.http_port}/v2/models/single/generate", body) as r:
        assert json.loads(r.read())["OUT"] == 1
    [trace] = traces_of(path, 1, seen).values()
    check_stamps(trace, CORE + HTTP)
    seen = read(path)
    answers = queue.Queue()
    g.start_stream(lambda result, error: answers.put((result, error)))
    g.async_stream_infer("many", value(grpc_client, [3]), enable_empty_final_response=True)
    for _ in range(4):
        assert answers.get(timeout=20)[1] is None
    g.stop_stream()
    [trace] = traces_of(path, 1, seen).values()
    assert len(trace["stamps"]["INFER_RESPONSE_COMPLETE"]) == 3 and len(trace["stamps"]["GRPC_SEND_END"]) == 4, trace["stamps"]


def check_ensemble(h, path):
    seen = read(path)
    h.infer("chain", value(http_client, [1, 2]), request_id="e")
    new = traces_of(path, 3, seen)
    [(top, outer)] = [(k, t) for k, t in new.items() if "parent_id" not in t]
    check_stamps(outer, ["REQUEST_START", "QUEUE_START", "INFER_RESPONSE_COMPLETE", "REQUEST_END"] + HTTP)
    steps = [t for k, t in new.items() if k != top]
    assert outer["model_name"] == "chain" and [t["parent_id"] for t in steps] == [top, top] and {t["request_id"] for t in steps} == {"e"}, new
    for t in steps:
        check_stamps(t, CORE)
        assert t["stamps"]["REQUEST_START"][0] >= outer["stamps"]["REQUEST_START"][0] and t["stamps"]["REQUEST_END"][0] <= outer["stamps"]["REQUEST_END"][0]


def check_tensors(h, g, path):
    for level, stamps in ((["TENSORS"], False), (["TENSORS", "TIMESTAMPS"], True)):
        seen = read(path)
        settings = h.update_trace_settings("single", {"trace_level": level})
        assert sorted(settings["trace_level"]) == sorted(level), settings
        g.infer("single", value(grpc_client, [7]))
        [trace] = traces_of(path, 1, seen).values()
        tensors = dict(trace["tensors"])
        assert tensors["TENSOR_QUEUE_INPUT"] == {"name": "IN", "data": "7", "shape": "1", "dtype": "INT32"}, tensors
        assert tensors["TENSOR_BACKEND_OUTPUT"] == {"name": "OUT", "data": "7", "shape": "1", "dtype": "INT32"}, tensors
        assert bool(trace["stamps"]) == stamps, trace
    h.update_trace_settings("single", {"trace_level": None})


def check_counts(h, g, path):
    once = lambda: g.infer("single", value(grpc_client, [1]))
    seen = read(path)
    setting = lambda name: h.get_trace_settings("single")[name]
    h.update_trace_settings("single", {"trace_count": "2", "trace_rate": "2"})
    for left in ("2", "1", "1", "0", "0", "0"):
        once()
        assert setting("trace_count") == left, "what is left of it"
    assert len(traces_of(Path(f"{path}.0"), 2)) == 2 and read(path) == seen, "the last of the count makes a file"
    assert h.get_trace_settings()["trace_count"] == "-1"
    h.update_trace_settings("single", {"trace_count": None, "trace_rate": None, "log_frequency": "3"})
    for _ in range(4):
        once()
    assert len(traces_of(Path(f"{path}.1"), 3)) == 3 and read(path) == seen
    h.update_trace_settings("single", {"log_frequency": None})
    traces_of(path, 1, seen)  # the fourth
    g.update_trace_settings(settings={"trace_level": ["OFF"]})
    seen = read(path)
    once()
    assert g.get_trace_settings().settings["trace_level"].value[:] == ["OFF"] and read(path) == seen
    g.update_trace_settings(settings={"trace_level": None})
    assert h.get_trace_settings()["trace_level"] == ["TIMESTAMPS"], "what the server was started with"
    once()
    traces_of(path, 1, seen)


class Collector:
    """Takes OTLP's JSON as a collector of OpenTelemetry does: what it got in self.exports."""

    def __enter__(self):
        self.exports = exports = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/json")
                exports.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *unused):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"localhost:{self.server.server_port}/v1/traces"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *unused):
        self.server.shutdown()
        self.server.server_close()

    def spans(self, n):
        """All spans so far, which are `n`."""
        every = lambda: [s for e in self.exports for r in e["resourceSpans"] for scope in r["scopeSpans"] for s in scope["spans"]]
        wait_for(f"{n} spans", lambda: len(every()) >= n)
        assert len(every()) == n, every()
        return every()


def check_tree(spans, want, front_end, parent=("", None)):
    """One trace: `want` is name -> name of the parent. Events are where the old server puts them, times nest."""
    by_id = {s["spanId"]: s for s in spans}
    trace_id = {s["traceId"] for s in spans}
    assert len(trace_id) == 1 and all(s["kind"] == 2 for s in spans), spans
    found = sorted((s["name"], by_id[s["parentSpanId"]]["name"] if s["parentSpanId"] in by_id else None) for s in spans)
    assert found == sorted(want), found
    for s in spans:
        events, times = [e["name"] for e in s["events"]], [int(e["timeUnixNano"]) for e in s["events"]]
        assert int(s["startTimeUnixNano"]) <= int(s["endTimeUnixNano"]) and abs(int(s["endTimeUnixNano"]) / 1e9 - time.time()) < 60
        if s["name"] == "InferRequest":
            assert events == [e for e in front_end if e.endswith(("RECV_START", "RECV_END", "READ_START", "READ_END"))] + ["INFER_RESPONSE_COMPLETE"] + [
                e for e in front_end if "SEND" in e], events
            assert s["parentSpanId"] == parent[0] and parent[1] in (None, s["traceId"]), s
        elif s["name"] == "compute":
            assert events == ["COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END"] and times == sorted(times)
        else:
            assert events == ["REQUEST_START", "QUEUE_START", "REQUEST_END"], events
            of = {a["key"]: a["value"] for a in s["attributes"]}
            assert of["triton.model_name"] == {"stringValue": s["name"]} and of["triton.model_version"] == {"intValue": "1"}, of
            assert int(of["triton.trace_parent_id"]["intValue"]) < int(of["triton.trace_id"]["intValue"])


def check_spans(binary):
    header = {"traceparent": "00-0af7651916cd43dd8448eb211c12666c-b7ad6b7169242424-01"}
    above = ("b7ad6b7169242424", "0af7651916cd43dd8448eb211c12666c")
    single = [("InferRequest", None), ("single", "InferRequest"), ("compute", "single")]
    os.environ.update(OTEL_BSP_MAX_QUEUE_SIZE="1024", OTEL_BSP_SCHEDULE_DELAY="100000", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="many")  # a flag goes before
    with Collector() as c:
        settings = ["level=timestamps", "rate=2", "count=1", "mode=OpenTelemetry", f"opentelemetry,url={c.url}", "opentelemetry,resource=test.key=test.value",
                    "opentelemetry,resource=service.name=test", "opentelemetry,bsp_schedule_delay=20"]
        with FakeServer(binary, "--allow-grpc", "true", "--grpc-port", "0", *(w for s in settings for w in ("--trace-config", s))) as s:
            with http_client.InferenceServerClient(f"127.0.0.1:{s.http_port}") as h, grpc_client.InferenceServerClient(f"127.0.0.1:{s.grpc_port}") as g:
                shown = {"trace_level": ["TIMESTAMPS"], "trace_rate": "2", "trace_count": "1", "trace_mode": "opentelemetry", "url": c.url,
                         "resource": "test.key=test.value,service.name=test", "bsp_max_export_batch_size": "512", "bsp_schedule_delay": "20",
                         "bsp_max_queue_size": "1024"}
                assert h.get_trace_settings() == shown, h.get_trace_settings()
                assert {k: list(v.value) for k, v in g.get_trace_settings("single").settings.items()} == {k: v if isinstance(v, list) else [v] for k, v in shown.items()}
                for _ in range(4):  # the second alone
                    h.infer("single", value(http_client, [1]), request_id="r")
                spans = c.spans(3)
                check_tree(spans, single, HTTP)
                assert {"key": "triton.request_id", "value": {"stringValue": "r"}} in [s for s in spans if s["name"] == "single"][0]["attributes"]
                resource = c.exports[0]["resourceSpans"][0]["resource"]["attributes"]
                assert sorted((a["key"], a["value"]["stringValue"]) for a in resource) == [("service.name", "test"), ("test.key", "test.value")], resource
                # Whoever traces itself is traced, whatever rate and count say.
                g.infer("single", value(grpc_client, [1]), headers=header)
                check_tree(c.spans(6)[3:], single, GRPC, above)
                h.infer("chain", value(http_client, [1, 2]), headers={**header, "tracestate": "a=b"})
                spans = c.spans(12)[6:]
                steps = [s["name"] for s in spans if s["name"] not in ("InferRequest", "chain", "compute")]
                check_tree(spans, [("InferRequest", None), ("chain", "InferRequest"), *((n, "chain") for n in steps), *(("compute", n) for n in steps)], HTTP, above)
                assert {s["traceState"] for s in spans} == {"a=b"}
                h.infer("single", value(http_client, [1]), headers={"traceparent": "00-00000000000000000000000000000000-b7ad6b7169242424-01"})
                h.update_trace_settings(settings={"trace_level": ["OFF"]})
                h.infer("single", value(http_client, [1]), headers=header)
        c.spans(12)  # the server has ended, so nothing more comes


def check_slow_collector(binary):
    """A collector that never ends its answer keeps no server from its end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip():
            taken, _ = listener.accept()
            try:
                while True:
                    taken.sendall(b"H")
                    time.sleep(0.2)
            except OSError:  # the server has gone
                taken.close()

        threading.Thread(target=drip, daemon=True).start()
        settings = ["level=timestamps", "rate=1", "mode=opentelemetry", f"opentelemetry,url=127.0.0.1:{listener.getsockname()[1]}", "opentelemetry,bsp_schedule_delay=0"]
        with FakeServer(binary, "--allow-grpc", "true", "--grpc-port", "0", *(w for s in settings for w in ("--trace-config", s))) as s:
            with http_client.InferenceServerClient(f"127.0.0.1:{s.http_port}") as h:
                for _ in range(3):
                    h.infer("single", value(http_client, [1]))
            begin = time.monotonic()
        assert time.monotonic() - begin < 10, "2 s for spans, and some for the rest"


def main():
    binary, work = sys.argv[1:3]
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    path = Path(work) / "trace.json"
    flags = [word for setting in ("level=TIMESTAMPS", "rate=1", f"triton,file={path}") for word in ("--trace-config", setting)]
    os.environ.update(OTEL_BSP_MAX_QUEUE_SIZE="none", OTEL_BSP_SCHEDULE_DELAY="")  # nothing to who exports no spans
    with FakeServer(binary, "--allow-grpc", "true", "--grpc-port", "0", *flags) as s:
        with http_client.InferenceServerClient(f"127.0.0.1:{s.http_port}") as h, grpc_client.InferenceServerClient(f"127.0.0.1:{s.grpc_port}") as g:
            check_front_ends(s, h, g, path)
            check_ensemble(h, path)
            check_tensors(h, g, path)
            check_counts(h, g, path)
    check_spans(binary)
    check_slow_collector(binary)
    print("traces: all passed")


if __name__ == "__main__":
    main()
