import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.set_max_batch_size(4)
        config.set_dynamic_batching()
        config.add_input({"name": "A", "data_type": "TYPE_INT32", "dims": [2]})
        config.add_input({"name": "A", "data_type": "TYPE_INT32", "dims": [2]})
        config.add_output({"name": "SUM", "data_type": "TYPE_INT32", "dims": [1]})
        return config

    async def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("SUM", r.inputs()[0].as_numpy().sum(axis=1, keepdims=True, dtype=np.int32))])
            for r in requests
        ]
