"""Schedulers through the published tritonclient: batches, queue policies, sequences, ensembles, the cache. Usage: schedulers.py FAKE_SERVER"""

import os
import queue
import sys
import threading
import time
import urllib.request

try:
    import numpy as np
    import tritonclient.grpc as grpc_client
    import tritonclient.http as http_client
    import tritonclient.utils.shared_memory as shm
    from tritonclient.utils import InferenceServerException
except ImportError as e:
    print(f"skipped: {e} (install tools/requirements-test.txt)")
    sys.exit(1 if os.environ.get("CI") else 77)

from fake_server import FakeServer


def value(client, values, shape):
    x = client.InferInput("IN", shape, "INT32")
    x.set_data_from_numpy(np.array(values, dtype=np.int32).reshape(shape))
    return [x]


def refused(status, text, call, *args, **more):
    try:
        call(*args, **more)
    except InferenceServerException as e:
        assert status in str(e.status()) and text in e.message(), (e.status(), e.message())
        return
    raise AssertionError(f"want {status}: {text}")


def together(n, call):
    """n calls at once; their results in order, an exception where one was raised."""
    results = [None] * n

    def run(i):
        try:
            results[i] = call(i)
        except Exception as e:  # the caller looks at it
            results[i] = e

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results


def pending(port, model):
    """Requests in the model's queue."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    return float(text.split(f'nv_inference_pending_request_count{{model="{model}",version="1"}} ')[1].split()[0])


def wait_for(what, condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, f"not within 20 s: {what}"
        time.sleep(0.002)


def check_batches(h, g, port):
    config = h.get_model_config("batched")
    assert config["dynamic_batching"]["preferred_batch_size"] == [4, 8], config
    assert config["instance_group"][0]["kind"] == "KIND_CPU" and config["instance_group"][0]["count"] == 1, config
    start = time.time()
    results = together(4, lambda i: g.infer("batched", value(grpc_client, [i, i], [1, 2])))
    assert time.time() - start < 0.45, "a preferred size does not wait for the delay"
    for i, r in enumerate(results):
        assert r.as_numpy("OUT").tolist() == [[i, i]] and r.as_numpy("BATCH").tolist() == [[4]], (i, r)
    start = time.time()
    r = h.infer("batched", value(http_client, [1, 2, 3, 4], [2, 2]))
    assert time.time() - start >= 0.4 and r.as_numpy("BATCH").tolist() == [[2], [2]]
    stats = h.get_inference_statistics("batched")["model_stats"][0]
    assert stats["inference_count"] == 6 and stats["execution_count"] == 2, stats
    assert {b["batch_size"]: b["compute_infer"]["count"] for b in stats["batch_stats"]} == {4: 1, 2: 1}, stats
    # Other shapes make another batch.
    widths, two_wait = [2, 2, 3, 3], threading.Event()

    def one(i):
        if i == 4:
            wait_for("the first two wait for a batch", lambda: pending(port, "batched") == 2)
            return two_wait.set()
        if i >= 2:
            assert two_wait.wait(20)
        return g.infer("batched", value(grpc_client, [i] * widths[i], [1, widths[i]]))

    results = together(5, one)[:4]
    assert all(r.as_numpy("BATCH").tolist() == [[2]] for r in results), results


def check_priorities(g, port):
    order = queue.Queue()

    def send(name, **more):
        g.async_infer("priority", value(grpc_client, [1], [1, 1]), lambda result, error: order.put((name, error)), **more)

    send("one of two")
    send("one of two")
    wait_for("one runs, one waits", lambda: pending(port, "priority") == 1)
    send("high", priority=1)
    wait_for("two wait", lambda: pending(port, "priority") == 2)
    send("low", priority=2)
    wait_for("three wait", lambda: pending(port, "priority") == 3)
    send("late", timeout=1000)
    got = [order.get(timeout=10) for _ in range(5)]
    assert [name for name, error in got] == ["late", "one of two", "high", "one of two", "low"], got
    assert "Request timeout expired" in got[0][1].message() and "UNAVAILABLE" in str(got[0][1].status()), got
    results = together(12, lambda i: g.infer("priority", value(grpc_client, [1], [1, 1])))
    full = [r for r in results if isinstance(r, InferenceServerException)]
    assert full and all("Exceeds maximum queue size" in r.message() and "UNAVAILABLE" in str(r.status()) for r in full), results


def check_sequences(h, g, http_port):
    for client, c in ((http_client, h), (grpc_client, g)):
        for model in ("running_sum", "oldest"):

            def run(i, c=c, client=client, model=model):
                out = []
                if client is http_client:  # one of those belongs to one thread
                    c = http_client.InferenceServerClient(f"127.0.0.1:{http_port}")
                for k in range(1, 5):
                    r = c.infer(model, value(client, [k * (i + 1)], [1, 1]), sequence_id=100 + i, sequence_start=k == 1, sequence_end=k == 4)
                    assert r.as_numpy("WHO").tolist() == [[100 + i]]
                    out.append(int(r.as_numpy("OUT")[0][0]))
                return out

            # More sequences than slots: the last ones wait in the backlog.
            assert together(7, run) == [[1 * i, 3 * i, 6 * i, 10 * i] for i in range(1, 8)]
        text = "must specify the START flag on the first request of the sequence"
        status = "400" if client is http_client else "INVALID_ARGUMENT"
        refused(status, f"inference request for sequence 5 to model 'running_sum' {text}", c.infer, "running_sum", value(client, [1], [1, 1]), sequence_id=5)
        refused(status, "must specify a non-zero or non-empty correlation ID", c.infer, "running_sum", value(client, [1], [1, 1]))
        refused(status, "must specify batch-size 1 due to requirements of sequence batcher", c.infer, "running_sum", value(client, [1, 2], [2, 1]), sequence_id=5,
                sequence_start=True)
        r = c.infer("names", value(client, [3], [1]), sequence_id="a name", sequence_start=True)
        assert r.as_numpy("WHO").tolist() == [b"a name"] and r.as_numpy("OUT").tolist() == [3]
        assert c.infer("names", value(client, [4], [1]), sequence_id="a name", sequence_end=True).as_numpy("OUT").tolist() == [7]
    h.infer("running_sum", value(http_client, [1], [1, 1]), sequence_id=9, sequence_start=True)
    time.sleep(0.6)  # twice max_sequence_idle_microseconds: any question in between would keep the sequence alive
    refused("400", "inference request for sequence 9 to model 'running_sum' must specify the START flag", h.infer, "running_sum", value(http_client, [1], [1, 1]),
            sequence_id=9)
    # Idle sequences make room for one that waits.
    for i in range(4):
        h.infer("running_sum", value(http_client, [1], [1, 1]), sequence_id=20 + i, sequence_start=True)
    r = g.infer("running_sum", value(grpc_client, [6], [1, 1]), sequence_id=30, sequence_start=True, sequence_end=True, client_timeout=20)
    assert r.as_numpy("OUT").tolist() == [[6]]


def check_shared_memory(h, g, http_port, metrics_port):
    """A region that is unregistered while a request uses it goes when that has ended."""
    region = shm.create_shared_memory_region("both", "/ingot_in_use", 64)
    try:
        for client, c in ((http_client, h), (grpc_client, g)):
            shm.set_shared_memory_region(region, [np.array([5, 6], np.int32)])
            c.register_system_shared_memory("both", "/ingot_in_use", 64)
            x = client.InferInput("IN", [1, 2], "INT32")
            x.set_shared_memory("both", 8)
            out = client.InferRequestedOutput("OUT")
            out.set_shared_memory("both", 8, offset=16)
            known = lambda: len(h.get_system_shared_memory_status())
            ends = queue.Queue()

            def run(c=c, client=client, x=x, out=out, ends=ends):
                if client is http_client:
                    c = http_client.InferenceServerClient(f"127.0.0.1:{http_port}")
                ends.put(c.infer("batched", [x], outputs=[out]))

            t = threading.Thread(target=run)
            t.start()
            wait_for("it waits for a batch", lambda: pending(metrics_port, "batched") == 1)
            c.unregister_system_shared_memory("both")
            assert known() == 1 or not ends.empty(), "in use"
            t.join()
            assert ends.get(timeout=1).get_response() is not None
            assert shm.get_contents_as_numpy(region, np.int32, [2], 16).tolist() == [5, 6]
            wait_for("it is gone", lambda: known() == 0)
            refused("", "Unable to find shared memory region: 'both'", c.infer, "batched", [x], outputs=[out])
    finally:
        shm.destroy_shared_memory_region(region)


def check_ensembles(h, g, port):
    r = h.infer("chain", value(http_client, list(range(8)), [4, 2]))
    assert r.as_numpy("OUT").tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert h.get_model_config("stream")["model_transaction_policy"]["decoupled"] is True
    refused("UNIMPLEMENTED", "doesn't support models with decoupled transaction policy", g.infer, "stream", value(grpc_client, [2], [1]))
    with grpc_client.InferenceServerClient(f"127.0.0.1:{port}") as c:
        answers = queue.Queue()
        c.start_stream(lambda result, error: answers.put((result, error)))
        c.async_stream_infer("stream", value(grpc_client, [100], [1]), request_id="s", enable_empty_final_response=True)
        got = []
        while True:
            result, error = answers.get(timeout=30)
            assert error is None, error
            response = result.get_response()
            if response.parameters["triton_final_response"].bool_param:
                break
            got.append(int(result.as_numpy("OUT")[0]))
        assert got == list(range(100)), got
        c.stop_stream()
    stats = {m["name"]: m for m in h.get_inference_statistics()["model_stats"]}
    assert stats["single"]["inference_count"] == 100 and stats["stream"]["inference_stats"]["success"]["count"] == 1, stats["single"]
    h.unload_model("single")
    assert not h.is_model_ready("stream"), "an ensemble goes with its member"
    h.load_model("stream")
    assert h.is_model_ready("single"), "an ensemble brings its members"


def check_cache(h, metrics_port):
    for _ in range(3):
        r = h.infer("cached", value(http_client, [42, 43], [1, 2]))
        assert r.as_numpy("OUT").tolist() == [[42, 43]]
    stats = h.get_inference_statistics("cached")["model_stats"][0]["inference_stats"]
    assert stats["cache_hit"]["count"] >= 2 and stats["cache_miss"]["count"] >= 1, stats
    text = urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics").read().decode()
    assert 'nv_cache_num_hits_per_model{model="cached",version="1"} 2' in text, text
    assert 'nv_inference_exec_count{model="cached",version="1"} 2' in text, "one for the chain, one for the first of the three"


def main():
    with FakeServer(sys.argv[1], "--allow-grpc", "true", "--grpc-port", "0", "--cache-config", "local,size=1000000", "--log-warning", "false") as s:
        with http_client.InferenceServerClient(f"127.0.0.1:{s.http_port}", concurrency=16) as h, grpc_client.InferenceServerClient(f"127.0.0.1:{s.grpc_port}") as g:
            check_batches(h, g, s.metrics_port)
            check_priorities(g, s.metrics_port)
            check_sequences(h, g, s.http_port)
            check_shared_memory(h, g, s.http_port, s.metrics_port)
            check_ensembles(h, g, s.grpc_port)
            check_cache(h, s.metrics_port)
    print("schedulers: all passed")


if __name__ == "__main__":
    main()
