"""One operation for each thing to test; OP names it, TEXT is what it says."""

import asyncio
import json
import multiprocessing
import os
import sys
import time

import numpy as np
import triton_python_backend_utils as pb_utils


def text(*words):
    return pb_utils.InferenceResponse([pb_utils.Tensor("TEXT", np.array([str(w) for w in words], dtype=np.object_))])


def identity(x, name="identity"):
    return pb_utils.InferenceRequest(
        model_name=name, requested_output_names=["OUTPUT0"], inputs=[pb_utils.Tensor("INPUT0", np.asarray(x, np.float32).reshape(1, -1))]
    )


def in_a_fork(x):
    pb_utils.Logger.log_info("from a fork")
    response = identity([x, x]).exec()
    assert identity([x], name="unheard_of").exec().error().code() == pb_utils.TritonError.NOT_FOUND
    return float(response.output_tensors()[0].as_numpy().sum())


def raises(kind, call, *args, **more):
    try:
        call(*args, **more)
    except kind as e:
        return str(e)
    raise AssertionError("want %s" % kind.__name__)


class TritonPythonModel:
    def initialize(self, args):
        self.args = args
        self.config = json.loads(args["model_config"])
        self.family = pb_utils.MetricFamily(name="surface_calls_total", description="Calls", kind=pb_utils.MetricFamily.COUNTER)
        self.calls = self.family.Metric(labels={"model": "surface", "kind": "all"})
        pb_utils.Logger.log_info("the surface is up")
        print("printed by initialize")

    def finalize(self):
        print("the surface goes down", flush=True)

    def execute(self, requests):
        return [self.one(r) for r in requests]

    def one(self, request):
        self.calls.increment(1)
        op = pb_utils.get_input_tensor_by_name(request, "OP").as_numpy()[0].decode()
        try:
            return getattr(self, "op_" + op.split(":")[0])(request, op.partition(":")[2])
        except AssertionError as e:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("assertion: %r at line %d" % (e, e.__traceback__.tb_next.tb_lineno)))

    def op_args(self, request, _):
        a = self.args
        assert a["model_name"] == "surface" and a["model_version"] == "1" and a["model_instance_kind"] == "CPU", a
        assert self.config["parameters"]["greeting"]["string_value"] == "hello"
        assert pb_utils.get_model_dir() == os.path.dirname(os.path.abspath(__file__)), pb_utils.get_model_dir()
        assert a["model_repository"] == os.path.dirname(pb_utils.get_model_dir())
        output = pb_utils.get_output_config_by_name(self.config, "Y")
        assert pb_utils.triton_string_to_numpy(output["data_type"]) is np.float32 and pb_utils.get_input_config_by_name(self.config, "?") is None
        assert not pb_utils.using_decoupled_model_transaction_policy(self.config)
        data = np.array([b"a", "\u00e9".encode()], dtype=np.object_)
        assert pb_utils.deserialize_bytes_tensor(pb_utils.serialize_byte_tensor(data)).tolist() == data.tolist()
        assert pb_utils.triton_to_numpy_type(pb_utils.numpy_to_triton_type(np.int64)) is np.int64
        return text(a["model_instance_name"], os.getpid())

    def op_request(self, request, _):
        return text(
            json.dumps(
                [request.request_id(), request.correlation_id(), request.flags(), request.timeout(), json.loads(request.parameters()),
                 request.requested_output_names(), request.is_cancelled(), request.trace().get_context(), request.preferred_memory()],
                sort_keys=True)
        )

    def op_parameters(self, request, _):
        for wrong, says in (([], ", got <class 'list'>"), ({1: "x"}, "Expect parameters keys to have type str, found type <class 'int'>"),
                            ({"f": 0.5}, "Expect parameters values to have type bool/int/str, found type <class 'float'>"),
                            ({"n": None}, "found type <class 'NoneType'>")):
            message = raises(Exception, pb_utils.InferenceResponse, [], parameters=wrong)
            assert says in message, message
        return pb_utils.InferenceResponse(text("p").output_tensors(), parameters={"b": True, "i": -3, "s": "text"})

    def op_error(self, request, code):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError("error code: " + code, getattr(pb_utils.TritonError, code)))

    def op_raise(self, request, _):
        return {}["missing key"]

    def op_none(self, request, _):
        return None

    def op_dict(self, request, _):
        return {}

    def op_sender(self, request, _):
        sender = request.get_response_sender()
        sender.send(text("by the sender"), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None

    def op_sleep(self, request, seconds):
        end = time.time() + float(seconds)
        print("falls asleep", flush=True)
        while time.time() < end:
            if request.is_cancelled():
                print("cancelled while asleep", flush=True)
                return pb_utils.InferenceResponse(error=pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED))
            time.sleep(0.01)
        return text("slept")

    def op_block(self, request, seconds):
        time.sleep(float(seconds))
        return text("woke up")

    def op_exit(self, request, _):
        os._exit(3)

    def op_tensors(self, request, _):
        x = pb_utils.get_input_tensor_by_name(request, "X")
        assert x.is_cpu() and x.name() == "X" and x.triton_dtype() == 11, x
        again = pb_utils.Tensor.from_dlpack("Y", x.to_dlpack())
        assert again.as_numpy().ctypes.data == x.as_numpy().ctypes.data, "DLPack copies"
        assert np.from_dlpack(x).tolist() == x.as_numpy().tolist() and x.__dlpack_device__() == (1, 0)
        for dtype in (np.bool_, np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64):
            t = pb_utils.Tensor("t", np.ones([2, 3], dtype=dtype))
            assert (pb_utils.Tensor.from_dlpack("u", t.to_dlpack()).as_numpy() == 1).all() and t.shape() == [2, 3], dtype
        wide = np.arange(12, dtype=np.float32).reshape(3, 4)
        message = raises(pb_utils.TritonModelException, pb_utils.Tensor.from_dlpack, "t", wide.T)
        assert message.startswith("DLPack tensor is not contiguous."), message
        words = pb_utils.Tensor("w", np.array(["a"], dtype=np.object_))
        assert raises(pb_utils.TritonModelException, words.to_dlpack) == "DLPack does not have support for string tensors."
        raises(TypeError, pb_utils.Tensor, None, wide)
        raises(TypeError, pb_utils.Tensor, "t", None)
        raises(pb_utils.TritonModelException, pb_utils.Tensor.from_dlpack, "t", None)
        raises(pb_utils.TritonModelException, pb_utils.Tensor, "t", np.zeros(2, np.complex64))
        raises(TypeError, pb_utils.InferenceRequest, inputs=[], requested_output_names=["A"])
        raises(TypeError, pb_utils.InferenceRequest, inputs=None, requested_output_names=["A"], model_name="m")
        raises(pb_utils.TritonModelException, pb_utils.InferenceRequest, inputs=[None], requested_output_names=["A"], model_name="m")
        raises(pb_utils.TritonModelException, pb_utils.InferenceResponse, [None])
        raises(TypeError, pb_utils.Logger.log, "m", 1)
        raises(TypeError, pb_utils.Logger.log_warn, None)
        raises(pb_utils.TritonModelException, request.set_release_flags, 7)
        return pb_utils.InferenceResponse([*text("tensors").output_tensors(), again])

    def op_logs(self, request, _):
        pb_utils.Logger.log("an info", pb_utils.Logger.INFO)
        pb_utils.Logger.log_warn("a warning")
        pb_utils.Logger.log_error("an error\nof two lines")
        pb_utils.Logger.log_verbose("nobody sees this")
        print("to stderr", file=sys.stderr)
        return text("logged")

    def op_metrics(self, request, _):
        levels = pb_utils.MetricFamily(name="surface_level", description="Level", kind=pb_utils.GAUGE)
        gauge = levels.Metric(labels={"b": "2", "a": "1"})
        gauge.set(5)
        gauge.increment(-1.5)
        assert gauge.value() == 3.5
        same = pb_utils.MetricFamily(name="surface_level", description="other", kind=pb_utils.GAUGE)
        twin = same.Metric(labels={"a": "1", "b": "2"})
        assert twin.value() == 3.5
        del same
        for call in (lambda: twin.set(1), lambda: twin.increment(1), twin.value):
            message = raises(pb_utils.TritonModelException, call)
            assert message.startswith("Invalid metric operation as the corresponding 'MetricFamily' has been deleted."), message
        sizes = pb_utils.MetricFamily(name="surface_size", description="Size", kind=pb_utils.HISTOGRAM)
        histogram = sizes.Metric(labels={}, buckets=[1, 10])
        histogram.observe(4)
        for buckets in (None, [2.5, 0.1], [1, 1, 2]):
            raises(pb_utils.TritonModelException, sizes.Metric, labels={}, buckets=buckets)
        raises(pb_utils.TritonModelException, levels.Metric, labels={}, buckets=[1])
        whole = sizes.Metric(labels={"of": "all"}, buckets=[])
        whole.observe(3)
        raises(pb_utils.TritonModelException, histogram.value)
        raises(pb_utils.TritonModelException, self.calls.increment, -1)
        raises(pb_utils.TritonModelException, self.calls.set, 1)
        raises(pb_utils.TritonModelException, gauge.observe, 1)
        message = raises(pb_utils.TritonModelException, pb_utils.MetricFamily, "surface_level", "x", pb_utils.COUNTER)
        assert "exists with another kind" in message, message
        raises(pb_utils.TritonModelException, pb_utils.MetricFamily, "no-name", "x", pb_utils.COUNTER)
        self.kept = (levels, gauge, sizes, histogram, whole)
        return text(self.calls.value())

    def op_bls(self, request, _):
        response = identity([1, 2, 3]).exec()
        assert not response.has_error(), response.error().message()
        out = pb_utils.get_output_tensor_by_name(response, "OUTPUT0")
        assert out.as_numpy().tolist() == [[1, 2, 3]] and pb_utils.get_output_tensor_by_name(response, "?") is None
        big = np.arange(300000, dtype=np.float32)
        assert (identity(big).exec().output_tensors()[0].as_numpy() == big).all()
        response = identity([1], name="unheard_of").exec()
        assert response.has_error() and response.error().code() == pb_utils.TritonError.NOT_FOUND and response.output_tensors() == []
        message = response.error().message()
        assert message.startswith("Failed for execute the inference request. Model 'unheard_of' is not ready."), message
        assert "Request for unknown model: 'unheard_of' is not found" in message, message
        response = pb_utils.InferenceRequest(model_name="identity", requested_output_names=[], inputs=[]).exec()
        assert "expected 1 inputs but got 0 inputs for model 'identity'" in response.error().message(), response.error().message()
        responses = list(identity([4]).exec(decoupled=True))
        assert len(responses) == 1 and responses[0].output_tensors()[0].as_numpy().tolist() == [[4]]

        async def many():
            answers = await asyncio.gather(*[identity([i]).async_exec() for i in range(8)])
            return [int(a.output_tensors()[0].as_numpy()[0, 0]) for a in answers]

        assert asyncio.run(many()) == list(range(8))
        return text("bls")

    def op_bls_decoupled(self, request, _):
        def repeat(n, mode="thread"):
            return pb_utils.InferenceRequest(
                model_name="repeat", requested_output_names=["OUT"],
                inputs=[pb_utils.Tensor("IN", np.array([n], np.int32)), pb_utils.Tensor("MODE", np.array([mode], np.object_))])

        seen, empty = [], 0
        for response in repeat(5).exec(decoupled=True):
            assert not response.has_error()
            if response.output_tensors():
                seen.append(int(response.output_tensors()[0].as_numpy()[0]))
                assert json.loads(response.parameters())["index"] == seen[-1]
            else:
                empty += 1
        assert seen == list(range(5)) and empty == 1, (seen, empty)
        stream = repeat(4).exec(decoupled=True)  # four and an empty one
        next(stream)
        assert len(list(stream)) == 4, "a loop goes on from where next() was"
        raises(StopIteration, next, stream)
        assert len(list(stream)) == 5, "a loop over what was read to its end reads it again"
        for at, _ in enumerate(stream):
            if at == 1:
                break
        next(stream)
        assert len(list(stream)) == 2, "a loop goes on from where another one broke off"
        message = repeat(2).exec().error().message()
        assert "Please use 'decoupled=True'" in message, message
        mixed = [r.error().message() if r.has_error() else len(r.output_tensors()) for r in repeat(2, "errors").exec(decoupled=True)]
        assert mixed == [1, "error 0", 1, "error 1", 0], mixed
        stream, n = repeat(0, "endless").exec(decoupled=True), 0
        for response in stream:
            if response.has_error():
                assert response.error().code() == pb_utils.TritonError.CANCELLED
                break
            n += 1
            if n == 3:
                stream.cancel()
        assert 3 <= n < 1000, n

        async def later():
            return await repeat(2, "async").async_exec(decoupled=True)

        assert len([r for r in asyncio.run(later()) if r.output_tensors()]) == 2
        return text("decoupled")

    def op_traced(self, request, _):
        inputs = [pb_utils.Tensor("INPUT0", np.zeros((1, 2), np.float32))]
        calls = [pb_utils.InferenceRequest(inputs, ["OUTPUT0"], "identity", trace=t) for t in (request.trace(), None)]
        assert not any(c.exec().has_error() for c in calls)
        return text("traced")

    def op_control(self, request, _):
        source = "import triton_python_backend_utils as pb_utils\nclass TritonPythonModel:\n  def execute(self, requests):\n    return [pb_utils.InferenceResponse(r.inputs()) for r in requests]\n"
        config = {"backend": "python", "max_batch_size": 0, "input": [{"name": "A", "data_type": "TYPE_INT32", "dims": [-1]}],
                  "output": [{"name": "A", "data_type": "TYPE_INT32", "dims": [-1]}]}
        assert pb_utils.is_model_ready("made_here") is False
        raises(pb_utils.TritonModelException, pb_utils.load_model, "made_here")
        pb_utils.load_model("made_here", json.dumps(config), {"file:1/model.py": source.encode()})
        assert pb_utils.is_model_ready("made_here") and pb_utils.is_model_ready("made_here", "1") and pb_utils.is_model_ready("made_here", "2") is False
        request = pb_utils.InferenceRequest(model_name="made_here", requested_output_names=["A"], inputs=[pb_utils.Tensor("A", np.array([3, 4], np.int32))])
        assert request.exec().output_tensors()[0].as_numpy().tolist() == [3, 4]
        pb_utils.unload_model("made_here")
        assert not pb_utils.is_model_ready("made_here")
        raises(pb_utils.TritonModelException, pb_utils.load_model, "made_here", "{ no json")
        return text("controlled")

    def op_again(self, request, times):
        self.seen = getattr(self, "seen", 0) + 1
        if self.seen < int(times):
            request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
            return None
        seen, self.seen = self.seen, 0
        return text(seen)

    def op_strings(self, request, _):
        return pb_utils.InferenceResponse([pb_utils.Tensor("TEXT", np.array([b"\xff\x00", "\u00fc", "", 7], dtype=np.object_))])

    def op_forks(self, request, _):
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(in_a_fork, [1, 2, 3]) == [2.0, 4.0, 6.0]
        return text("forked")

    def op_garbage(self, request, kind):
        """Breaks the protocol on purpose: the server must survive it."""
        from ingot_python_calls import runtime

        channel = runtime.channel
        if kind == "json":
            channel._replies.push(b"{no json", 0)
        elif kind == "offset":
            channel.send({"m": "send", "id": request._open.state.number, "f": 1, "r": {"o": [["Y", "FP32", [4], channel.size - 8, 16]]}})
        elif kind == "counter":
            channel._replies._counters[0] = 1 << 60
            os.write(6, (1).to_bytes(8, sys.byteorder))
        elif kind == "spill":
            channel._replies.push((1 << 62).to_bytes(8, "little") * 2, 1)
        time.sleep(20)
