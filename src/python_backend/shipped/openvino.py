"""The backend "openvino" as a model.py: serves model.xml (or model.onnx) of the version folder with the openvino package of the interpreter.

Parameters of the config: INFERENCE_NUM_THREADS, NUM_STREAMS, PERFORMANCE_HINT, TARGET_DEVICE; other keys are not passed on.
"""

import json
import os

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
_DEFAULT_MAX_BATCH_SIZE = 4
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


def _describe(kind, config, port):
    """(name, type, extents) of a port; -1 is any extent."""
    name = port.get_any_name()
    element = port.get_element_type().get_type_name()
    if element not in _TYPES:
        raise pb_utils.TritonModelException("model '%s': %s '%s' is %s, which has no Triton datatype" % (config["name"], kind, name, element))
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        raise pb_utils.TritonModelException("model '%s': %s '%s' has no fixed number of dimensions" % (config["name"], kind, name))
    return name, _TYPES[element], [-1 if d.is_dynamic else d.get_length() for d in shape]


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete):
        config = auto_complete.as_dict()
        _, model = _read(config)
        inputs = [_describe("input", config, p) for p in model.inputs]
        outputs = [_describe("output", config, p) for p in model.outputs]
        batching = config.get("max_batch_size", 0) > 0
        if not batching and not config.get("input") and not config.get("output"):
            batching = all(extents and extents[0] == -1 for _, _, extents in inputs + outputs)
            if batching:
                auto_complete.set_max_batch_size(_DEFAULT_MAX_BATCH_SIZE)
                if not config.get("sequence_batching"):
                    auto_complete.set_dynamic_batching()
        for kind, tensors, add in (("input", inputs, auto_complete.add_input), ("output", outputs, auto_complete.add_output)):
            known = {t["name"] for t in config.get(kind) or ()}
            for name, data_type, extents in tensors:
                if name in known:
                    continue
                dims = extents[1:] if batching else extents
                tensor = {"name": name, "data_type": data_type, "dims": dims}
                if not dims:
                    tensor["dims"], tensor["reshape"] = [1], {"shape": []}
                add(tensor)
        return auto_complete

    def initialize(self, args):
        self.config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in (self.config.get("parameters") or {}).items()}
        core, model = _read(self.config)
        for kind, ports in (("input", model.inputs), ("output", model.outputs)):
            present = {name: data_type for name, data_type, _ in (_describe(kind, self.config, p) for p in ports)}
            for wanted in self.config.get(kind) or ():
                if present.get(wanted["name"]) != wanted["data_type"]:
                    raise pb_utils.TritonModelException(
                        "model '%s': %s '%s' of %s in the configuration, the model has %s"
                        % (self.config["name"], kind, wanted["name"], wanted["data_type"], present)
                    )
        options = {key: parameters[key] for key in _PASSED_ON if key in parameters}
        self.model = core.compile_model(model, parameters.get("TARGET_DEVICE", "CPU"), options)
        self.request = self.model.create_infer_request()
        self.batching = self.config.get("max_batch_size", 0) > 0

    def execute(self, requests):
        responses = []
        for request in requests:
            try:
                responses.append(self._one(request))
            except Exception as e:
                error = pb_utils.TritonError("openvino: %s" % e, pb_utils.TritonError.INTERNAL)
                responses.append(pb_utils.InferenceResponse(error=error))
        return responses

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
