"""triton_python_backend_utils: what model.py imports as pb_utils."""

import enum
import json
import os
import sys
import weakref

import numpy as np

import ingot_python_tensor as _tensor
from ingot_python_tensor import Tensor, TritonModelException  # noqa: F401
from ingot_python_calls import InferenceRequest, InferenceResponse, InferenceResponseSender, ResponseIterator, TritonError  # noqa: F401
from ingot_python_calls import runtime as _runtime

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2
TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
TRITONSERVER_REQUEST_RELEASE_ALL = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE = 2

TRITON_STRING_TO_NUMPY = {
    "TYPE_" + ("STRING" if name == "BYTES" else name): (bool if name == "BOOL" else t) for name, t in _tensor.NUMPY_TYPES.items()
}
TRITON_TO_NUMPY_TYPE = {_tensor.TYPE_NUMBERS[name]: t for name, t in _tensor.NUMPY_TYPES.items()}
NUMPY_TO_TRITON_TYPE = {t: number for number, t in TRITON_TO_NUMPY_TYPE.items()}


# Tensors of a request or a response, and of a config.


def get_input_tensor_by_name(inference_request, name):
    for tensor in inference_request.inputs():
        if tensor.name() == name:
            return tensor
    return None


def get_output_tensor_by_name(inference_response, name):
    for tensor in inference_response.output_tensors():
        if tensor.name() == name:
            return tensor
    return None


def _config_by_name(config, kind, name):
    for properties in config.get(kind) or ():
        if properties["name"] == name:
            return properties
    return None


def get_input_config_by_name(model_config, name):
    return _config_by_name(model_config, "input", name)


def get_output_config_by_name(model_config, name):
    return _config_by_name(model_config, "output", name)


def using_decoupled_model_transaction_policy(model_config):
    return bool((model_config.get("model_transaction_policy") or {}).get("decoupled", False))


# Types.


def triton_to_numpy_type(data_type):
    return TRITON_TO_NUMPY_TYPE[data_type]


def numpy_to_triton_type(data_type):
    return NUMPY_TO_TRITON_TYPE[data_type]


def triton_string_to_numpy(triton_type_string):
    return TRITON_STRING_TO_NUMPY[triton_type_string]


def serialize_byte_tensor(input_tensor):
    """A BYTES array as bytes: each element a 4-byte length and its bytes; () when it is empty, None when it is no BYTES array."""
    if input_tensor.size == 0:
        return ()
    if input_tensor.dtype == np.object_ or input_tensor.dtype.kind in "SU":
        return _tensor.serialize(input_tensor)
    return None


def deserialize_bytes_tensor(encoded_tensor):
    """The 1-D array of bytes objects that serialize_byte_tensor() was given."""
    return _tensor.deserialize(encoded_tensor)


def get_model_dir():
    """The version folder of the model."""
    return _runtime.model_directory


# Control of models.


def load_model(model_name, config="", files=None):
    if not isinstance(model_name, str) or not isinstance(config, str):
        raise TypeError("load_model(model_name: str, config: str = '', files: dict = None)")
    entries = []
    for name, data in (files or {}).items():
        if not isinstance(name, str) or not isinstance(data, (bytes, bytearray, str)):
            raise TypeError("files of load_model() map str to bytes")
        data = data.encode("utf-8") if isinstance(data, str) else data
        entries.append([name, _runtime.channel.store(data) if data else 0, len(data)])
    _runtime.ask({"m": "load", "model": model_name, "config": config, "files": entries})


def unload_model(model_name, unload_dependents=False):
    if not isinstance(model_name, str):
        raise TypeError("unload_model(model_name: str, unload_dependents: bool = False)")
    _runtime.ask({"m": "unload", "model": model_name, "dependents": bool(unload_dependents)})


def is_model_ready(model_name, model_version=""):
    if not isinstance(model_name, str) or not isinstance(model_version, (str, int)):
        raise TypeError("is_model_ready(model_name: str, model_version: str = '')")
    return bool(_runtime.ask({"m": "is_ready", "model": model_name, "version": str(model_version)}))


# Placement and traces.


class MemoryType(enum.IntEnum):
    TRITONSERVER_MEMORY_CPU = 0
    TRITONSERVER_MEMORY_GPU = 2


TRITONSERVER_MEMORY_CPU = MemoryType.TRITONSERVER_MEMORY_CPU
TRITONSERVER_MEMORY_GPU = MemoryType.TRITONSERVER_MEMORY_GPU


class PreferredMemory:
    def __init__(self, preferred_memory_type, preferred_device_id=0):
        self._type, self._device_id = MemoryType(preferred_memory_type), int(preferred_device_id)

    def memory_type(self):
        return self._type

    def device_id(self):
        return self._device_id


class InferenceTrace:
    """The trace of a request, for requests into other models."""

    __slots__ = ("_request", "_context")

    def __init__(self, request=None, context=None):
        self._request = request  # its number; the server knows whether it is traced
        self._context = context

    def get_context(self):
        """JSON with the traceparent of the request's span; None where the server makes no spans of OpenTelemetry."""
        return self._context


# Logging.


class LogLevel(enum.Enum):
    INFO = 0
    WARNING = 1
    ERROR = 2
    VERBOSE = 3


def _log(level, message):
    if not isinstance(message, str):
        raise TypeError("a log message must be a str, not %s" % type(message).__name__)
    frame = sys._getframe(2)
    _runtime.channel.send(
        {"m": "log", "l": level.value, "t": message, "file": os.path.basename(frame.f_code.co_filename), "line": frame.f_lineno}
    )


class Logger:
    LogLevel = LogLevel
    INFO, WARNING, ERROR, VERBOSE = LogLevel.INFO, LogLevel.WARNING, LogLevel.ERROR, LogLevel.VERBOSE

    @staticmethod
    def log(message, level=LogLevel.INFO):
        if not isinstance(level, LogLevel):
            raise TypeError("the level of a log message must be a Logger.LogLevel, not %s" % type(level).__name__)
        _log(level, message)

    @staticmethod
    def log_info(message):
        _log(LogLevel.INFO, message)

    @staticmethod
    def log_warn(message):
        _log(LogLevel.WARNING, message)

    @staticmethod
    def log_error(message):
        _log(LogLevel.ERROR, message)

    @staticmethod
    def log_verbose(message):
        _log(LogLevel.VERBOSE, message)


# Metrics.


class MetricKind(enum.Enum):
    COUNTER = 0
    GAUGE = 1
    HISTOGRAM = 2


COUNTER, GAUGE, HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM


class Metric:
    """One time series of a family; made by MetricFamily.Metric(labels, buckets)."""

    def __init__(self, family, labels, buckets):
        self._kind, self._id, self._family = family._kind, None, weakref.ref(family)
        if labels is None:
            labels = {}
        if not isinstance(labels, dict):
            raise TypeError("the labels of a metric must be a dict")
        for key, value in labels.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise TritonModelException("the labels of a metric map str to str, found %r: %r" % (key, value))
        buckets = [float(b) for b in buckets] if buckets is not None else None
        if family._kind is MetricKind.HISTOGRAM:
            if buckets is None:
                raise TritonModelException("a histogram needs buckets, [] for the one up to infinity")
            if any(not a < b for a, b in zip(buckets, buckets[1:])):
                raise TritonModelException("the buckets of a histogram must ascend")
        elif buckets:
            raise TritonModelException("only a histogram has buckets")
        self._id = _runtime.ask({"m": "metric", "family": family._name, "labels": labels, "buckets": buckets or []})

    def _check_family(self):
        if self._family() is None:  # the old backend ends a family's metrics with it
            raise TritonModelException(
                "Invalid metric operation as the corresponding 'MetricFamily' has been deleted. The 'MetricFamily' object should be deleted "
                "AFTER its corresponding 'Metric' objects have been deleted."
            )

    def _change(self, operation, value, kinds):
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise TypeError("the value of a metric must be a number, not %s" % type(value).__name__)
        value = float(value)
        if self._kind not in kinds:
            raise TritonModelException("a %s has no %s()" % (self._kind.name.lower(), operation))
        self._check_family()
        if value != value or value in (float("inf"), float("-inf")):
            raise TritonModelException("the value of a metric must be finite")
        if operation == "increment" and self._kind is MetricKind.COUNTER and value < 0:
            raise TritonModelException("a counter can only go up, found increment(%r)" % value)
        _runtime.channel.send({"m": "metric_" + operation, "id": self._id, "v": value})

    def increment(self, value):
        self._change("increment", value, (MetricKind.COUNTER, MetricKind.GAUGE))

    def set(self, value):
        self._change("set", value, (MetricKind.GAUGE,))

    def observe(self, value):
        self._change("observe", value, (MetricKind.HISTOGRAM,))

    def value(self):
        if self._kind is MetricKind.HISTOGRAM:
            raise TritonModelException("a histogram has no value()")
        self._check_family()
        return float(_runtime.ask({"m": "metric_value", "id": self._id}))

    def __del__(self):
        if getattr(self, "_id", None) is not None:
            _runtime.channel.send_later({"m": "metric_drop", "id": self._id})


class MetricFamily:
    MetricKind = MetricKind
    COUNTER, GAUGE, HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM

    def __init__(self, name, description, kind):
        if not isinstance(name, str) or not isinstance(description, str) or not isinstance(kind, MetricKind):
            raise TypeError("MetricFamily(name: str, description: str, kind: MetricFamily.COUNTER, GAUGE or HISTOGRAM)")
        self._name, self._kind = name, kind
        _runtime.ask({"m": "metric_family", "name": name, "description": description, "kind": kind.value})

    def Metric(self, labels=None, buckets=None):
        return Metric(self, labels, buckets)


# What auto_complete_config() fills.


class ModelConfig:
    """A config under construction: only adds what the file leaves open, and says where the two contradict."""

    _TENSOR_KEYS = ("name", "data_type", "dims", "format", "reshape", "is_shape_tensor", "allow_ragged_batch", "optional", "label_filename")

    def __init__(self, model_config):
        self._model_config = json.loads(model_config) if isinstance(model_config, str) else dict(model_config)

    def as_dict(self):
        return self._model_config

    def _here(self):
        return "in auto-complete-config function for model '%s'" % self._model_config["name"]

    def set_max_batch_size(self, max_batch_size):
        ours = self._model_config.get("max_batch_size", 0)
        if ours > max_batch_size:
            raise ValueError(
                "configuration specified max_batch_size %s, but %s specified max_batch_size %s" % (ours, self._here(), max_batch_size)
            )
        self._model_config["max_batch_size"] = max_batch_size

    def set_dynamic_batching(self):
        for scheduler in ("sequence_batching", "ensemble_scheduling"):
            if self._model_config.get(scheduler):
                raise ValueError(
                    "Configuration specified scheduling_choice as '%s', but auto-complete-config function for model '%s' tries to set "
                    "scheduling_choice as 'dynamic_batching'" % (scheduler, self._model_config["name"])
                )
        self._model_config.setdefault("dynamic_batching", {})

    def set_model_transaction_policy(self, transaction_policy_dict):
        unknown = [key for key in transaction_policy_dict if key != "decoupled"]
        if unknown:
            raise ValueError("model transaction property %s contains property other than 'decoupled': '%s'" % (self._here(), unknown[0]))
        policy = self._model_config.setdefault("model_transaction_policy", {})
        if "decoupled" not in transaction_policy_dict:
            return
        decoupled = bool(transaction_policy_dict["decoupled"])
        if bool(policy.get("decoupled", decoupled)) != decoupled:
            raise ValueError(
                "trying to change decoupled property in auto-complete-config for model '%s', which is already set to '%s'."
                % (self._model_config["name"], policy["decoupled"])
            )
        policy["decoupled"] = decoupled

    def add_input(self, input):
        self._add("input", input, "'name', 'data_type', 'dims' and 'optional'")

    def add_output(self, output):
        self._add("output", output, "'name', 'data_type' and 'dims'")

    def _add(self, kind, tensor, properties):
        name = self._model_config["name"]
        if "name" not in tensor:
            raise ValueError("%s %s is missing 'name' property." % (kind, self._here()))
        for key in tensor:
            if key not in self._TENSOR_KEYS:
                raise ValueError("%s '%s' %s contains property other than %s. (found '%s')" % (kind, tensor["name"], self._here(), properties, key))
        for key in ("data_type", "dims"):
            if key not in tensor:
                raise ValueError("%s '%s' %s is missing '%s' property." % (kind, tensor["name"], self._here(), key))
        known = self._model_config.setdefault(kind, [])
        for present in known:
            if present["name"] != tensor["name"]:
                continue
            if present.get("data_type") != tensor["data_type"]:
                raise ValueError(
                    "unable to load model '%s', configuration expects datatype %s for %s '%s', model provides %s"
                    % (name, present.get("data_type"), kind, tensor["name"], tensor["data_type"])
                )
            for key in ("dims", "optional"):
                if key in tensor and key in present and tensor[key] != present[key]:
                    raise ValueError(
                        "model '%s', tensor '%s': the model expects %s %s but the model configuration specifies %s %s"
                        % (name, tensor["name"], key, tensor[key], key, present[key])
                    )
            return
        known.append(dict(tensor))
