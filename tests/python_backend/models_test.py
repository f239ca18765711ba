"""Users' model.py files through the published tritonclient. Usage: models_test.py INGOT WORK_DIR"""

import asyncio
import json
import os
import queue
import signal
import sys
import threading
import time

try:
    import numpy as np
    import tritonclient.grpc as grpcclient
    import tritonclient.grpc.aio as aio
    import tritonclient.http as httpclient
    from tritonclient.utils import InferenceServerException
except ImportError as e:
    print(f"skipped: {e} (install tools/requirements-test.txt)")
    sys.exit(1 if os.environ.get("CI") else 77)

from python_server import PythonServer, alive, children_of, wait_for

MODELS = ["identity", "surface", "repeat", "scale_by_3"]


def tensor(client, name, array):
    kind = {"float32": "FP32", "float64": "FP64", "int32": "INT32", "object": "BYTES"}[array.dtype.name]
    t = client.InferInput(name, list(array.shape), kind)
    t.set_data_from_numpy(array)
    return t


def surface(c, op, client=grpcclient, x=None, **more):
    inputs = [tensor(client, "OP", np.array([op], dtype=np.object_))]
    if x is not None:
        inputs.append(tensor(client, "X", x))
    return c.infer("surface", inputs, **more)


def says(result):
    return [s.decode() for s in result.as_numpy("TEXT")]


def refused(call, *args, **more):
    try:
        call(*args, **more)
    except InferenceServerException as e:
        return e
    raise AssertionError("want an error")


def identity(c, client, x):
    return c.infer("identity", [tensor(client, "INPUT0", x)]).as_numpy("OUTPUT0")


def check_tensors(h, g):
    for size in (0, 1, 256, 100_000):
        x = np.arange(2 * size, dtype=np.float32).reshape(2, size)
        assert (identity(g, grpcclient, x) == x).all() and (identity(h, httpclient, x) == x).all(), size
    big = np.arange(4 << 20, dtype=np.float32).reshape(1, -1)  # 16 MiB
    assert (identity(g, grpcclient, big) == big).all()
    x = np.array([1.5, -2], np.float32)
    r = surface(g, "tensors", x=x)
    assert says(r) == ["tensors"] and (r.as_numpy("Y") == x).all()
    r = surface(g, "strings")
    assert r.as_numpy("TEXT").tolist() == [b"\xff\x00", "\u00fc".encode(), b"", b"7"]


def check_requests(h, g):
    name, pid = says(surface(g, "args"))
    assert name == "surface_0_0" and alive(int(pid))
    r = surface(g, "request", request_id="r7", sequence_id=9, sequence_start=True, timeout=5_000_000, parameters={"k": "v", "n": 3, "b": True},
                outputs=[grpcclient.InferRequestedOutput("TEXT")])
    got = json.loads(says(r)[0])
    assert got == ["r7", 9, 1, 5_000_000, {"k": "v", "n": 3, "b": True}, ["TEXT"], False, None, None], got
    got = json.loads(says(surface(h, "request", httpclient, request_id="h"))[0])
    assert got[0] == "h" and got[5] == ["TEXT", "Y"], got
    p = surface(h, "parameters", httpclient).get_response()["parameters"]
    assert p == {"b": True, "i": -3, "s": "text"}, p
    assert says(surface(g, "sender")) == ["by the sender"]
    assert says(surface(g, "again:3")) == ["3"]


def check_errors(g):
    for code, status in (("UNKNOWN", "UNKNOWN"), ("INTERNAL", "INTERNAL"), ("NOT_FOUND", "NOT_FOUND"), ("INVALID_ARG", "INVALID_ARGUMENT"),
                         ("UNAVAILABLE", "UNAVAILABLE"), ("UNSUPPORTED", "UNIMPLEMENTED"), ("ALREADY_EXISTS", "ALREADY_EXISTS"), ("CANCELLED", "CANCELLED")):
        assert str(refused(surface, g, "error:" + code)) == f"[StatusCode.{status}] error code: {code}"
    prefix = "Failed to process the request(s) for model instance 'surface_0_0', message: "
    message = refused(surface, g, "raise").message()
    assert message.startswith(prefix + "KeyError: 'missing key'") and "model.py(" in message and "): op_raise" in message, message
    message = refused(surface, g, "none").message()
    assert message == prefix + "Expected an 'InferenceResponse' object in the execute function return list, found type '<class 'NoneType'>'.", message
    message = refused(surface, g, "dict").message()
    assert "Expected an 'InferenceResponse' object in the execute function return list, found type '<class 'dict'>'." in message, message


def stream(g, n, mode, **more):
    answers = queue.Queue()
    g.start_stream(lambda result, error: answers.put((result, error)))
    g.async_stream_infer("repeat", [tensor(grpcclient, "IN", np.array([n], np.int32)), tensor(grpcclient, "MODE", np.array([mode], np.object_))], **more)
    return answers


def check_decoupled(s, g):
    for mode in ("thread", "at_once", "async"):
        answers = stream(g, 4, mode, enable_empty_final_response=True)
        got = []
        while True:
            result, error = answers.get(timeout=20)
            assert error is None, error
            if result.as_numpy("OUT") is not None:
                got.append(int(result.as_numpy("OUT")[0]))
            if result.get_response().parameters["triton_final_response"].bool_param:
                break
        g.stop_stream()
        assert got == [0, 1, 2, 3], (mode, got)
    for mode, want in (("raise", "RuntimeError: as you wish"), ("return", "is using the decoupled mode and the execute function must return None")):
        _, error = stream(g, 1, mode).get(timeout=20)
        g.stop_stream()
        assert want in error.message(), error
    answers = stream(g, 1, "lost")
    assert answers.get(timeout=20)[0].as_numpy("OUT").tolist() == [7]
    _, error = answers.get(timeout=20)
    g.stop_stream()
    assert "dropped the request without a final response" in error.message(), error
    # An error is one response among others, unless the client wants the stream to end with it.
    answers = stream(g, 2, "errors", request_id="e", enable_empty_final_response=True)
    got = []
    while not got or got[-1] != "end":
        result, error = answers.get(timeout=20)
        if error is not None:
            got.append(error.message())
        elif result.get_response().parameters["triton_final_response"].bool_param:
            got.append("end")
        else:
            got.append(int(result.as_numpy("OUT")[0]))
    g.stop_stream()
    assert got == [0, "error 0", 1, "error 1", "end"], got
    status, body = s.post("/v2/models/repeat/generate_stream", {"IN": 2, "MODE": "errors"})
    events = [json.loads(e.removeprefix("data: ")) for e in body.split("\n\n") if e]
    assert status == 200 and [e.get("error", e.get("OUT")) for e in events] == [0, "error 0", 1, "error 1"], body
    answers = queue.Queue()
    g.start_stream(lambda result, error: answers.put((result, error)), headers={"triton_grpc_error": "true"})
    g.async_stream_infer("repeat", [tensor(grpcclient, "IN", np.array([2], np.int32)), tensor(grpcclient, "MODE", np.array(["errors"], np.object_))])
    assert answers.get(timeout=20)[0].as_numpy("OUT").tolist() == [0]
    _, error = answers.get(timeout=20)
    assert error.status() == "StatusCode.NOT_FOUND" and error.message() == "error 0", error
    g.stop_stream()
    assert answers.empty(), answers.get()
    answers = stream(g, 1, "endless")
    for i in range(3):
        assert answers.get(timeout=20)[0].as_numpy("OUT").tolist() == [i]
    g.stop_stream(cancel_requests=True)
    answers = stream(g, 1, "how_many")
    def cancelled():
        return int(answers.get(timeout=20)[0].as_numpy("OUT")[0])
    for _ in range(200):
        n = cancelled()
        if n >= 0:
            break
        g.stop_stream()
        time.sleep(0.02)
        answers = stream(g, 1, "how_many")
    g.stop_stream()
    assert 3 <= n < 2000, n
    e = refused(g.infer, "repeat", [tensor(grpcclient, "IN", np.array([1], np.int32))])
    assert "ModelInfer RPC doesn't support models with decoupled transaction policy" in e.message()
    assert s.get("/v2/models/repeat/stats") == 200 and '"repeat"' in s.body


def check_bls(g):
    for op, want in (("bls", "bls"), ("bls_decoupled", "decoupled"), ("control", "controlled"), ("forks", "forked")):
        assert says(surface(g, op)) == [want]


def check_traces(s, g):
    """A call of a traced request is its child where the model says so."""
    path = s.work / "trace.json"
    g.update_trace_settings("surface", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    assert says(surface(g, "traced")) == ["traced"]
    wait_for("the trace is in the file", path.exists)
    about = [e for e in json.loads(path.read_text()) if "model_name" in e]
    assert [(e["model_name"], e.get("parent_id")) for e in about] == [("surface", None), ("identity", about[0]["id"])], about
    g.update_trace_settings("surface", {"trace_level": None, "trace_rate": None})


def check_logs_and_metrics(s, g):
    assert says(surface(g, "logs")) == ["logged"]
    calls = float(says(surface(g, "metrics"))[0])
    assert s.get("/metrics", s.metrics) == 200
    assert f'surface_calls_total{{kind="all",model="surface"}} {calls:.0f}\n' in s.body and "# HELP surface_calls_total Calls" in s.body, s.body
    assert 'surface_level{a="1",b="2"} 3.5\n' in s.body and 'surface_size_bucket{le="10"} 1\n' in s.body, s.body
    assert 'surface_size_bucket{of="all",le="+Inf"} 1\n' in s.body and s.body.count('surface_size_bucket{of="all"') == 1, s.body
    wait_for("the output is in the log", lambda: "to stderr" in s.log())
    log = s.log()
    for line in ('model.py:', '] "[surface_0_0] an info"', '[surface_0_0] a warning', '[surface_0_0] an error\\nof two lines', '[surface_0_0] printed by initialize'):
        assert line in log, line
    assert "nobody sees this" not in log


async def check_aio(port):
    async with aio.InferenceServerClient(f"127.0.0.1:{port}") as c:
        x = np.array([[1, 2]], np.float32)
        results = await asyncio.gather(*[c.infer("identity", [tensor(grpcclient, "INPUT0", x + i)]) for i in range(16)])
        assert all((r.as_numpy("OUTPUT0") == x + i).all() for i, r in enumerate(results))


def pending(s, model):
    s.get("/metrics", s.metrics)
    return float(s.body.split(f'nv_inference_pending_request_count{{model="{model}",version="1"}} ')[1].split()[0])


def check_cancel(s, g):
    errors = queue.Queue()
    before = s.log().count("falls asleep")
    call = g.async_infer("surface", [tensor(grpcclient, "OP", np.array(["sleep:30"], dtype=np.object_))], lambda result, error: errors.put(error))
    wait_for("the model sleeps", lambda: s.log().count("falls asleep") > before)
    call.cancel()
    assert "CANCELLED" in str(errors.get(timeout=10).status())
    wait_for("the model has seen the cancellation", lambda: "cancelled while asleep" in s.log())


def check_death(s, g):
    """The request in the child is lost, nothing else; readiness says so at once; the child comes back."""
    pid = int(says(surface(g, "args"))[1])
    answers = queue.Queue()
    done = lambda result, error: answers.put((result, error))
    op = lambda text: [tensor(grpcclient, "OP", np.array([text], dtype=np.object_))]
    before = s.log().count("falls asleep")
    g.async_infer("surface", op("sleep:30"), done)
    wait_for("the model sleeps", lambda: s.log().count("falls asleep") > before)
    for _ in range(3):
        g.async_infer("surface", op("args"), done)  # these wait for the successor
    wait_for("they wait", lambda: pending(s, "surface") == 3)
    os.kill(pid, signal.SIGSTOP)  # so that the killing is the only thing that ends it
    start = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    result, error = answers.get(timeout=20)
    assert error.message() == ("Failed to process the request(s) for model instance 'surface_0_0', message: Stub process 'surface_0_0' is not healthy."), error
    assert time.monotonic() - start < 1, "a dead child is noticed at once"
    assert not alive(pid)
    seen_down = s.get("/v2/models/surface/ready") == 400
    for _ in range(3):
        result, error = answers.get(timeout=60)
        assert error is None, error
    assert seen_down, "readiness turns false"
    wait_for("the model is ready again", lambda: s.get("/v2/models/surface/ready") == 200)
    assert int(says(surface(g, "args"))[1]) != pid
    assert "was ended by signal 9" in s.log() and "runs again" in s.log()
    # A child that breaks the protocol is ended, and the server goes on (more of them: src/python_backend/backend_test.cc).
    assert "is not healthy" in refused(surface, g, "garbage:offset").message()
    assert says(surface(g, "args"))[0] == "surface_0_0"
    assert "broke the message protocol: a range of 16 bytes" in s.log()


BAD = {
    "syntax": ("class TritonPythonModel:\n  def execute(self requests):\n", "SyntaxError"),
    "imports": ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
    "no_class": ("x = 1\n", "has no attribute 'TritonPythonModel'"),
    "initialize": ("class TritonPythonModel:\n  def initialize(self, args):\n    return lorem_ipsum\n  def execute(self, requests): pass\n", "NameError: name 'lorem_ipsum' is not defined"),
    "no_execute": ("class TritonPythonModel:\n  pass\n", "has no execute()"),
    "auto": ("class TritonPythonModel:\n  @staticmethod\n  def auto_complete_config(c):\n    return undefined_variable\n  def execute(self, requests): pass\n", "undefined_variable"),
    "auto_none": ("class TritonPythonModel:\n  @staticmethod\n  def auto_complete_config(c): pass\n  def execute(self, requests): pass\n", "must return a valid"),
    "exits": ("import sys\nsys.exit(4)\n", "sys.exit"),
    "dies": ("import os\nos._exit(4)\n", "exited with code 4"),
}


def load(g, name, source, **config):
    g.load_model(name, config=json.dumps({"backend": "python", **config}), files={"file:1/model.py": source.encode()})


def check_loading(s, g):
    threads, messages = [], {}
    def bad(name, source):
        messages[name] = refused(load, g, "bad_" + name, source).message()
    for name, (source, _) in BAD.items():
        threads.append(threading.Thread(target=bad, args=(name, source)))
        threads[-1].start()
    for t in threads:
        t.join()
    for name, (_, want) in BAD.items():
        assert want in messages[name], (name, messages[name])
    assert "model.py(3): initialize" in messages["initialize"], messages["initialize"]
    # Files over the wire, several instances, their own readiness check, an error in finalize().
    source = """import triton_python_backend_utils as pb_utils, numpy as np
class TritonPythonModel:
  def initialize(self, args): self.name, self.calls = args["model_instance_name"], 0
  def is_ready(self):
    return self.calls < 1
  def execute(self, requests):
    self.calls += len(requests)
    return [pb_utils.InferenceResponse([pb_utils.Tensor("NAME", np.array([self.name], np.object_))]) for r in requests]
  def finalize(self): raise ValueError("finalize is broken")
"""
    load(g, "pair", source, max_batch_size=0, input=[{"name": "X", "data_type": "TYPE_INT32", "dims": [1]}],
         output=[{"name": "NAME", "data_type": "TYPE_STRING", "dims": [1]}], instance_group=[{"count": 2, "kind": "KIND_CPU"}])
    assert s.get("/v2/models/pair/ready") == 200
    names = {g.infer("pair", [tensor(grpcclient, "X", np.array([1], np.int32))]).as_numpy("NAME")[0] for _ in range(50)}
    assert names <= {b"pair_0_0", b"pair_0_1"} and names, names
    assert s.get("/v2/models/pair/ready") == 400
    before = children_of(s.process.pid)
    g.unload_model("pair")
    wait_for("both children end", lambda: len(children_of(s.process.pid)) == len(before) - 2)
    wait_for("finalize()'s error is in the log", lambda: "finalize is broken" in s.log())
    # A model without config.pbtxt.
    g.load_model("auto")
    config = g.get_model_config("auto", as_json=True)["config"]
    assert config["max_batch_size"] == 4 and config["input"][0]["name"] == "A" and config["backend"] == "python" and "dynamic_batching" in config, config
    r = g.infer("auto", [tensor(grpcclient, "A", np.array([[1, 2], [3, 4]], np.int32))])
    assert r.as_numpy("SUM").tolist() == [[3], [7]]
    # A python-based backend: the code of the backend directory, the files of the model.
    r = g.infer("scale_by_3", [tensor(grpcclient, "X", np.array([1.0, 2.0]))])
    assert r.as_numpy("Y").tolist() == [3.0, 6.0]


SLOW_CHECK = """import asyncio, time, triton_python_backend_utils as pb_utils
class TritonPythonModel:
  async def is_ready(self):
    await asyncio.sleep(%s)
    return True
  def execute(self, requests):
    return [pb_utils.InferenceResponse(r.inputs()) for r in requests]
"""


def check_readiness(s, h, g):
    """A check of the model's own may take its time, up to 5 s; nothing else waits for it."""
    more = dict(max_batch_size=0, input=[{"name": "X", "data_type": "TYPE_INT32", "dims": [1]}], output=[{"name": "X", "data_type": "TYPE_INT32", "dims": [1]}])
    load(g, "slow_check", SLOW_CHECK % 0.3, **more)
    for _ in range(2):
        assert h.is_model_ready("slow_check") and g.is_model_ready("slow_check") and h.is_server_ready() and g.is_server_ready()
    load(g, "no_answer", SLOW_CHECK % 60, **more)
    answers = queue.Queue()
    asking = [threading.Thread(target=lambda c=c: answers.put(c("no_answer"))) for c in [g.is_model_ready] * 8]
    asking += [threading.Thread(target=lambda: answers.put(s.get("/v2/models/no_answer/ready") == 200)) for _ in range(12)]
    for t in asking:
        t.start()
    x = tensor(grpcclient, "X", np.array([3], np.int32))
    assert g.infer("no_answer", [x]).as_numpy("X").tolist() == [3] and s.get("/v2/models/identity") == 200 and answers.empty(), "these wait for no check"
    for t in asking:
        t.join()
    assert not any(answers.get() for _ in asking)
    assert not h.is_model_ready("no_answer") and not h.is_server_ready(), "and a check that is over its time is not waited for"
    assert "Model 'no_answer' version 1 is not ready: " in s.log()
    g.unload_model("slow_check")
    g.unload_model("no_answer")


# What auto_complete_config() of a model does to the config below, and what the load says. The texts are those of the old backend.
AUTO = {
    "smaller": ("c.set_max_batch_size(4)", "configuration specified max_batch_size 6, but in auto-complete-config function for model 'auto_smaller' specified max_batch_size 4"),
    "property": ("c.add_input({'name': 'B', 'data_type': 'TYPE_FP32', 'dims': [4], 'is_shape_tensor:': True})",
                 "input 'B' in auto-complete-config function for model 'auto_property' contains property other than 'name', 'data_type', 'dims' and 'optional'."),
    "out_property": ("c.add_output({'name': 'B', 'data_type': 'TYPE_FP32', 'dims': [4], 'x': 1})",
                     "output 'B' in auto-complete-config function for model 'auto_out_property' contains property other than 'name', 'data_type' and 'dims'."),
    "no_name": ("c.add_input({'data_type': 'TYPE_FP32', 'dims': [4]})", "input in auto-complete-config function for model 'auto_no_name' is missing 'name' property."),
    "no_dims": ("c.add_output({'name': 'B', 'data_type': 'TYPE_FP32'})", "output 'B' in auto-complete-config function for model 'auto_no_dims' is missing 'dims' property."),
    "type": ("c.add_input({'name': 'A', 'data_type': 'TYPE_FP32', 'dims': [16]})",
             "unable to load model 'auto_type', configuration expects datatype TYPE_INT32 for input 'A', model provides TYPE_FP32"),
    "dims": ("c.add_input({'name': 'A', 'data_type': 'TYPE_INT32', 'dims': [4]})",
             "model 'auto_dims', tensor 'A': the model expects dims [4] but the model configuration specifies dims [16]"),
    "policy": ("c.set_model_transaction_policy(dict(invalid=1))",
               "model transaction property in auto-complete-config function for model 'auto_policy' contains property other than 'decoupled'"),
    "decoupled": ("c.set_model_transaction_policy(dict(decoupled=True))",
                  "trying to change decoupled property in auto-complete-config for model 'auto_decoupled', which is already set to 'False'"),
    "scheduler": ("c.set_dynamic_batching()", "Configuration specified scheduling_choice as 'sequence_batching', but auto-complete-config function for model "
                                              "'auto_scheduler' tries to set scheduling_choice as 'dynamic_batching'"),
}


def check_auto_complete(g):
    for name, (code, want) in AUTO.items():
        source = f"class TritonPythonModel:\n  @staticmethod\n  def auto_complete_config(c):\n    {code}\n    return c\n  def execute(self, requests): pass\n"
        message = refused(load, g, "auto_" + name, source, max_batch_size=6, sequence_batching={}, model_transaction_policy={"decoupled": False},
                          input=[{"name": "A", "data_type": "TYPE_INT32", "dims": [16]}], output=[{"name": "Y", "data_type": "TYPE_INT32", "dims": [16]}]).message()
        assert want in message, (name, message)


def check_environment(s, g):
    """EXECUTION_ENV_PATH: a folder beside the model, and a packed one."""
    import subprocess
    import tarfile

    env = s.work / "env"
    (env / "bin").mkdir(parents=True)
    (env / "bin/python").write_text(f'#!/bin/sh\nexport FROM_THE_ENVIRONMENT="$1"\nexec {sys.executable} "$@"\n')
    (env / "bin/python").chmod(0o755)
    with tarfile.open(s.work / "env.tar.gz", "w:gz") as t:
        t.add(env, ".")
    source = """import triton_python_backend_utils as pb_utils, numpy as np, os
class TritonPythonModel:
  def execute(self, requests):
    return [pb_utils.InferenceResponse([pb_utils.Tensor("PATH", np.array([os.environ.get("FROM_THE_ENVIRONMENT", "") + os.environ["PATH"]], np.object_))]) for r in requests]
"""
    for name, path in (("in_folder", f"{env}"), ("in_archive", f"{s.work}/env.tar.gz")):
        load(g, name, source, max_batch_size=0, input=[{"name": "X", "data_type": "TYPE_INT32", "dims": [1]}],
             output=[{"name": "PATH", "data_type": "TYPE_STRING", "dims": [1]}], parameters={"EXECUTION_ENV_PATH": {"string_value": path}})
        found = g.infer(name, [tensor(grpcclient, "X", np.array([1], np.int32))]).as_numpy("PATH")[0].decode()
        assert found.startswith("-u") and ("/env/bin:" in found if name == "in_folder" else "ingot-python-env-" in found), found
        g.unload_model(name)
    e = refused(load, g, "in_nothing", source, parameters={"EXECUTION_ENV_PATH": {"string_value": "/no/such/env"}})
    assert "EXECUTION_ENV_PATH /no/such/env: found no such file or folder" in e.message(), e


def check_outputs(g):
    """What the config does not declare, or nobody asked for, stays in the model; one response is enough for one client."""
    source = """import numpy as np, triton_python_backend_utils as pb_utils
class TritonPythonModel:
  def execute(self, requests):
    for r in requests:
      mode = int(r.inputs()[0].as_numpy()[0])
      if mode == 0:
        return [pb_utils.InferenceResponse([pb_utils.Tensor(n, np.array([1], np.int32)) for n in ("A", "B", "UNDECLARED")])]
      sender = r.get_response_sender()
      if mode == 1:
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
      for k in range(2):
        sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("A", np.array([k + 7], np.int32))]))
"""
    load(g, "outputs", source, max_batch_size=0, input=[{"name": "MODE", "data_type": "TYPE_INT32", "dims": [1]}],
         output=[{"name": n, "data_type": "TYPE_INT32", "dims": [1]} for n in "AB"])
    ask = lambda mode, **more: g.infer("outputs", [tensor(grpcclient, "MODE", np.array([mode], np.int32))], **more)
    assert [o.name for o in ask(0).get_response().outputs] == ["A", "B"]
    assert [o.name for o in ask(0, outputs=[grpcclient.InferRequestedOutput("B")]).get_response().outputs] == ["B"]
    assert "Non-decoupled model cannot send complete final before sending a response" in refused(ask, 1).message()
    assert ask(2).as_numpy("A").tolist() == [7], "the failure after the response changes nothing"
    assert "Duplicate output name 'A' is not allowed" in refused(ask, 0, outputs=[grpcclient.InferRequestedOutput("A")] * 2).message()
    g.unload_model("outputs")


def check_background(g):
    """A task that an async execute() leaves behind sends the response after it has returned."""
    source = """import asyncio, numpy as np, triton_python_backend_utils as pb_utils
class TritonPythonModel:
  async def execute(self, requests):
    async def later(senders):
      await asyncio.sleep(0.05)
      for s in senders:
        s.send(pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([5], np.int32))]), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    self.task = asyncio.create_task(later([r.get_response_sender() for r in requests]))
"""
    load(g, "background", source, max_batch_size=0, input=[{"name": "X", "data_type": "TYPE_INT32", "dims": [1]}],
         output=[{"name": "Y", "data_type": "TYPE_INT32", "dims": [1]}])
    assert g.infer("background", [tensor(grpcclient, "X", np.array([1], np.int32))], client_timeout=20).as_numpy("Y").tolist() == [5]
    g.unload_model("background")


COUNTED = """import os, time, triton_python_backend_utils as pb_utils
class TritonPythonModel:
  def note(self, what):
    with open(os.path.join(self.folder, "..", "..", "counted.log"), "a") as f:
      f.write(what + "\\n")
  def initialize(self, args):
    self.folder = args["model_repository"]
    self.note("begin")
  def execute(self, requests):
    for r in requests:
      seconds = float(r.inputs()[0].as_numpy()[0])
      if seconds:
        self.note("busy")
      time.sleep(seconds)
    return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", r.inputs()[0].as_numpy())]) for r in requests]
  def finalize(self):
    self.note("end")
"""


TALLY = COUNTED.replace("""    for r in requests:
      seconds = float(r.inputs()[0].as_numpy()[0])
      if seconds:
        self.note("busy")
      time.sleep(seconds)
    return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", r.inputs()[0].as_numpy())]) for r in requests]
""", """    out = []
    for r in requests:
      sums = self.__dict__.setdefault("sums", {})
      if r.flags() & 1:
        sums[r.correlation_id()] = 0
      sums[r.correlation_id()] += r.inputs()[0].as_numpy()
      out.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", sums[r.correlation_id()])]))
    return out
""")


def check_instances(s, g):
    """A change of the instance groups alone starts and ends instances, nothing else."""
    folder, log = s.repository / "counted", s.work / "counted.log"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(COUNTED)
    count = lambda what: log.read_text().count(what)
    ask = lambda seconds=0.0: [tensor(grpcclient, "X", np.array([seconds], np.float32))]

    def reload(groups, more=""):
        (folder / "config.pbtxt").write_text('backend: "python" input { name: "X" data_type: TYPE_FP32 dims: 1 } output { name: "Y" data_type: TYPE_FP32 dims: 1 } '
                                             f"instance_group [ {groups} ] {more}")
        g.load_model("counted")
        assert g.infer("counted", ask()).as_numpy("Y").tolist() == [0]
        return count("begin"), count("end")

    assert reload("{ count: 2 kind: KIND_CPU }") == (2, 0)
    assert reload("{ count: 3 kind: KIND_CPU }") == (3, 0)
    assert reload("{ count: 1 kind: KIND_CPU }") == (3, 2)
    refused(reload, "{ count: many }")
    # The one instance is busy: a second one does not wait for it, nor do requests after that.
    answers = queue.Queue()
    g.async_infer("counted", ask(6.0), lambda result, error: answers.put(error or result))
    wait_for("it is busy", lambda: count("busy") == 1)
    assert reload("{ count: 2 kind: KIND_CPU }") == (4, 2)
    assert answers.empty(), "the update waited"
    assert answers.get(timeout=20).as_numpy("Y").tolist() == [6]
    assert g.get_inference_statistics("counted").model_stats[0].inference_count >= 4
    assert reload("{ count: 2 kind: KIND_CPU }", "max_batch_size: 0 parameters { key: \"k\" value { string_value: \"v\" } }") == (6, 4)
    g.unload_model("counted")
    wait_for("all end", lambda: count("end") == 6)


def check_sequences_over_instances(s, g):
    """Sequences go on while instances come and go; one that goes ends what it has begun."""
    folder, log = s.repository / "tally", s.work / "counted.log"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(TALLY)
    before = {what: log.read_text().count(what) for what in ("begin", "end")}
    count = lambda what: log.read_text().count(what) - before[what]

    def reload(n):
        (folder / "config.pbtxt").write_text('backend: "python" max_batch_size: 1 input { name: "X" data_type: TYPE_INT32 dims: 1 } output { name: "Y" data_type: TYPE_INT32 dims: 1 } '
                                             f"instance_group [ {{ count: {n} kind: KIND_CPU }} ] sequence_batching {{ max_sequence_idle_microseconds: 30000000 }}")
        g.load_model("tally")

    def ask(sequence, x, **more):
        return int(g.infer("tally", [tensor(grpcclient, "X", np.array([[x]], np.int32))], sequence_id=sequence, client_timeout=20, **more).as_numpy("Y")[0][0])

    reload(2)
    assert [ask(i, i, sequence_start=True) for i in (1, 2)] == [1, 2] and count("begin") == 2
    reload(3)  # a third one runs beside them
    assert [ask(i, 10, **more) for i, more in ((3, {"sequence_start": True}), (1, {}), (2, {}))] == [10, 11, 12] and (count("begin"), count("end")) == (3, 0)
    assert ask(3, 1, sequence_end=True) == 11
    reload(1)  # the second one has a sequence
    answers = queue.Queue()
    g.async_infer("tally", [tensor(grpcclient, "X", np.array([[5]], np.int32))], lambda result, error: answers.put(error or result), sequence_id=4, sequence_start=True)
    assert [ask(i, 100) for i in (1, 2)] == [111, 112] and answers.empty(), "one slot is left, and taken"
    assert "have not ended yet" not in s.log() and ask(2, 1, sequence_end=True) == 113
    wait_for("both end that went", lambda: count("end") == 2)
    assert ask(1, 1, sequence_end=True) == 112 and answers.get(timeout=20).as_numpy("Y").tolist() == [[5]]
    assert (count("begin"), count("end")) == (3, 2)
    g.unload_model("tally")
    wait_for("all end", lambda: count("end") == 3)


def check_latency(g):
    x = np.zeros((1, 256), np.float32)
    times = []
    for _ in range(100):
        start = time.perf_counter()
        identity(g, grpcclient, x)
        times.append(time.perf_counter() - start)
    print(f"identity of 1 KB over gRPC: p50 {sorted(times)[50] * 1e6:.0f} us")


def main():
    binary, work = sys.argv[1:3]
    with PythonServer(binary, work, MODELS + ["auto"], "--model-control-mode=EXPLICIT", *[f"--load-model={m}" for m in MODELS],
                      "--backend-config=python,shm-region-prefix-name=prefix0_", "--backend-config=python,stub-timeout-seconds=60",
                      f"--trace-config=triton,file={work}/trace.json") as s:
        assert s.get("/v2/health/ready") == 200, s.log()
        with grpcclient.InferenceServerClient(f"127.0.0.1:{s.grpc}") as g, httpclient.InferenceServerClient(f"127.0.0.1:{s.http}") as h:
            check_latency(g)
            check_tensors(h, g)
            check_requests(h, g)
            check_errors(g)
            check_decoupled(s, g)
            check_bls(g)
            check_traces(s, g)
            check_logs_and_metrics(s, g)
            asyncio.run(check_aio(s.grpc))
            check_cancel(s, g)
            check_readiness(s, h, g)
            check_loading(s, g)
            check_auto_complete(g)
            check_environment(s, g)
            check_outputs(g)
            check_background(g)
            check_instances(s, g)
            check_sequences_over_instances(s, g)
            check_death(s, g)
        children = children_of(s.process.pid)
        assert len(children) == 5, children
    assert not any(map(alive, children)), "no child outlives the server"
    assert "the surface goes down" in s.log(), "finalize() runs at the end"

    with PythonServer(binary, work + "_killed", ["identity"]) as s:
        children = children_of(s.process.pid)
        s.process.kill()
        s.process.wait()
        wait_for("the children of a killed server end", lambda: children and not any(map(alive, children)))
        s.process.returncode = 0
    print("python backend: all passed")


if __name__ == "__main__":
    main()
