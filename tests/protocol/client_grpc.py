"""The published tritonclient (gRPC, streaming and asyncio) against the server, over the fake models. Usage: client_grpc.py FAKE_SERVER"""

import asyncio
import os
import queue
import sys

try:
    import grpc
    import numpy as np
    import tritonclient.grpc as client
    import tritonclient.grpc.aio as aio
    import tritonclient.utils.shared_memory as shm
    from tritonclient.grpc import model_config_pb2, service_pb2
    from tritonclient.utils import InferenceServerException
except ImportError as e:
    print(f"skipped: {e} (install tools/requirements-test.txt)")
    sys.exit(1 if os.environ.get("CI") else 77)

from fake_server import FakeServer


def add_sub_inputs():
    inputs = []
    for name, values in (("INPUT0", [[1, 2, 3, 4]]), ("INPUT1", [[1, 1, 1, 1]])):
        x = client.InferInput(name, [1, 4], "INT32")
        x.set_data_from_numpy(np.array(values, dtype=np.int32))
        inputs.append(x)
    return inputs


def many_inputs(n):
    x = client.InferInput("IN", [1], "INT32")
    x.set_data_from_numpy(np.array([n], dtype=np.int32))
    return [x]


def refused(code, text, call, *args, **more):
    try:
        call(*args, **more)
    except InferenceServerException as e:
        assert code in str(e.status()) and text in e.message(), e
        return
    raise AssertionError(f"want {code}: {text}")


def check_server(c):
    assert c.is_server_live() and c.is_server_ready() and c.is_model_ready("add_sub") and c.is_model_ready("add_sub", "1")
    assert not c.is_model_ready("unheard_of")
    m = c.get_server_metadata()
    assert m.name == "triton" and "statistics" in m.extensions
    m = c.get_model_metadata("add_sub")
    assert m.inputs[0].name == "INPUT0" and m.inputs[0].datatype == "INT32" and list(m.inputs[0].shape) == [-1, 4] and list(m.versions) == ["1"]
    config = c.get_model_config("add_sub").config
    assert config.max_batch_size == 4 and config.input[0].data_type == model_config_pb2.TYPE_INT32
    assert any(m.name == "llm" and m.state == "READY" for m in c.get_model_repository_index().models)
    refused("NOT_FOUND", "Request for unknown model: 'unheard_of' is not found", c.get_model_metadata, "unheard_of")


def check_infer(c):
    r = c.infer("add_sub", add_sub_inputs(), request_id="r1", outputs=[client.InferRequestedOutput("OUTPUT0")])
    assert (r.as_numpy("OUTPUT0") == [[2, 3, 4, 5]]).all() and r.as_numpy("OUTPUT1") is None
    assert r.get_response().id == "r1" and r.get_response().model_version == "1"
    for compression in ("gzip", "deflate"):
        r = c.infer("add_sub", add_sub_inputs(), compression_algorithm=compression)
        assert (r.as_numpy("OUTPUT1") == [[0, 1, 2, 3]]).all()
    r = c.infer("add_sub", add_sub_inputs(), outputs=[client.InferRequestedOutput("OUTPUT0", class_count=2)])
    assert [x.decode().split(":")[1] for x in r.as_numpy("OUTPUT0")[0]] == ["3", "2"]
    answers = queue.Queue()
    c.async_infer("add_sub", add_sub_inputs(), lambda result, error: answers.put(error or result))
    assert (answers.get(timeout=30).as_numpy("OUTPUT0") == [[2, 3, 4, 5]]).all()
    refused("INVALID_ARGUMENT", "expected 2 inputs but got 1", c.infer, "add_sub", add_sub_inputs()[:1])
    refused("UNIMPLEMENTED", "ModelInfer RPC doesn't support models with decoupled transaction policy", c.infer, "many", many_inputs(2))
    stats = c.get_inference_statistics("add_sub").model_stats[0]
    assert stats.inference_stats.success.count >= 5 and stats.inference_stats.fail.count >= 0, stats


def typed_contents(port):
    """Contents in typed fields, as clients without numpy send them."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", request_serializer=service_pb2.ModelInferRequest.SerializeToString,
                                    response_deserializer=service_pb2.ModelInferResponse.FromString)
        request = service_pb2.ModelInferRequest(model_name="add_sub")
        for name in ("INPUT0", "INPUT1"):
            t = request.inputs.add(name=name, datatype="INT32", shape=[1, 4])
            t.contents.int_contents.extend([1, 2, 3, 4])
        r = infer(request)
        assert np.frombuffer(r.raw_output_contents[0], np.int32).tolist() == [2, 4, 6, 8]
        request.inputs[0].contents.int_contents.append(5)
        try:
            infer(request)
            raise AssertionError("five values for a tensor of four")
        except grpc.RpcError as e:
            assert e.code() == grpc.StatusCode.INVALID_ARGUMENT, e
        health = channel.unary_unary("/grpc.health.v1.Health/Check", request_serializer=lambda b: b, response_deserializer=lambda b: b)
        assert health(b"") == b"\x08\x01"  # SERVING


def check_stream(port):
    with client.InferenceServerClient(f"127.0.0.1:{port}") as c:
        answers = queue.Queue()
        c.start_stream(lambda result, error: answers.put((result, error)))
        c.async_stream_infer("many", many_inputs(3), request_id="m", enable_empty_final_response=True)
        got = []
        while not got or not got[-1].parameters["triton_final_response"].bool_param:
            result, error = answers.get(timeout=30)
            assert error is None, error
            got.append(result.get_response())
        assert len([r for r in got if r.outputs]) == 3 and all(r.id == "m" for r in got), got
        c.async_stream_infer("unheard_of", add_sub_inputs(), request_id="bad")
        result, error = answers.get(timeout=30)
        assert "Request for unknown model" in error.message(), error
        for i in range(20):  # the stream is still open; single answers keep the order of their requests
            c.async_stream_infer("add_sub", add_sub_inputs(), request_id=str(i))
        for i in range(20):
            result, error = answers.get(timeout=30)
            assert error is None and result.get_response().id == str(i), (i, result, error)
            assert result.get_response().parameters["triton_final_response"].bool_param
        c.async_stream_infer("blocked", many_inputs(1), request_id="b")
        c.stop_stream(cancel_requests=True)  # ends the blocked request, or the server could not stop in time


def check_settings(c):
    assert c.update_trace_settings("add_sub", {"trace_rate": "7"}).settings["trace_rate"].value[0] == "7"
    assert c.get_trace_settings("add_sub").settings["trace_rate"].value[0] == "7"
    assert c.update_trace_settings("add_sub", {"trace_rate": None}).settings["trace_rate"].value[0] == "1000"
    assert c.update_log_settings({"log_verbose_level": 1}).settings["log_verbose_level"].uint32_param == 1
    assert c.update_log_settings({"log_verbose_level": 0}).settings["log_verbose_level"].uint32_param == 0
    refused("UNIMPLEMENTED", "log file location", c.update_log_settings, {"log_file": "x"})


def check_shared_memory(c):
    region = shm.create_shared_memory_region("in", "/ingot_grpc_test", 64)
    try:
        shm.set_shared_memory_region(region, [np.array([[1, 2, 3, 4]], dtype=np.int32), np.array([[5, 6, 7, 8]], dtype=np.int32)])
        c.register_system_shared_memory("in", "/ingot_grpc_test", 64)
        assert c.get_system_shared_memory_status().regions["in"].byte_size == 64
        inputs = []
        for name, offset in (("INPUT0", 0), ("INPUT1", 16)):
            x = client.InferInput(name, [1, 4], "INT32")
            x.set_shared_memory("in", 16, offset)
            inputs.append(x)
        out = client.InferRequestedOutput("OUTPUT0")
        out.set_shared_memory("in", 16, 32)
        r = c.infer("add_sub", inputs, outputs=[out])
        assert r.get_output("OUTPUT0").parameters["shared_memory_region"].string_param == "in"
        assert shm.get_contents_as_numpy(region, np.int32, [1, 4], 32).tolist() == [[6, 8, 10, 12]]
        c.unregister_system_shared_memory("in")
        assert "in" not in c.get_system_shared_memory_status().regions
    finally:
        shm.destroy_shared_memory_region(region)


def check_control(c):
    c.unload_model("add_sub")
    assert not c.is_model_ready("add_sub")
    c.load_model("add_sub")
    assert c.is_model_ready("add_sub")


async def check_aio(port):
    async with aio.InferenceServerClient(f"127.0.0.1:{port}") as c:
        assert await c.is_server_ready()
        r = await c.infer("add_sub", add_sub_inputs())
        assert (r.as_numpy("OUTPUT0") == [[2, 3, 4, 5]]).all()

        async def requests():
            yield {"model_name": "many", "inputs": many_inputs(2), "request_id": "a"}

        got = [result.get_response().id async for result, error in c.stream_infer(requests()) if error is None]
        assert got == ["a", "a"], got


def check_restrictions(binary):
    with FakeServer(binary, "--allow-grpc", "true", "--grpc-port", "0", "--grpc-restricted-protocol", "model-repository:key=word") as s:
        with client.InferenceServerClient(f"127.0.0.1:{s.grpc_port}") as c:
            refused("UNAVAILABLE", "expecting header 'triton-grpc-protocol-key'", c.get_model_repository_index)
            assert c.get_model_repository_index(headers={"triton-grpc-protocol-key": "word"}).models
            assert c.is_server_live()


def main():
    binary = sys.argv[1]
    with FakeServer(binary, "--allow-grpc", "true", "--grpc-port", "0") as s:
        with client.InferenceServerClient(f"127.0.0.1:{s.grpc_port}") as c:
            check_server(c)
            check_infer(c)
            typed_contents(s.grpc_port)
            check_stream(s.grpc_port)
            check_settings(c)
            check_shared_memory(c)
            check_control(c)
        asyncio.run(check_aio(s.grpc_port))
    check_restrictions(binary)
    print("tritonclient gRPC: all passed")


if __name__ == "__main__":
    main()
