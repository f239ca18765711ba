"""Calls from processes that the model forked (multiprocessing.Pool): its own process passes them on to the server.

Before the first fork a thread starts to listen on an abstract socket, with a key that only forks know. A fork connects once per thread.
"""

import asyncio
import os
import threading

_listener = None
_address = None
_key = b""


def install(runtime):
    os.register_at_fork(before=lambda: _listen(runtime), after_in_child=lambda: _become_fork(runtime))


# In the model's process.


def _listen(runtime):
    global _listener, _address, _key
    if _listener is not None or runtime.link is not None:
        return
    from multiprocessing.connection import Listener

    _key = os.urandom(32)
    _address = "\0ingot-python-%d-%s" % (os.getpid(), os.urandom(8).hex())
    _listener = Listener(_address, family="AF_UNIX", authkey=_key)
    threading.Thread(target=_accept, args=(runtime,), name="ingot-forks", daemon=True).start()


def _accept(runtime):
    while True:
        try:
            connection = _listener.accept()
        except Exception:  # a stranger without the key
            continue
        threading.Thread(target=_serve, args=(runtime, connection), name="ingot-fork", daemon=True).start()


def _serve(runtime, connection):
    from ingot_python_calls import InferenceRequest
    from ingot_python_tensor import Tensor

    try:
        while True:
            kind, body = connection.recv()
            if kind == "send":
                runtime.channel.send(body)
                continue
            try:
                if kind == "ask":
                    connection.send((None, runtime.ask(body)))
                    continue
                request, decoupled = body
                request["inputs"] = [Tensor(name, array) for name, array in request["inputs"]]
                answer = InferenceRequest(**request).exec(decoupled=decoupled)
                answers = [
                    (
                        (r.error().message(), r.error().code()) if r.has_error() else None,
                        [(t.name(), t.as_numpy().copy()) for t in r.output_tensors()],
                        r.parameters(),
                    )
                    for r in (answer if decoupled else [answer])
                ]
                connection.send((None, answers))
            except Exception as e:
                connection.send((str(e), None))
    except (EOFError, OSError):
        connection.close()


# In a fork.


class Link:
    """What a fork has instead of the channel."""

    def __init__(self):
        self._local = threading.local()

    def _connection(self):
        connection = getattr(self._local, "connection", None)
        if connection is None:
            from multiprocessing.connection import Client

            connection = self._local.connection = Client(_address, family="AF_UNIX", authkey=_key)
        return connection

    def send(self, message):
        self._connection().send(("send", message))

    def send_later(self, message):
        pass  # a destructor of an object that the model's process also has

    def _call(self, kind, body):
        from ingot_python_tensor import TritonModelException

        connection = self._connection()
        connection.send((kind, body))
        error, value = connection.recv()
        if error is not None:
            raise TritonModelException(error)
        return value

    def ask(self, message):
        return self._call("ask", message)

    def infer(self, request, decoupled):
        from ingot_python_calls import InferenceResponse, TritonError
        from ingot_python_tensor import Tensor

        body = {
            "inputs": [(t.name(), t.as_numpy()) for t in request._inputs],
            "requested_output_names": request._names,
            "model_name": request._model_name,
            "request_id": request._request_id,
            "correlation_id": request._correlation_id,
            "model_version": request._model_version,
            "flags": request._flags,
            "timeout": request._timeout,
            "parameters": request._parameters,
        }
        responses = []
        for error, tensors, parameters in self._call("infer", (body, decoupled)):
            error = TritonError(*error) if error is not None else None
            responses.append(InferenceResponse([Tensor(n, a) for n, a in tensors], error, parameters))
        return iter(responses) if decoupled else responses[0]

    def async_infer(self, request, decoupled):
        return asyncio.get_running_loop().run_in_executor(None, self.infer, request, decoupled)


def _become_fork(runtime):
    runtime.link = Link()
    runtime.channel = runtime.link
