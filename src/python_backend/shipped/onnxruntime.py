"""The backend "onnxruntime" as a model.py: serves model.onnx of the version folder with the onnxruntime package of the interpreter.

Parameters of the config: intra_op_thread_count, inter_op_thread_count, execution_mode (0 sequential, 1 parallel); optimization.graph.level
below 0 leaves it at the basic optimisations.
"""

import json
import os

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
_DEFAULT_MAX_BATCH_SIZE = 4


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


def _extents(tensor):
    return [d if isinstance(d, int) and d >= 0 else -1 for d in tensor.shape]


def _check(config, session):
    """The tensors that the file names are in the model, with these types."""
    for kind, tensors in (("input", session.get_inputs()), ("output", session.get_outputs())):
        present = {t.name: t for t in tensors}
        for wanted in config.get(kind) or ():
            found = present.get(wanted["name"])
            if found is None:
                raise pb_utils.TritonModelException(
                    "model '%s': %s '%s' of the configuration is not in the model, which has %s" % (config["name"], kind, wanted["name"], ", ".join(present))
                )
            if _TYPES.get(found.type) != wanted["data_type"]:
                raise pb_utils.TritonModelException(
                    "model '%s': %s '%s' is %s in the configuration and %s in the model" % (config["name"], kind, wanted["name"], wanted["data_type"], found.type)
                )


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete):
        config = auto_complete.as_dict()
        session = _open(config)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        batching = config.get("max_batch_size", 0) > 0
        if not batching and not config.get("input") and not config.get("output"):
            batching = all(t.shape and _extents(t)[0] == -1 for t in inputs + outputs)
            if batching:
                auto_complete.set_max_batch_size(_DEFAULT_MAX_BATCH_SIZE)
                if not config.get("sequence_batching"):
                    auto_complete.set_dynamic_batching()
        for kind, tensors, add in (("input", inputs, auto_complete.add_input), ("output", outputs, auto_complete.add_output)):
            known = {t["name"] for t in config.get(kind) or ()}
            for t in tensors:
                if t.name in known:
                    continue
                if t.type not in _TYPES:
                    raise pb_utils.TritonModelException("model '%s': %s '%s' is %s, which has no Triton datatype" % (config["name"], kind, t.name, t.type))
                dims = _extents(t)[1:] if batching else _extents(t)
                tensor = {"name": t.name, "data_type": _TYPES[t.type], "dims": dims}
                if not dims:  # a scalar per request: Triton wants one dimension, the model none
                    tensor["dims"], tensor["reshape"] = [1], {"shape": []}
                add(tensor)
        return auto_complete

    def initialize(self, args):
        self.config = json.loads(args["model_config"])
        self.session = _open(self.config)
        _check(self.config, self.session)
        self.batching = self.config.get("max_batch_size", 0) > 0

    def execute(self, requests):
        feeds = [self._feed(r) for r in requests]
        if len(requests) > 1 and self._alike(feeds):
            names = sorted({n for r in requests for n in r.requested_output_names()})
            sizes = [next(iter(f.values())).shape[0] for f in feeds]
            try:
                whole = self._run(names, {n: np.concatenate([f[n] for f in feeds]) for n in feeds[0]})
            except Exception:
                whole = None  # one of them is wrong: each by itself tells which
            if whole is not None and all(a.ndim and a.shape[0] == sum(sizes) for a in whole.values()):
                ends = np.cumsum(sizes)[:-1]
                parts = {n: np.split(a, ends) for n, a in whole.items()}
                return [self._response({n: parts[n][i] for n in r.requested_output_names()}) for i, r in enumerate(requests)]
        responses = []
        for request, feed in zip(requests, feeds):
            try:
                responses.append(self._response(self._run(request.requested_output_names(), feed)))
            except Exception as e:
                error = pb_utils.TritonError("onnx runtime: %s" % e, pb_utils.TritonError.INTERNAL)
                responses.append(pb_utils.InferenceResponse(error=error))
        return responses

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
