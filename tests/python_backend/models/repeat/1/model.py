import asyncio
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def response(i):
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([i], np.int32))], parameters={"index": i})


class TritonPythonModel:
    """IN responses 0 .. IN - 1, by MODE: thread (default), at_once, async, endless, raise, return, lost, errors (one after each)."""

    def initialize(self, args):
        self.cancelled_after = -1

    def execute(self, requests):
        for request in requests:
            n = int(pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0])
            tensor = pb_utils.get_input_tensor_by_name(request, "MODE")
            mode = tensor.as_numpy()[0].decode() if tensor is not None else "thread"
            sender = request.get_response_sender()
            if mode == "raise":
                raise RuntimeError("as you wish")
            if mode == "return":
                return [response(0)]
            if mode == "lost":
                sender.send(response(7))
            elif mode == "endless":
                threading.Thread(target=self.until_cancelled, args=(sender,)).start()
            elif mode == "at_once":
                for i in range(n):
                    sender.send(response(i), flags=FINAL if i == n - 1 else 0)
                try:
                    sender.send(response(n))
                except pb_utils.TritonModelException as e:
                    assert "Response sender has been closed" in str(e), e
            elif mode == "async":
                return self.later(sender, n)
            elif mode == "errors":
                for i in range(n):
                    sender.send(response(i))
                    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("error %d" % i, pb_utils.TritonError.NOT_FOUND)))
                sender.send(flags=FINAL)
            elif mode == "how_many":
                sender.send(response(self.cancelled_after), flags=FINAL)
            else:
                threading.Thread(target=self.send_all, args=(sender, n)).start()
        return None

    def send_all(self, sender, n):
        for i in range(n):
            sender.send(response(i))
        sender.send(flags=FINAL)

    async def later(self, sender, n):
        for i in range(n):
            await asyncio.sleep(0.001)
            sender.send(response(i))
        sender.send(flags=FINAL)

    def until_cancelled(self, sender):
        i = 0
        while not sender.is_cancelled() and i < 2000:
            sender.send(response(i))
            i += 1
            time.sleep(0.005)
        self.cancelled_after = i
        sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED)), flags=FINAL)
