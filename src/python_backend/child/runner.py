"""The loop of the child: takes commands from the server and runs the user's model."""

import asyncio
import gc
import importlib
import inspect
import json
import os
import platform
import sys
import threading
import traceback


def describe(error):
    """'TypeError: text' and where it happened, innermost call last."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(("<ingot ", "<frozen importlib", "<string>"))
    ]
    text = "".join(traceback.format_exception_only(type(error), error)).strip()
    if frames:
        text += "\n\nAt:\n" + "\n".join("  %s(%d): %s" % (f.filename, f.lineno, f.name) for f in frames)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        text += "\n\nCaused by " + describe(cause)
    return text


class Runner:
    def __init__(self, setup, channel, runtime):
        self._setup, self._channel, self._runtime = setup, channel, runtime
        self._class = self._model = None
        self._ready_check = None
        self._background_loop = None
        self._args = {}

    # The user's module.

    def _load_class(self):
        if self._class is not None:
            return
        for directory in reversed(self._setup["python_path"]):
            sys.path.insert(0, directory)
        name = os.path.splitext(os.path.basename(self._setup["file"]))[0]
        source = self._setup.get("source")
        if source is not None:  # a backend that came with the server; not under its name, which is that of the package it imports
            name = "model"
            module = type(sys)(name)
            module.__file__ = "<ingot %s>" % self._setup["file"]
            sys.modules[name] = module
            exec(compile(source, module.__file__, "exec"), module.__dict__)
        else:
            spec = importlib.util.spec_from_file_location(name, self._setup["file"])
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        if not hasattr(module, "TritonPythonModel"):
            raise AttributeError("module '%s' has no attribute 'TritonPythonModel'" % self._setup["file"])
        self._class = module.TritonPythonModel

    def auto_complete(self, message):
        self._load_class()
        if not hasattr(self._class, "auto_complete_config"):
            return {}
        from triton_python_backend_utils import ModelConfig

        result = self._class.auto_complete_config(ModelConfig(message["config"]))
        if not isinstance(result, ModelConfig):
            raise TypeError(
                "auto_complete_config function in model '%s' must return a valid pb.ModelConfig object, found %s"
                % (self._setup["model"], type(result).__name__)
            )
        return {"v": json.dumps(result.as_dict())}

    def initialize(self, message):
        self._load_class()
        if not hasattr(self._class, "execute"):
            raise AttributeError("TritonPythonModel of '%s' has no execute()" % self._setup["file"])
        self._args = message["args"]
        self._runtime.decoupled = message["decoupled"]
        self._model = self._class()
        if hasattr(self._model, "initialize"):
            self._run(self._model.initialize(dict(self._args)))
        self._ready_check = getattr(self._model, "is_ready", None) or getattr(self._model, "is_model_ready", None)
        gc.collect()
        gc.freeze()  # what the model keeps for ever is not looked at again by later collections
        return {"v": {"checks_ready": self._ready_check is not None}}

    def finalize(self, message):
        if self._model is not None and hasattr(self._model, "finalize"):
            self._run(self._model.finalize())
        return {}

    def _run(self, result):
        """Waits for what may be a coroutine. The tasks that it leaves behind go on."""
        return self._in_background(result).result() if inspect.iscoroutine(result) else result

    def _in_background(self, coroutine):
        if self._background_loop is None:
            self._background_loop = asyncio.new_event_loop()
            threading.Thread(target=self._background_loop.run_forever, name="ingot-asyncio", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._background_loop)

    # Requests.

    def execute(self, message):
        from ingot_python_calls import InferenceRequest

        name, version = self._args["model_name"], int(self._args["model_version"])
        done = {"m": "done", "x": message["x"]}
        try:
            requests = [InferenceRequest.received(self._channel, r, name, version) for r in message["r"]]
            states = [r._open.state for r in requests]
        except Exception as e:
            self._channel.send(dict(done, e=describe(e)))
            return
        try:
            result = self._model.execute(requests)
            if self._runtime.decoupled and inspect.iscoroutine(result):
                self._in_background(self._watch(result, message["x"], states))
                result = None
                done["async"] = True
            else:
                result = self._run(result)
            self._check_count(result, requests, states)
            answers = self._answers(result, states)
        except Exception as e:
            for state in states:
                if not state.closed:
                    state.close()
                    done.setdefault("failed", []).append(state.number)
            done["e"] = describe(e) if not isinstance(e, _BadReturn) else str(e)
        else:
            if answers:
                done["r"] = answers
            again = [s.number for s in states if s.reschedule and not s.closed]
            if again:
                done["again"] = again
                for state in states:
                    if state.reschedule:
                        state.close()
        self._channel.send(done)

    async def _watch(self, coroutine, number, states):
        try:
            result = await coroutine
            if result is not None:
                raise self._must_return_none()
        except Exception as e:
            failed = [s for s in states if not s.closed]
            for state in failed:
                state.close()
            text = describe(e) if not isinstance(e, _BadReturn) else str(e)
            self._channel.send({"m": "failed", "x": number, "e": text, "failed": [s.number for s in failed]})

    def _must_return_none(self):
        return _BadReturn("Python model '%s' is using the decoupled mode and the execute function must return None." % self._runtime.instance)

    def _check_count(self, result, requests, states):
        if self._runtime.decoupled:
            if result is not None:
                raise self._must_return_none()
            return
        if result is None and all(s.sender or s.reschedule for s in states):
            return
        if not isinstance(result, (list, tuple)):
            raise _BadReturn("Expected a list in the execute return, found type '%s'." % type(result))
        if len(result) != len(requests):
            raise _BadReturn(
                "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
                "InferenceRequest(s) size is:%d, and InferenceResponse(s) size is:%d\n" % (len(requests), len(result))
            )

    def _answers(self, result, states):
        from ingot_python_calls import InferenceResponse

        if result is None:
            return None
        for response, state in zip(result, states):
            if state.reschedule:
                if response is not None:
                    raise _BadReturn(
                        "Expected a None object in the execute function return list for reschduled request, found type '%s'." % type(response)
                    )
            elif response is None:
                if not state.sender:
                    raise _BadReturn("Expected an 'InferenceResponse' object in the execute function return list, found type '%s'." % type(None))
            elif not isinstance(response, InferenceResponse):
                raise _BadReturn("Expected an 'InferenceResponse' object in the execute function return list, found type '%s'." % type(response))
            elif state.closed or state.sent:
                raise _BadReturn("a response was returned for a request that was answered through its response sender")
        answers = []
        for response, state in zip(result, states):
            if response is None:
                continue
            answer = response.encode(self._channel, state.wanted, True)
            answer["id"] = state.number
            answers.append(answer)
        for response, state in zip(result, states):
            if response is not None:
                state.close()
        return answers

    # Loops.

    def serve(self):
        while True:
            message = self._channel.next_command()
            kind = message["m"]
            if kind == "execute":
                self.execute(message)
                message = None
                continue
            try:
                result = getattr(self, kind)(message)
            except BaseException as e:
                result = {"e": describe(e)}
                if isinstance(e, SystemExit):
                    result["e"] = "model.py called sys.exit(): " + result["e"]
            result["m"], result["of"] = "result", kind
            if kind == "finalize":
                self._model = None
                gc.collect()
            self._channel.send(result)
            if kind == "finalize":
                return

    def listen(self):
        """The thread of the events: what comes in while the model runs."""
        runtime = self._runtime
        while True:
            message = self._channel.next_event()
            kind = message["m"]
            if kind == "answer":
                runtime.answered(message)
            elif kind == "cancel":
                number = message["id"]
                if number > runtime.last_request:
                    runtime.cancelled_early.add(number)
                state = runtime.requests.get(number)
                if state is not None:
                    state.cancelled = True
            elif kind == "check_ready":
                threading.Thread(target=self._check_ready, args=(message["n"],), daemon=True).start()

    def _check_ready(self, number):
        message = {"m": "ready", "n": number, "v": False}
        try:
            result = self._ready_check()
            if inspect.iscoroutine(result):
                result = asyncio.run(result)
            if isinstance(result, bool):
                message["v"] = result
            else:
                message["e"] = "the readiness function must return a bool, found %s" % type(result).__name__
        except BaseException as e:
            message["e"] = describe(e)
        self._channel.send(message)


class _BadReturn(Exception):
    """What execute() returned is wrong: the text says all, a traceback nothing."""


def main(setup):
    hello = {"m": "hello", "python": platform.python_version(), "executable": sys.executable}
    from ingot_python_channel import Channel

    channel = Channel(setup["layout"])
    try:
        import numpy

        hello["numpy"] = numpy.__version__
        import importlib.util  # noqa: F401
        import triton_python_backend_utils
    except ImportError as e:
        hello["e"] = "%s has no numpy, which models of the python backend need (%s)" % (sys.executable, e)
        channel.send(hello)
        os._exit(1)
    import ingot_python_forks
    from ingot_python_calls import runtime

    ingot_python_forks.install(runtime)
    sys.modules["c_python_backend_utils"] = triton_python_backend_utils
    runtime.channel, runtime.instance, runtime.model_directory = channel, setup["instance"], setup["model_directory"]
    runner = Runner(setup, channel, runtime)
    threading.Thread(target=runner.listen, name="ingot-events", daemon=True).start()
    channel.send(hello)
    runner.serve()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of the model must not hold up the server's unload
