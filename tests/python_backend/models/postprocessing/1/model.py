"""Ids to text, with the calls that the classic postprocessing model makes."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from transformers import AutoTokenizer


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = config["parameters"]
        self.skip_special_tokens = parameters["skip_special_tokens"]["string_value"].lower() == "true"
        self.tokenizer = AutoTokenizer.from_pretrained(
            parameters["tokenizer_dir"]["string_value"], legacy=False, padding_side="left", trust_remote_code=True
        )
        self.output_dtype = pb_utils.triton_string_to_numpy(pb_utils.get_output_config_by_name(config, "OUTPUT")["data_type"])

    def execute(self, requests):
        responses = []
        for request in requests:
            tokens = pb_utils.get_input_tensor_by_name(request, "TOKENS_BATCH").as_numpy()
            lengths = pb_utils.get_input_tensor_by_name(request, "SEQUENCE_LENGTH").as_numpy()
            texts = []
            for beams, beam_lengths in zip(tokens, lengths):
                for ids, length in zip(beams, beam_lengths):
                    texts.append(self.tokenizer.decode(ids[:length], skip_special_tokens=self.skip_special_tokens).encode("utf8"))
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.array(texts).astype(self.output_dtype))]))
        return responses

    def finalize(self):
        print("Cleaning up...")
