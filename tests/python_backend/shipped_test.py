"""The backends that come with the server (onnxruntime, openvino), and models of the classic pre- and postprocessing kind with
Transformers. Usage: shipped_test.py INGOT WORK_DIR"""

import importlib.util
import json
import os
import shutil
import sys

try:
    import numpy as np
    import tritonclient.http as httpclient
except ImportError as e:
    print(f"skipped: {e} (install tools/requirements-test.txt)")
    sys.exit(1 if os.environ.get("CI") else 77)

from python_server import HERE, PythonServer

FIXTURE = HERE.parent / "fixtures" / "text" / "bpe" / "tokenizer.json"


# ONNX files by hand: the few fields of its protobuf messages that a model of one node has.
def field(number, value):
    def varint(n):
        out = b""
        while n > 127:
            out += bytes([n & 127 | 128])
            n >>= 7
        return out + bytes([n])

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def value_info(name, elem_type, dims):
    shape = b"".join(field(1, field(2, d) if isinstance(d, str) else field(1, d)) for d in dims)
    return field(1, name) + field(2, field(1, field(1, elem_type) + field(2, shape)))


def onnx_model(op, inputs, output, elem_type, dims):
    node = b"".join(field(1, i) for i in inputs) + field(2, output) + field(4, op)
    graph = field(1, node) + field(2, "g") + b"".join(field(11, value_info(i, elem_type, dims)) for i in inputs)
    graph += field(12, value_info(output, elem_type, dims))
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


def infer(c, model, **arrays):
    inputs = []
    for name, array in arrays.items():
        kind = {"float32": "FP32", "int32": "INT32", "int64": "INT64", "object": "BYTES"}[array.dtype.name]
        inputs.append(httpclient.InferInput(name, list(array.shape), kind))
        inputs[-1].set_data_from_numpy(array)
    return c.infer(model, inputs)


def refused(call, *args, **more):
    try:
        call(*args, **more)
    except Exception as e:
        return str(e)
    raise AssertionError("want an error")


def add_onnx(s, name, data, config=None, file="model.onnx"):
    (s.repository / name / "1").mkdir(parents=True)
    (s.repository / name / "1" / file).write_bytes(data)
    if config is not None:
        (s.repository / name / "config.pbtxt").write_text(config)


def check_runtime(s, c, backend):
    add = onnx_model("Add", ["A", "B"], "C", 1, ["N", 4])
    # The file tells all: types, shapes, that it can be batched. Only the onnxruntime backend is guessed from model.onnx.
    add_onnx(s, backend + "_add", add, None if backend == "onnxruntime" else f'backend: "{backend}"')
    c.load_model(backend + "_add")
    config = c.get_model_config(backend + "_add")
    assert config["max_batch_size"] == 4 and config["backend"] == backend and "dynamic_batching" in config, config
    assert [(t["name"], t["data_type"], t["dims"]) for t in config["input"] + config["output"]] == [(n, "TYPE_FP32", [4]) for n in "ABC"], config
    a, b = np.arange(8, dtype=np.float32).reshape(2, 4), np.ones((2, 4), np.float32)
    assert (infer(c, backend + "_add", A=a, B=b).as_numpy("C") == a + b).all()
    # Fixed shapes: no batching.
    add_onnx(s, backend + "_fixed", onnx_model("Neg", ["X"], "Y", 6, [2, 3]), f'backend: "{backend}" instance_group [ {{ count: 2 kind: KIND_CPU }} ]')
    c.load_model(backend + "_fixed")
    config = c.get_model_config(backend + "_fixed")
    assert config["max_batch_size"] == 0 and config["input"][0]["dims"] == [2, 3], config
    x = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert (infer(c, backend + "_fixed", X=x).as_numpy("Y") == -x).all()
    # A config that contradicts the file, a file that is none, no file.
    wrong = 'max_batch_size: 2 input [ { name: "A" data_type: TYPE_INT32 dims: [ 4 ] } ]'
    add_onnx(s, backend + "_wrong", add, f'backend: "{backend}" {wrong}')
    message = refused(c.load_model, backend + "_wrong")
    assert "'A'" in message and "TYPE_INT32" in message, message
    add_onnx(s, backend + "_broken", b"no protobuf", f'backend: "{backend}"')
    refused(c.load_model, backend + "_broken")
    add_onnx(s, backend + "_none", b"", f'backend: "{backend}"', file="other")
    message = refused(c.load_model, backend + "_none")
    assert "found no" in message and "model.onnx" in message, message


def check_batch_with_a_wrong_one(s, c):
    """A text that is none, in one batch with another request: an error of its own alone."""
    add_onnx(s, "texts", onnx_model("Identity", ["X"], "Y", 8, ["N", 1]),
             'backend: "onnxruntime" max_batch_size: 2 dynamic_batching { preferred_batch_size: 2 max_queue_delay_microseconds: 2000000 }')
    c.load_model("texts")
    asked = []
    for text in (b"\xff", "é".encode()):
        x = httpclient.InferInput("X", [1, 1], "BYTES")
        x.set_data_from_numpy(np.array([[text]], np.object_))
        asked.append(c.async_infer("texts", [x]))
    message = refused(asked[0].get_result)
    assert "onnx runtime: 'utf-8' codec can't decode" in message, message
    assert asked[1].get_result().as_numpy("Y").tolist() == [["é".encode()]]
    runs = c.get_inference_statistics("texts")["model_stats"][0]
    assert runs["execution_count"] == 1, runs


def check_openvino_ir(c, s):
    import openvino
    from openvino import opset13 as ops

    x = ops.parameter([-1, 2], np.float32, name="X")
    y = ops.relu(x)
    y.output(0).set_names({"Y"})
    x.output(0).set_names({"X"})
    folder = s.repository / "ir" / "1"
    folder.mkdir(parents=True)
    openvino.save_model(openvino.Model([y], [x]), str(folder / "model.xml"))
    c.load_model("ir")  # model.xml tells the backend
    assert infer(c, "ir", X=np.array([[-1, 2]], np.float32)).as_numpy("Y").tolist() == [[0, 2]]


def check_pre_and_post(c, s):
    tokenizer = s.work / "tokenizer"
    tokenizer.mkdir()
    shutil.copy(FIXTURE, tokenizer / "tokenizer.json")
    vocabulary = json.loads(FIXTURE.read_text())
    eos = vocabulary["added_tokens"][0]["content"]
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, "pad_token": eos}))
    for name in ("preprocessing", "postprocessing"):
        shutil.copytree(HERE / "models" / name, s.repository / name)
        path = s.repository / name / "config.pbtxt"
        path.write_text(path.read_text().replace("$tokenizer_dir", str(tokenizer)))
        c.load_model(name)
    text = "Hello world, what a day"
    pre = infer(c, "preprocessing", QUERY=np.array([[text], ["Hello"]], np.object_), REQUEST_OUTPUT_LEN=np.array([[8], [9]], np.int32),
                STOP_WORDS_DICT=np.array([["day", "what"], ["world", ""]], np.object_))
    ids, lengths = pre.as_numpy("INPUT_ID"), pre.as_numpy("REQUEST_INPUT_LEN")
    assert ids.shape == (2, lengths.max()) and lengths[0] > lengths[1], (ids, lengths)
    assert pre.as_numpy("REQUEST_OUTPUT_LEN").tolist() == [[8], [9]] and pre.as_numpy("BAD_WORDS_IDS").shape == (2, 2, 0)
    stop = pre.as_numpy("STOP_WORDS_IDS")
    assert stop.dtype == np.int32 and stop.shape[:2] == (2, 2) and (stop[1, 1] == -1).any(), stop
    assert pre.as_numpy("OUT_END_ID").shape == (2, 1)
    post = infer(c, "postprocessing", TOKENS_BATCH=ids[:, None, :], SEQUENCE_LENGTH=lengths)
    assert [t.decode() for t in post.as_numpy("OUTPUT")] == [text, "Hello"], post.as_numpy("OUTPUT")


def main():
    binary, work = sys.argv[1:3]
    missing = [p for p in ("onnxruntime", "openvino", "transformers") if importlib.util.find_spec(p) is None]
    with PythonServer(binary, work, [], "--model-control-mode=explicit") as s:
        with httpclient.InferenceServerClient(f"127.0.0.1:{s.http}", network_timeout=120, connection_timeout=120, concurrency=2) as c:
            if "onnxruntime" in missing:  # what its users see without the package
                add_onnx(s, "lonely", onnx_model("Neg", ["X"], "Y", 1, [2]), 'backend: "onnxruntime"')
                message = refused(c.load_model, "lonely")
                assert "needs the package onnxruntime" in message, message
            else:
                check_runtime(s, c, "onnxruntime")
                check_batch_with_a_wrong_one(s, c)
            if "openvino" not in missing:
                check_runtime(s, c, "openvino")
                check_openvino_ir(c, s)
            if "transformers" not in missing:
                check_pre_and_post(c, s)
    if missing:
        print(f"skipped: the packages {', '.join(missing)} are not there (install tools/requirements-test.txt)")
        return 1 if os.environ.get("CI") else 77
    print("shipped backends: all passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
