"""SIGTERM to a server whose models hang: it is gone soon after its time to exit, and so are its children. Usage: exit_test.py INGOT WORK_DIR"""

import os
import signal
import sys
import threading

try:
    import numpy as np
    import tritonclient.http as httpclient
except ImportError as e:
    print(f"skipped: {e} (install tools/requirements-test.txt)")
    sys.exit(1 if os.environ.get("CI") else 77)

from python_server import PythonServer, alive, children_of, wait_for

HANGS = """import sys, time, triton_python_backend_utils as pb_utils
def hang(what):
  print(what, "hangs", file=sys.stderr, flush=True)
  while True:
    time.sleep(1)
class TritonPythonModel:
  def initialize(self, args):
    if args["model_name"] == "initialize":
      hang("initialize")
  def execute(self, requests):
    hang("execute")
"""
CONFIG = 'backend: "python" input { name: "X" data_type: TYPE_INT32 dims: 1 } output { name: "Y" data_type: TYPE_INT32 dims: 1 }'


def server(binary, work, model, *flags):
    s = PythonServer(binary, f"{work}_{model}", [], "--exit-timeout-secs=1", *flags, begin=False)
    (s.repository / model / "1").mkdir(parents=True)
    (s.repository / model / "1" / "model.py").write_text(HANGS)
    (s.repository / model / "config.pbtxt").write_text(CONFIG)
    s.begin()
    return s


def ends(s, children):
    s.process.send_signal(signal.SIGTERM)
    assert s.process.wait(timeout=60) == 1, s.log()
    wait_for("the children end", lambda: children and not any(map(alive, children)))
    s.process.returncode = 0  # as expected here


def main():
    binary, work = sys.argv[1:3]
    # While the server starts: no request could be answered yet.
    s = server(binary, work, "initialize")
    wait_for("the model hangs", lambda: "initialize hangs" in s.log(), 60)
    ends(s, children_of(s.process.pid))

    # The model is loaded on request.
    with server(binary, work + "_loaded", "initialize", "--model-control-mode=explicit") as s:
        with httpclient.InferenceServerClient(f"127.0.0.1:{s.http}") as h:
            threading.Thread(target=lambda: raises(h.load_model, "initialize")).start()
            wait_for("the model hangs", lambda: "initialize hangs" in s.log(), 60)
            ends(s, children_of(s.process.pid))

    # A request runs: its client is told.
    with server(binary, work, "execute") as s:
        with httpclient.InferenceServerClient(f"127.0.0.1:{s.http}") as h:
            x = httpclient.InferInput("X", [1], "INT32")
            x.set_data_from_numpy(np.array([1], np.int32))
            errors = []
            asking = threading.Thread(target=lambda: errors.append(raises(h.infer, "execute", [x])))
            asking.start()
            wait_for("the model hangs", lambda: "execute hangs" in s.log(), 60)
            ends(s, children_of(s.process.pid))
            asking.join()
            assert "Stub process 'execute_0' is not healthy" in str(errors[0]), errors[0]
    print("exit: all passed")


def raises(call, *args):
    try:
        call(*args)
    except Exception as e:  # the server's, or of the client's transport when the server goes
        return e
    raise AssertionError("want an error")


if __name__ == "__main__":
    main()
