"""Text to ids, with the calls that the classic preprocessing model makes: config by name, AutoTokenizer, flat word lists with offsets."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from transformers import AutoTokenizer


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        tokenizer_dir = config["parameters"]["tokenizer_dir"]["string_value"]
        special = config["parameters"].get("add_special_tokens")
        self.add_special_tokens = special is None or special["string_value"].lower() in ("true", "1") or special["string_value"].startswith("${")
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir, legacy=False, padding_side="left", trust_remote_code=True)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.end_id = self.tokenizer.encode(self.tokenizer.eos_token, add_special_tokens=False)[0]
        self.pad_id = self.tokenizer.encode(self.tokenizer.pad_token, add_special_tokens=False)[0]
        for name in ("INPUT_ID", "REQUEST_INPUT_LEN", "BAD_WORDS_IDS", "STOP_WORDS_IDS", "OUT_END_ID", "OUT_PAD_ID"):
            dtype = pb_utils.triton_string_to_numpy(pb_utils.get_output_config_by_name(config, name)["data_type"])
            setattr(self, name.lower() + "_dtype", dtype)

    def execute(self, requests):
        responses = []
        for request in requests:
            query = pb_utils.get_input_tensor_by_name(request, "QUERY").as_numpy()
            batch = query.shape[0]
            length = pb_utils.get_input_tensor_by_name(request, "REQUEST_OUTPUT_LEN").as_numpy()
            end, pad = (pb_utils.get_input_tensor_by_name(request, n) for n in ("END_ID", "PAD_ID"))
            ids = [
                np.array(self.tokenizer.encode(s[0].decode(), add_special_tokens=self.add_special_tokens)).astype(int) for s in query
            ]
            longest = max(i.size for i in ids)
            input_id = np.stack([np.pad(i, (0, longest - i.size), constant_values=self.pad_id) for i in ids])
            tensors = [
                pb_utils.Tensor("INPUT_ID", input_id.astype(self.input_id_dtype)),
                pb_utils.Tensor("REQUEST_INPUT_LEN", np.array([[i.size] for i in ids], dtype=self.request_input_len_dtype)),
                pb_utils.Tensor("BAD_WORDS_IDS", self.words(request, "BAD_WORDS_DICT", batch)),
                pb_utils.Tensor("STOP_WORDS_IDS", self.words(request, "STOP_WORDS_DICT", batch)),
                pb_utils.Tensor("REQUEST_OUTPUT_LEN", length),
                pb_utils.Tensor("OUT_END_ID", end.as_numpy() if end is not None else np.full((batch, 1), self.end_id, self.out_end_id_dtype)),
                pb_utils.Tensor("OUT_PAD_ID", pad.as_numpy() if pad is not None else np.full((batch, 1), self.pad_id, self.out_pad_id_dtype)),
            ]
            responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
        return responses

    def finalize(self):
        print("Cleaning up...")

    def words(self, request, name, batch):
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        if tensor is None:
            return np.empty((batch, 2, 0), np.int32)
        flat, offsets = [], []
        for row in tensor.as_numpy():
            ids = [self.tokenizer.encode(w.decode(), add_special_tokens=False) for w in row if w]
            flat.append(np.array(sum(ids, [])))
            offsets.append(np.cumsum([len(i) for i in ids]))
        width = max(1, max(len(f) for f in flat))
        flat = [np.pad(f, (0, width - len(f)), constant_values=0) for f in flat]
        offsets = [np.pad(o, (0, width - len(o)), constant_values=-1) for o in offsets]
        return np.array([flat, offsets], dtype=np.int32).transpose((1, 0, 2))
