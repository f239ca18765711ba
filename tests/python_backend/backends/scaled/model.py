"""A python-based backend: the factor stands in model.json of the model's version folder."""

import json
import os

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.set_max_batch_size(0)
        config.add_input({"name": "X", "data_type": "TYPE_FP64", "dims": [-1]})
        config.add_output({"name": "Y", "data_type": "TYPE_FP64", "dims": [-1]})
        return config

    def initialize(self, args):
        with open(os.path.join(pb_utils.get_model_dir(), "model.json")) as f:
            self.factor = float(json.load(f)["factor"])

    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.multiply(r.inputs()[0].as_numpy(), self.factor))]) for r in requests]
