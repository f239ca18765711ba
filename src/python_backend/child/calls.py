"""Requests, responses and the calls between model and server. Part of triton_python_backend_utils."""

import asyncio
import itertools
import json
import queue

from ingot_python_channel import Lease
from ingot_python_tensor import Tensor, TritonModelException, place_all

_FINAL = 1
_RELEASE_ALL, _RELEASE_RESCHEDULE = 1, 2
_RESPONSE_PARAMETERS = (bool, int, str)  # as the old backend, which takes no float there
_REQUEST_PARAMETERS = (bool, int, float, str)  # a model passes on what its client sent


class TritonError:
    """An error with one of the server's codes."""

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    __slots__ = ("_message", "_code")

    def __init__(self, message, code=INTERNAL):
        if not isinstance(message, str):
            raise TypeError("the message of a TritonError must be a str, not %s" % type(message).__name__)
        if isinstance(code, bool) or not isinstance(code, int):
            raise TypeError("the code of a TritonError must be one of its constants, not %r" % (code,))
        if not 0 <= code <= 7:
            raise TritonModelException("the code of a TritonError must be one of its constants, not %r" % (code,))
        self._message, self._code = message, code

    def code(self):
        return self._code

    def message(self):
        return self._message

    def __str__(self):
        return self._message


class Runtime:
    """The one connection to the server of this process, and what it knows about its model."""

    def __init__(self):
        self.channel = None
        self.link = None  # in a process that the model forked
        self.instance = ""
        self.decoupled = False
        self.model_directory = ""
        self.requests = {}  # id -> RequestState of those whose cancellation may still come
        self.last_request = 0
        self.cancelled_early = set()  # ids whose cancellation overtook the request
        self._calls = {}  # id -> function that takes the answer
        self._ids = itertools.count(1)

    def call(self, message, deliver):
        number = next(self._ids)
        self._calls[number] = deliver
        message["c"] = number
        try:
            self.channel.send(message)
        except BaseException:
            self._calls.pop(number, None)
            raise
        return number

    def ask(self, message):
        if self.link is not None:
            return self.link.ask(message)
        answers = queue.SimpleQueue()
        self.call(message, answers.put)
        answer = answers.get()
        if "e" in answer:
            raise TritonModelException(answer["e"][1])
        return answer.get("v")

    def answered(self, message):
        """On the thread of the events."""
        number = message["c"]
        deliver = self._calls.get(number) if not message.get("final", True) else self._calls.pop(number, None)
        if deliver is not None:
            deliver(message)


runtime = Runtime()


def open_tensors(channel, entries, block):
    lease = Lease(channel, block[0], block[1]) if block else None
    base = channel.base
    return [Tensor.over_memory(n, t, shape, lease, base + offset, size) for n, t, shape, offset, size in entries]


def check_parameters(parameters, kinds):
    if parameters is None:
        return {}
    if isinstance(parameters, str):
        parameters = json.loads(parameters) if parameters else {}
    if not isinstance(parameters, dict):
        raise TypeError("Expect parameters to have type <class 'dict'>, got %s" % type(parameters))
    for key, value in parameters.items():
        if not isinstance(key, str):
            raise TritonModelException("Expect parameters keys to have type str, found type %r" % type(key))
        if not isinstance(value, kinds):
            raise TritonModelException(
                "Expect parameters values to have type %s, found type %s for key '%s'" % ("/".join(k.__name__ for k in kinds), type(value), key)
            )
        if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
            raise TritonModelException("parameter '%s' must be finite" % key)
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise TritonModelException("parameter '%s' must fit 64 bits" % key)
    return dict(parameters)


class InferenceResponse:
    __slots__ = ("_tensors", "_error", "_parameters")

    def __init__(self, output_tensors=(), error=None, parameters=None):
        if output_tensors is None or isinstance(output_tensors, (str, bytes, dict, Tensor)):
            raise TypeError("output_tensors must be a list of Tensor, not %s" % type(output_tensors).__name__)
        tensors = list(output_tensors)
        for tensor in tensors:
            if tensor is None:
                raise TritonModelException("Output tensor for inference response should not be None.")
            if not isinstance(tensor, Tensor):
                raise TypeError("output_tensors must hold Tensor objects, found %s" % type(tensor).__name__)
        if error is not None and not isinstance(error, TritonError):
            raise TypeError("error must be a TritonError, not %s" % type(error).__name__)
        self._tensors, self._error = tensors, error
        self._parameters = check_parameters(parameters, _RESPONSE_PARAMETERS)

    def output_tensors(self):
        return self._tensors

    def has_error(self):
        return self._error is not None

    def error(self):
        return self._error

    def parameters(self):
        return json.dumps(self._parameters)

    def encode(self, channel, wanted, alias):
        """Its form on the way to the server: only the outputs that were asked for."""
        if self._error is not None:
            return {"e": [self._error._code, self._error._message]}
        tensors = self._tensors
        if wanted:
            tensors = [t for t in tensors if t._name in wanted]
        out = {"o": place_all(tensors, channel, alias)}
        if self._parameters:
            out["p"] = self._parameters
        return out


def open_response(channel, message):
    response = InferenceResponse.__new__(InferenceResponse)
    error = message.get("e")
    response._error = TritonError(error[1], error[0]) if error else None
    response._tensors = open_tensors(channel, message.get("o") or (), message.get("b"))
    response._parameters = message.get("p") or {}
    return response


class RequestState:
    """What the server waits for: the request is open until its final response has gone."""

    __slots__ = ("number", "wanted", "cancelled", "closed", "sent", "sender", "reschedule", "__weakref__")

    def __init__(self, number, wanted):
        self.number, self.wanted = number, wanted
        self.cancelled = self.closed = self.reschedule = False
        self.sent, self.sender = 0, None

    def close(self):
        self.closed = True
        runtime.requests.pop(self.number, None)


class _OpenRequest:
    """Held by a request and its senders; the last of them to go closes what was left open."""

    __slots__ = ("state",)

    def __init__(self, state):
        self.state = state

    def __del__(self):
        if not self.state.closed:
            self.state.close()
            runtime.channel.send_later({"m": "send", "id": self.state.number, "f": _FINAL, "lost": True})


class InferenceResponseSender:
    __slots__ = ("_open",)

    def __init__(self, open_request):
        self._open = open_request

    def send(self, response=None, flags=0):
        state = self._open.state
        if response is not None and not isinstance(response, InferenceResponse):
            raise TypeError("send() takes an InferenceResponse, not %s" % type(response).__name__)
        if isinstance(flags, bool) or not isinstance(flags, int):
            raise TypeError("the flags of send() must be an int, not %s" % type(flags).__name__)
        if state.closed:
            raise TritonModelException("Unable to send response. Response sender has been closed.")
        if flags not in (0, _FINAL):
            raise TritonModelException("Unable to send response. Unsupported flag '%d' provided." % flags)
        if response is None and flags == 0:
            raise TritonModelException("Inference Response object must be provided when the response flags is set to zero.")
        if response is None and not state.sent and not runtime.decoupled:
            raise TritonModelException("Unable to send response. Non-decoupled model cannot send complete final before sending a response.")
        if response is not None and state.sent and not runtime.decoupled:
            raise TritonModelException("Unable to send response. Non-decoupled model cannot send more than one response.")
        message = {"m": "send", "id": state.number, "f": flags}
        if response is not None:
            message["r"] = response.encode(runtime.channel, state.wanted, False)
            state.sent += 1
        if flags:
            state.close()
        runtime.channel.send(message)

    def is_cancelled(self):
        return self._open.state.cancelled


class ResponseIterator:
    """The responses of one decoupled call, as they come; the last one may be empty."""

    def __init__(self, call):
        self._call, self._seen, self._at = call, [], 0

    def __iter__(self):
        if self._call.over and self._at >= len(self._seen):  # once more; else on from where it is
            self._at = 0
        return self

    def __next__(self):
        if self._at < len(self._seen):
            self._at += 1
            return self._seen[self._at - 1]
        if self._call.over:
            raise StopIteration
        response = self._call.next()
        self._seen.append(response)
        self._at += 1
        return response

    def cancel(self):
        self._call.cancel()


class _Call:
    """One inference into another model of the server."""

    def __init__(self, request, decoupled):
        self._answers = queue.SimpleQueue()
        self._loop = self._future = None
        self._decoupled = decoupled
        self.over = False
        self.number = runtime.call(request._encode(decoupled), self._deliver)

    def _deliver(self, message):
        self._answers.put(message)
        if self._loop is not None and message.get("final", True):
            self._loop.call_soon_threadsafe(self._resolve)

    def next(self):
        message = self._answers.get()
        self.over = message.get("final", True)
        return open_response(runtime.channel, message)

    def only(self):
        """The one response of a call that is not decoupled."""
        first = None
        while not self.over:
            response = self.next()
            if first is None or response.has_error():
                first = response
        return first

    def future(self):
        self._loop = asyncio.get_running_loop()
        self._future = self._loop.create_future()
        if not self._answers.empty():
            self._loop.call_soon(self._resolve_if_over)
        return self._future

    def _resolve_if_over(self):
        # The answer may have come before _loop was set; a non-decoupled call has all its messages once the final one is there.
        if not self._future.done() and runtime._calls.get(self.number) is None:
            self._future.set_result(self.only())

    def _resolve(self):
        if not self._future.done():
            self._future.set_result(self.only())

    def cancel(self):
        if not self.over:
            runtime.channel.send({"m": "cancel_infer", "c": self.number})


class InferenceRequest:
    """A request of the server to this model, or one of this model to another."""

    def __init__(
        self,
        inputs,
        requested_output_names,
        model_name,
        request_id="",
        correlation_id=0,
        model_version=-1,
        flags=0,
        timeout=0,
        preferred_memory=None,
        trace=None,
        parameters=None,
    ):
        if inputs is None or isinstance(inputs, (str, bytes, Tensor)):
            raise TypeError("inputs must be a list of Tensor, not %s" % type(inputs).__name__)
        inputs = list(inputs)
        for tensor in inputs:
            if tensor is None:
                raise TritonModelException("Input tensor for request with id '%s' and model name '%s' should not be None." % (request_id, model_name))
            if not isinstance(tensor, Tensor):
                raise TypeError("inputs must hold Tensor objects, found %s" % type(tensor).__name__)
        if requested_output_names is None or isinstance(requested_output_names, (str, bytes)):
            raise TypeError("requested_output_names must be a list of str, not %s" % type(requested_output_names).__name__)
        names = list(requested_output_names)
        for what, value, kind in [("requested_output_names", n, str) for n in names] + [
            ("model_name", model_name, str),
            ("request_id", request_id, str),
            ("correlation_id", correlation_id, (int, str)),
            ("model_version", model_version, int),
            ("flags", flags, int),
            ("timeout", timeout, int),
        ]:
            if not isinstance(value, kind):
                raise TypeError("%s of an InferenceRequest: found %s" % (what, type(value).__name__))
        if isinstance(correlation_id, int) and not 0 <= correlation_id < 1 << 64 or not 0 <= timeout < 1 << 64:
            raise TypeError("correlation_id and timeout of an InferenceRequest must be integers of 64 bits, not negative")
        self._inputs, self._names, self._model_name = inputs, names, model_name
        self._request_id, self._correlation_id, self._model_version = request_id, correlation_id, model_version
        self._flags, self._timeout, self._memory, self._trace = flags, timeout, preferred_memory, trace
        self._parameters, self._open, self._context = check_parameters(parameters, _REQUEST_PARAMETERS), None, None

    @classmethod
    def received(cls, channel, message, model_name, model_version):
        self = cls.__new__(cls)
        self._inputs = open_tensors(channel, message["i"], message.get("b"))
        self._names, self._model_name, self._model_version = message["o"], model_name, model_version
        self._request_id, self._correlation_id = message["rid"], message["cid"]
        self._flags, self._timeout, self._memory, self._trace = message["f"], message["t"], None, None
        self._parameters, self._context = message["p"], message.get("tc")
        state = RequestState(message["id"], frozenset(self._names) if message.get("only") else None)
        runtime.requests[state.number] = state
        runtime.last_request = state.number
        if state.number in runtime.cancelled_early:
            runtime.cancelled_early.discard(state.number)
            state.cancelled = True
        self._open = _OpenRequest(state)
        return self

    def inputs(self):
        return self._inputs

    def request_id(self):
        return self._request_id

    def correlation_id(self):
        return self._correlation_id

    def model_name(self):
        return self._model_name

    def model_version(self):
        return self._model_version

    def flags(self):
        return self._flags

    def set_flags(self, flags):
        if isinstance(flags, bool) or not isinstance(flags, int):
            raise TypeError("flags of an InferenceRequest: found %s" % type(flags).__name__)
        self._flags = flags

    def timeout(self):
        return self._timeout

    def preferred_memory(self):
        return self._memory

    def trace(self):
        if self._trace is None:
            from triton_python_backend_utils import InferenceTrace

            self._trace = InferenceTrace(self._open.state.number, self._context) if self._open else InferenceTrace()
        return self._trace

    def parameters(self):
        return json.dumps(self._parameters)

    def requested_output_names(self):
        return self._names

    def _state(self, what):
        if self._open is None:
            raise TritonModelException("'%s' function must be called using an Inference Request object received by the model." % what)
        return self._open.state

    def get_response_sender(self):
        state = self._state("get_response_sender")
        state.sender = True
        return InferenceResponseSender(self._open)

    def is_cancelled(self):
        return self._state("is_cancelled").cancelled

    def set_release_flags(self, flags):
        state = self._state("set_release_flags")
        if flags not in (_RELEASE_ALL, _RELEASE_RESCHEDULE):
            raise TritonModelException(
                "Invalid request release flags '%s' provided. The current flags supported are TRITONSERVER_REQUEST_RELEASE_ALL and "
                "TRITONSERVER_REQUEST_RELEASE_RESCHEDULE." % (flags,)
            )
        state.reschedule = flags == _RELEASE_RESCHEDULE

    # Into other models.

    def _encode(self, decoupled):
        channel = runtime.channel
        return {
            "m": "infer",
            "model": self._model_name,
            "version": self._model_version,
            "rid": self._request_id,
            "cid": self._correlation_id,
            "f": self._flags,
            "t": self._timeout,
            "p": self._parameters,
            "o": self._names,
            "i": place_all(self._inputs, channel, False),
            "decoupled": decoupled,
            **({"trace": self._trace._request} if getattr(self._trace, "_request", None) is not None else {}),
        }

    def exec(self, decoupled=False):
        if runtime.link is not None:
            return runtime.link.infer(self, bool(decoupled))
        call = _Call(self, bool(decoupled))
        return ResponseIterator(call) if decoupled else call.only()

    def async_exec(self, decoupled=False):
        if runtime.link is not None:
            return runtime.link.async_infer(self, bool(decoupled))
        loop = asyncio.get_running_loop()
        call = _Call(self, bool(decoupled))
        if decoupled:
            future = loop.create_future()
            future.set_result(ResponseIterator(call))
            return future
        return call.future()
