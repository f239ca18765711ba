"""The backend "onnxruntime" as a model.py: serves model.onnx of the version folder with the onnxruntime package of the interpreter.

Parameters of the config: intra_op_thread_count, inter_op_thread_count, execution_mode (0 sequential, 1 parallel); optimization.graph.level
below 0 leaves it at the basic optimisations.
"""

import json
import os

import ingot_python_shipped as shipped
import numpy as np
import triton_python_backend_utils as pb_utils

_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}


def _package():
    try:
        import onnxruntime
    except ImportError as e:
        raise pb_utils.TritonModelException(
            "the onnxruntime backend needs the package onnxruntime in the Python that runs it (PATH, or EXECUTION_ENV_PATH): %s" % e
        )
    return onnxruntime


def _path(config):
    path = os.path.join(pb_utils.get_model_dir(), config.get("default_model_filename") or "model.onnx")
    if not os.path.exists(path):
        raise pb_utils.TritonModelException("model '%s': found no %s" % (config["name"], path))
    return path


def _open(config):
    onnxruntime = _package()
    options = onnxruntime.SessionOptions()
    parameters = {key: value["string_value"] for key, value in (config.get("parameters") or {}).items()}

    def number(key):
        try:
            return int(parameters[key])
        except ValueError:
            raise pb_utils.TritonModelException("model '%s': parameter %s is '%s', want an integer" % (config["name"], key, parameters[key]))

    if "intra_op_thread_count" in parameters:
        options.intra_op_num_threads = number("intra_op_thread_count")
    if "inter_op_thread_count" in parameters:
        options.inter_op_num_threads = number("inter_op_thread_count")
    if "execution_mode" in parameters and number("execution_mode") == 1:
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    level = ((config.get("optimization") or {}).get("graph") or {}).get("level", 0)
    if level < 0:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(_path(config), options, providers=["CPUExecutionProvider"])


def _ports(config, kind, tensors):
    def extents(t):
        return [d if isinstance(d, int) and d >= 0 else -1 for d in t.shape]

    return [(t.name, shipped.data_type(config, kind, t.name, t.type, _TYPES), extents(t)) for t in tensors]


def _all_ports(config, session):
    return _ports(config, "input", session.get_inputs()), _ports(config, "output", session.get_outputs())


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete):
        config = auto_complete.as_dict()
        return shipped.complete(auto_complete, *_all_ports(config, _open(config)))

    def initialize(self, args):
        self.config = json.loads(args["model_config"])
        self.session = _open(self.config)
        shipped.check(self.config, *_all_ports(self.config, self.session))
        self.batching = self.config.get("max_batch_size", 0) > 0

    def execute(self, requests):
        try:
            responses = self._together(requests)
        except Exception:
            responses = None  # one of them is wrong: each by itself tells which
        return responses or shipped.respond(requests, "onnx runtime", self._one)

    def _one(self, request):
        return self._response(self._run(request.requested_output_names(), self._feed(request)))

    def _together(self, requests):
        """One run over the rows of all requests; None where they do not fit together."""
        if len(requests) < 2:
            return None
        feeds = [self._feed(r) for r in requests]
        if not self._alike(feeds):
            return None
        names = sorted({n for r in requests for n in r.requested_output_names()})
        sizes = [next(iter(f.values())).shape[0] for f in feeds]
        whole = self._run(names, {n: np.concatenate([f[n] for f in feeds]) for n in feeds[0]})
        if not all(a.ndim and a.shape[0] == sum(sizes) for a in whole.values()):
            return None
        ends = np.cumsum(sizes)[:-1]
        parts = {n: np.split(a, ends) for n, a in whole.items()}
        return [self._response({n: parts[n][i] for n in r.requested_output_names()}) for i, r in enumerate(requests)]

    def _alike(self, feeds):
        if not self.batching or not feeds[0]:
            return False
        first = {n: a.shape[1:] for n, a in feeds[0].items()}
        return all({n: a.shape[1:] for n, a in f.items()} == first for f in feeds)

    def _feed(self, request):
        feed = {}
        for tensor in request.inputs():
            array = tensor.as_numpy()
            if array.dtype == np.object_:
                array = np.array([s.decode("utf-8") for s in array.reshape(-1)], dtype=np.object_).reshape(array.shape)
            feed[tensor.name()] = array
        return feed

    def _run(self, names, feed):
        return dict(zip(names, self.session.run(list(names), feed)))

    def _response(self, outputs):
        tensors = []
        for name, array in outputs.items():
            tensors.append(pb_utils.Tensor(name, np.asarray(array)))
        return pb_utils.InferenceResponse(tensors)
