"""The published tritonclient (http and asyncio http) against the server, over the fake models. Usage: client_http.py FAKE_SERVER"""

import asyncio
import sys
import urllib.request

try:
    import ml_dtypes
    import numpy as np
    import tritonclient.http as client
    import tritonclient.http.aio as aio
    import tritonclient.utils.shared_memory as shm
    from tritonclient.utils import InferenceServerException
except ImportError as e:
    print(f"skipped: {e} (install tools/requirements-test.txt)")
    sys.exit(77)

from fake_server import FakeServer


def add_sub_inputs(binary):
    inputs = []
    for name, values in (("INPUT0", [[1, 2, 3, 4]]), ("INPUT1", [[1, 1, 1, 1]])):
        x = client.InferInput(name, [1, 4], "INT32")
        x.set_data_from_numpy(np.array(values, dtype=np.int32), binary_data=binary)
        inputs.append(x)
    return inputs


def check_metadata(c):
    assert c.is_server_live() and c.is_server_ready() and c.is_model_ready("add_sub") and c.is_model_ready("add_sub", "1")
    assert c.get_server_metadata()["name"] == "triton"
    assert c.get_model_metadata("add_sub")["inputs"][0] == {"name": "INPUT0", "datatype": "INT32", "shape": [-1, 4]}
    assert c.get_model_config("add_sub")["max_batch_size"] == 4
    assert any(m["name"] == "llm" for m in c.get_model_repository_index())
    assert not c.is_model_ready("unheard_of")
    try:
        c.get_model_metadata("unheard_of")
        raise AssertionError("metadata of an unknown model")
    except InferenceServerException as e:
        assert e.status() == "404" and "Request for unknown model: 'unheard_of' is not found" in e.message(), e


def check_infer(c):
    want = np.array([[2, 3, 4, 5]], dtype=np.int32)
    for binary_in in (False, True):
        for binary_out in (False, True):
            for compression in (None, "gzip", "deflate"):
                outputs = [client.InferRequestedOutput("OUTPUT0", binary_data=binary_out)]
                r = c.infer("add_sub", add_sub_inputs(binary_in), outputs=outputs, request_id="r1",
                            request_compression_algorithm=compression, response_compression_algorithm=compression)
                assert (r.as_numpy("OUTPUT0") == want).all()
                assert r.as_numpy("OUTPUT1") is None and r.get_response()["id"] == "r1"
    r = c.infer("add_sub", add_sub_inputs(True))
    assert (r.as_numpy("OUTPUT1") == [[0, 1, 2, 3]]).all()
    r = c.infer("add_sub", add_sub_inputs(True), outputs=[client.InferRequestedOutput("OUTPUT0", class_count=2)])
    assert [x.decode().split(":")[1] for x in r.as_numpy("OUTPUT0")[0]] == ["3", "2"]


def check_datatypes(c):
    rows = {"BOOL": np.array([[True, False]]), "FP16": np.array([[1.5, -2]], np.float16), "FP32": np.array([[0.1]], np.float32),
            "FP64": np.array([[0.1]]), "INT8": np.array([[-128]], np.int8), "UINT64": np.array([[2**64 - 1]], np.uint64),
            "BYTES": np.array([["é".encode(), b"", b"\x00\xff"]], dtype=np.object_)}
    for name, values in rows.items():
        x = client.InferInput(f"I_{name}", list(values.shape), name)
        x.set_data_from_numpy(values)
        out = c.infer("echo", [x], parameters={"k": 1}).as_numpy(f"O_{name}")
        assert (out == values).all(), (name, out)
    x = client.InferInput("I_BF16", [1, 2], "BF16")
    x.set_data_from_numpy(np.array([[1.5, -2]], ml_dtypes.bfloat16))
    assert (c.infer("echo", [x]).as_numpy("O_BF16").astype(np.float32) == [[1.5, -2]]).all()


def check_async(c):
    pending = [c.async_infer("add_sub", add_sub_inputs(True)) for _ in range(50)]
    for p in pending:
        assert (p.get_result().as_numpy("OUTPUT0") == [[2, 3, 4, 5]]).all()


def check_control(c):
    c.unload_model("raw")
    assert not c.is_model_ready("raw")
    c.load_model("raw")
    assert c.is_model_ready("raw")
    try:
        c.load_model("unloadable")
        raise AssertionError("a broken model loaded")
    except InferenceServerException as e:
        assert "this model never loads" in e.message()
    assert c.update_trace_settings("add_sub", {"trace_rate": "7"})["trace_rate"] == "7"
    assert c.get_trace_settings()["trace_rate"] == "1000"
    assert c.update_log_settings({"log_verbose_level": 1})["log_verbose_level"] == 1
    stats = c.get_inference_statistics("add_sub")["model_stats"][0]
    assert stats["inference_stats"]["success"]["count"] > 50 and stats["execution_count"] > 50


def check_shared_memory(c):
    data = np.array([[5, 6, 7, 8]], dtype=np.int32)
    region = shm.create_shared_memory_region("in_out", "/ingot_test_shm", 64)
    try:
        shm.set_shared_memory_region(region, [data, np.ones((1, 4), np.int32)])
        c.register_system_shared_memory("in_out", "/ingot_test_shm", 64)
        assert c.get_system_shared_memory_status("in_out")[0]["byte_size"] == 64
        inputs = [client.InferInput(n, [1, 4], "INT32") for n in ("INPUT0", "INPUT1")]
        inputs[0].set_shared_memory("in_out", 16)
        inputs[1].set_shared_memory("in_out", 16, offset=16)
        out = client.InferRequestedOutput("OUTPUT0")
        out.set_shared_memory("in_out", 16, offset=32)
        c.infer("add_sub", inputs, outputs=[out])
        assert (shm.get_contents_as_numpy(region, np.int32, [1, 4], 32) == data + 1).all()
        try:
            inputs[0].set_shared_memory("in_out", 16, offset=60)
            c.infer("add_sub", inputs)
            raise AssertionError("a tensor beyond its region")
        except InferenceServerException as e:
            assert "Invalid offset + byte size for shared memory region" in e.message(), e
        c.unregister_system_shared_memory()
        assert c.get_system_shared_memory_status() == []
    finally:
        shm.destroy_shared_memory_region(region)


async def check_aio(port):
    async with aio.InferenceServerClient(f"localhost:{port}") as c:
        assert await c.is_server_live() and not await c.is_server_ready()  # a model has failed to load
        results = await asyncio.gather(*(c.infer("add_sub", add_sub_inputs(True)) for _ in range(50)))
        assert all((r.as_numpy("OUTPUT0") == [[2, 3, 4, 5]]).all() for r in results)


def check_metrics(port):
    text = urllib.request.urlopen(f"http://localhost:{port}/metrics").read().decode()
    assert 'nv_inference_request_success{model="add_sub",version="1"}' in text
    assert urllib.request.urlopen(f"http://localhost:{port}/anything").read() == b""


def main():
    with FakeServer(sys.argv[1]) as server:
        c = client.InferenceServerClient(f"localhost:{server.http_port}", concurrency=8)
        for check in (check_metadata, check_infer, check_datatypes, check_async, check_control, check_shared_memory):
            check(c)
            print(check.__name__, "passed")
        asyncio.run(check_aio(server.http_port))
        check_metrics(server.metrics_port)
        c.close()
    print("client_http: all passed")


main()
