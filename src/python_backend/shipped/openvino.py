"""The backend "openvino" as a model.py: serves model.xml (or model.onnx) of the version folder with the openvino package of the interpreter.

Parameters of the config: INFERENCE_NUM_THREADS, NUM_STREAMS, PERFORMANCE_HINT, TARGET_DEVICE; other keys are not passed on.
"""

import json
import os

import ingot_python_shipped as shipped
import numpy as np
import triton_python_backend_utils as pb_utils

_TYPES = {
    "boolean": "TYPE_BOOL",
    "u8": "TYPE_UINT8",
    "u16": "TYPE_UINT16",
    "u32": "TYPE_UINT32",
    "u64": "TYPE_UINT64",
    "i8": "TYPE_INT8",
    "i16": "TYPE_INT16",
    "i32": "TYPE_INT32",
    "i64": "TYPE_INT64",
    "f16": "TYPE_FP16",
    "f32": "TYPE_FP32",
    "f64": "TYPE_FP64",
    "string": "TYPE_STRING",
}
_PASSED_ON = ("INFERENCE_NUM_THREADS", "NUM_STREAMS", "PERFORMANCE_HINT")


def _package():
    try:
        import openvino
    except ImportError as e:
        raise pb_utils.TritonModelException(
            "the openvino backend needs the package openvino in the Python that runs it (PATH, or EXECUTION_ENV_PATH): %s" % e
        )
    return openvino


def _read(config):
    directory = pb_utils.get_model_dir()
    names = [config["default_model_filename"]] if config.get("default_model_filename") else ["model.xml", "model.onnx"]
    for name in names:
        path = os.path.join(directory, name)
        if os.path.exists(path):
            core = _package().Core()
            return core, core.read_model(path)
    raise pb_utils.TritonModelException("model '%s': found no %s in %s" % (config["name"], " and no ".join(names), directory))


def _ports(config, kind, ports):
    described = []
    for port in ports:
        name, shape = port.get_any_name(), port.get_partial_shape()
        type = shipped.data_type(config, kind, name, port.get_element_type().get_type_name(), _TYPES)
        if shape.rank.is_dynamic:
            raise pb_utils.TritonModelException("model '%s': %s '%s' has no fixed number of dimensions" % (config["name"], kind, name))
        described.append((name, type, [-1 if d.is_dynamic else d.get_length() for d in shape]))
    return described


def _all_ports(config, model):
    return _ports(config, "input", model.inputs), _ports(config, "output", model.outputs)


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete):
        config = auto_complete.as_dict()
        _, model = _read(config)
        return shipped.complete(auto_complete, *_all_ports(config, model))

    def initialize(self, args):
        self.config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in (self.config.get("parameters") or {}).items()}
        core, model = _read(self.config)
        shipped.check(self.config, *_all_ports(self.config, model))
        options = {key: parameters[key] for key in _PASSED_ON if key in parameters}
        self.model = core.compile_model(model, parameters.get("TARGET_DEVICE", "CPU"), options)
        self.request = self.model.create_infer_request()

    def execute(self, requests):
        return shipped.respond(requests, "openvino", self._one)

    def _one(self, request):
        feed = {}
        for tensor in request.inputs():
            array = tensor.as_numpy()
            if array.dtype == np.object_:
                array = np.array([s.decode("utf-8") for s in array.reshape(-1)]).reshape(array.shape)
            feed[tensor.name()] = array
        results = self.request.infer(feed)
        tensors = []
        for name in request.requested_output_names():
            array = np.array(results[self.model.output(name)])  # of its own: the next infer() reuses the runtime's
            tensors.append(pb_utils.Tensor(name, array))
        return pb_utils.InferenceResponse(tensors)
