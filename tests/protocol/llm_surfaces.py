"""The three LLM surfaces over real tritonclient: text (ensemble), tokens (tensorrt_llm), LLM API; every optional input that the runtime
obeys, the refusal of the others by name, batches, several sequences, logits, streams.

Usage: llm_surfaces.py INGOT DEMO_DIR      (label `net`: needs the demo engine and tritonclient)
"""

import queue
import sys
import time

import llm_server

try:
    import numpy as np
    import tritonclient.grpc as grpc
    from tritonclient.utils import InferenceServerException
except ImportError as e:
    import os

    print(f"skipped: {e}; set INGOT_CLIENT_PYTHON to a Python with tools/requirements-test.txt")
    sys.exit(1 if os.environ.get("CI") else 77)

TYPES = {np.dtype(np.int32): "INT32", np.dtype(np.int64): "INT64", np.dtype(np.uint64): "UINT64", np.dtype(np.float32): "FP32", np.dtype(np.float16): "FP16", np.dtype(bool): "BOOL",
         np.dtype(object): "BYTES"}
PROMPTS = ["The capital of France is", "Water boils at", "One two three four"]


def tensor(name, value, dtype=None):
    array = np.array(value, dtype=object if isinstance(np.array(value).flat[0] if np.array(value).size else value, str) else dtype)
    t = grpc.InferInput(name, list(array.shape), TYPES[array.dtype])
    t.set_data_from_numpy(array)
    return t


def strings(array):
    return [[s.decode() for s in row] for row in array]


class Surface:
    def __init__(self, client, model, scalars, batched=True):
        self.client, self.model, self.scalars, self.batched = client, model, scalars, batched

    def inputs(self, rows, values):
        out = []
        for name, value in values.items():
            dtype = self.scalars.get(name)
            if dtype is not None:
                value = np.array([[value]] * rows if self.batched else [value], dtype=dtype)
            out.append(tensor(name, value, value.dtype if isinstance(value, np.ndarray) else None))
        return out

    def infer(self, rows=1, outputs=None, request_id="", **values):
        wanted = None if outputs is None else [grpc.InferRequestedOutput(o) for o in outputs]
        r = self.client.infer(self.model, self.inputs(rows, values), outputs=wanted, request_id=request_id)
        return {o.name: r.as_numpy(o.name) for o in r.get_response().outputs}, r

    def fails(self, text, rows=1, **values):
        try:
            self.infer(rows, **values)
        except InferenceServerException as e:
            assert text in e.message(), (text, e.message())
            return
        raise AssertionError(f"no error; want '{text}'")

    def stream(self, rows=1, request_id="", **values):
        answers = queue.Queue()
        with grpc.InferenceServerClient(self.client._url) as client:
            client.start_stream(lambda result, error: answers.put((result, error)))
            client.async_stream_infer(self.model, self.inputs(rows, values), request_id=request_id, enable_empty_final_response=True)
            out = []
            while True:
                result, error = answers.get(timeout=60)
                if error:
                    raise error
                response = result.get_response()
                one = {o.name: result.as_numpy(o.name) for o in response.outputs}
                if one:
                    out.append(one)
                if response.parameters["triton_final_response"].bool_param:
                    return out


SCALARS = {"max_tokens": np.int32, "stream": bool, "num_return_sequences": np.int32, "temperature": np.float32, "top_k": np.int32, "top_p": np.float32, "seed": np.uint64,
           "random_seed": np.uint64, "end_id": np.int32, "pad_id": np.int32, "min_tokens": np.int32, "return_log_probs": bool, "return_context_logits": bool,
           "return_generation_logits": bool, "return_perf_metrics": bool, "exclude_input_in_output": bool, "repetition_penalty": np.float32, "lora_task_id": np.uint64,
           "beam_width": np.int32, "request_output_len": np.int32, "streaming": bool, "runtime_top_k": np.int32, "stop": bool, "early_stopping": bool,
           "runtime_top_p_decay": np.float32, "min_length": np.int32, "len_penalty": np.float32, "prompt_table_extra_id": np.uint64}


def log_softmax(x):
    x = x.astype(np.float64)
    m = x.max(axis=-1, keepdims=True)
    return x - m - np.log(np.exp(x - m).sum(axis=-1, keepdims=True))


def text_surface(client):
    s = Surface(client, "ensemble", SCALARS)
    alone = [s.infer(text_input=[[p]], max_tokens=8, exclude_input_in_output=True)[0]["text_output"][0][0].decode() for p in PROMPTS]
    with_prompt, _ = s.infer(text_input=[[PROMPTS[0]]], max_tokens=8)
    assert with_prompt["text_output"][0][0].decode() == PROMPTS[0] + alone[0], with_prompt
    assert set(with_prompt) == {"text_output"}, with_prompt  # nothing that was not asked for

    both, _ = s.infer(3, text_input=[[p] for p in PROMPTS], max_tokens=8, exclude_input_in_output=True, num_return_sequences=2, return_log_probs=True)
    assert strings(both["text_output"]) == [[a, a] for a in alone], both  # greedy: both sequences are the same
    assert both["cum_log_probs"].shape == (3, 2) and both["output_log_probs"].shape == (3, 2, 8), {k: v.shape for k, v in both.items()}
    assert np.allclose(both["output_log_probs"].sum(-1), both["cum_log_probs"], atol=1e-4)

    sampled, _ = s.infer(text_input=[[PROMPTS[0]]], max_tokens=12, temperature=1.0, top_k=50, random_seed=7, num_return_sequences=4)
    again, _ = s.infer(text_input=[[PROMPTS[0]]], max_tokens=12, temperature=1.0, top_k=50, seed=7, num_return_sequences=4)
    texts = strings(sampled["text_output"])[0]
    assert texts == strings(again["text_output"])[0] and len(set(texts)) > 1, texts

    logits, _ = s.infer(text_input=[[PROMPTS[0]]], max_tokens=4, return_context_logits=True, return_generation_logits=True, return_log_probs=True)
    context, generated, probs = logits["context_logits"], logits["generation_logits"], logits["output_log_probs"]
    vocab = context.shape[-1]
    assert context.ndim == 3 and context.shape[0] == 1 and generated.shape == (1, 1, 4, vocab), (context.shape, generated.shape)
    assert np.allclose(log_softmax(generated[0, 0]).max(-1), probs[0, 0], atol=1e-3), (log_softmax(generated[0, 0]).max(-1), probs)
    assert np.allclose(context[0, -1], generated[0, 0, 0], atol=1e-3)  # the prompt's last position chose the first id
    only, _ = s.infer(outputs=["cum_log_probs"], text_input=[[PROMPTS[0]]], max_tokens=4, return_log_probs=True)
    assert set(only) == {"cum_log_probs"}, only

    perf, _ = s.infer(text_input=[[PROMPTS[0]]], max_tokens=4, return_perf_metrics=True)
    times = [int(perf[n][0][0]) for n in ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")]
    assert times == sorted(times) and times[0] > 0, times
    assert perf["kv_cache_alloc_total_blocks"][0][0] >= 1 and perf["acceptance_rate"].dtype == np.float32, perf

    # Words: a stop word ends the text and stays in an ensemble's; tensorrt_llm_bls cuts it. A bad word never comes.
    word = alone[0].split()[0]
    stopped, _ = s.infer(text_input=[[PROMPTS[0]]], max_tokens=8, stop_words=[[word]], exclude_input_in_output=True)
    assert stopped["text_output"][0][0].decode().endswith(word) and len(stopped["text_output"][0][0]) < len(alone[0]), (stopped, alone[0])
    cut, _ = Surface(client, "tensorrt_llm_bls", SCALARS).infer(text_input=[[PROMPTS[0]]], max_tokens=8, stop_words=[[word]], exclude_input_in_output=True)
    assert word not in cut["text_output"][0][0].decode(), cut
    banned, _ = s.infer(text_input=[[PROMPTS[0]]], max_tokens=8, bad_words=[[word]], exclude_input_in_output=True)
    assert word not in banned["text_output"][0][0].decode().split(), banned
    forced, _ = s.infer(text_input=[[PROMPTS[0]]], max_tokens=3, embedding_bias_words=[[" cat"]], embedding_bias_weights=np.array([[1000.0]], np.float32),
                        exclude_input_in_output=True)
    assert forced["text_output"][0][0].decode() == " cat cat cat", forced

    # Streams: the same text, in pieces; rows and sequences carry their index.
    pieces = s.stream(text_input=[[PROMPTS[0]]], max_tokens=8, stream=True)
    assert "".join(p["text_output"].flat[0].decode() for p in pieces) == alone[0] and len(pieces) > 3, pieces
    rows = {}
    for p in s.stream(3, text_input=[[p] for p in PROMPTS], max_tokens=8, stream=True, num_return_sequences=2):
        key = (int(p["batch_index"].flat[0]), int(p["sequence_index"].flat[0]))
        rows[key] = rows.get(key, "") + p["text_output"].flat[0].decode()
    assert rows == {(b, n): alone[b] for b in range(3) for n in range(2)}, rows

    s.fails("'lora_task_id' is not supported", text_input=[[PROMPTS[0]]], max_tokens=4, lora_task_id=1)
    s.fails("'beam_width' is 4", text_input=[[PROMPTS[0]]], max_tokens=4, beam_width=4)
    s.fails("'end_id' is -2", text_input=[[PROMPTS[0]]], max_tokens=4, end_id=-2)
    s.fails("unexpected inference input 'prompt_ids'", text_input=[[PROMPTS[0]]], max_tokens=4, prompt_ids=np.array([[1]], np.int32))
    s.infer(text_input=[[PROMPTS[0]]], max_tokens=2, lora_task_id=0, beam_width=1)  # neutral values pass


def token_surface(client):
    s = Surface(client, "tensorrt_llm", SCALARS)

    def ids(values):
        return {"input_ids": np.array([values], np.int32), "input_lengths": np.array([[len(values)]], np.int32)}

    prompts = [[504, 3575, 282, 4649, 314], [6321, 17120, 418]]
    alone = [s.infer(**ids(p), request_output_len=6, end_id=-1)[0] for p in prompts]
    for p, a in zip(prompts, alone):
        assert a["output_ids"].shape == (1, 1, len(p) + 6) and list(a["output_ids"][0, 0, : len(p)]) == p, a
        assert a["sequence_length"].tolist() == [[len(p) + 6]], a
    batch = np.array([prompts[0], prompts[1] + [0, 0]], np.int32)
    both, _ = s.infer(2, input_ids=batch, input_lengths=np.array([[5], [3]], np.int32), request_output_len=6, end_id=-1)
    assert both["sequence_length"].tolist() == [[11], [9]], both
    for row in range(2):
        n = both["sequence_length"][row, 0]
        assert both["output_ids"][row, 0, :n].tolist() == alone[row]["output_ids"][0, 0, :n].tolist(), both
    got = alone[0]["output_ids"][0, 0, 5:].tolist()
    ended, _ = s.infer(**ids(prompts[0]), request_output_len=6, end_id=got[2], exclude_input_in_output=True)
    assert ended["output_ids"][0, 0].tolist() == got[: got.index(got[2])], (ended, got)
    late, _ = s.infer(**ids(prompts[0]), request_output_len=6, end_id=got[0], min_length=3, exclude_input_in_output=True)
    assert late["sequence_length"][0, 0] >= 3 and got[0] not in late["output_ids"][0, 0, :3].tolist(), late
    words, _ = s.infer(**ids(prompts[0]), request_output_len=6, end_id=-1, bad_words_list=np.array([[[got[0]], [1]]], np.int32), exclude_input_in_output=True)
    assert got[0] not in words["output_ids"][0, 0].tolist(), words
    stop, _ = s.infer(**ids(prompts[0]), request_output_len=6, end_id=-1, stop_words_list=np.array([[[got[1]], [1]]], np.int32), exclude_input_in_output=True)
    assert len(stop["output_ids"][0, 0]) <= 2, stop
    vocab = s.infer(**ids(prompts[0]), request_output_len=1, return_context_logits=True)[0]["context_logits"].shape[-1]
    bias = np.zeros((1, vocab), np.float32)
    bias[0, 1234] = 1e4
    forced, _ = s.infer(**ids(prompts[0]), request_output_len=3, embedding_bias=bias, exclude_input_in_output=True)
    assert forced["output_ids"][0, 0].tolist() == [1234] * 3, forced
    idle, _ = s.infer(**ids(prompts[0]), request_output_len=6, end_id=-1, early_stopping=True, len_penalty=0.7, runtime_top_p_decay=1.0)
    assert idle["output_ids"].tolist() == alone[0]["output_ids"].tolist(), idle
    s.fails("'runtime_top_p_decay' is not supported", **ids(prompts[0]), request_output_len=2, runtime_top_p_decay=0.5)
    s.fails("'draft_input_ids' is not supported", **ids(prompts[0]), request_output_len=2, draft_input_ids=np.array([[5]], np.int32))

    # A table of embeddings: ids from the vocabulary's size on name its rows.
    width = 576
    table = (np.arange(2 * width).reshape(1, 2, width) % 13 / 50).astype(np.float16)
    virtual = ids([vocab, vocab + 1] + prompts[0])
    logits = [s.infer(**virtual, request_output_len=1, return_generation_logits=True, prompt_embedding_table=t)[0]["generation_logits"] for t in (table, table, -table)]
    assert np.array_equal(logits[0], logits[1]) and np.abs(logits[0] - logits[2]).max() > 0.1, np.abs(logits[0] - logits[2]).max()
    s.fails("row 2 of 'prompt_embedding_table'", **ids([vocab + 2]), request_output_len=1, prompt_embedding_table=table)
    s.fails("want 576 (hidden_size of the model)", **virtual, request_output_len=1, prompt_embedding_table=table[:, :, :5])

    pieces = s.stream(**ids(prompts[0]), request_output_len=6, end_id=-1, streaming=True)
    assert [i for p in pieces for i in p["output_ids"].flat] == got, pieces

    # `stop` ends the running request of the same id.
    slow = queue.Queue()
    with grpc.InferenceServerClient(client._url) as other:
        other.start_stream(lambda result, error: slow.put((result, error)))
        other.async_stream_infer("tensorrt_llm", s.inputs(1, {**ids(prompts[0]), "request_output_len": 1500, "end_id": -1, "streaming": True}), request_id="77")
        slow.get(timeout=60)
        start = time.time()
        s.stream(request_id="77", **ids([1]), request_output_len=1, stop=True)
        while True:
            result, error = slow.get(timeout=60)
            if error:
                break
        assert "cancelled" in str(error) and time.time() - start < 5, error


def llmapi_surface(client):
    scalars = {"streaming": bool, "sampling_param_max_tokens": np.int32, "sampling_param_temperature": np.float32, "sampling_param_top_k": np.int32,
               "sampling_param_seed": np.uint64, "sampling_param_exclude_input_from_output": bool, "sampling_param_return_perf_metrics": bool,
               "return_finish_reason": bool, "return_stop_reason": bool, "return_cumulative_logprob": bool, "lora_id": np.uint64, "sampling_param_best_of": np.int32}
    s = Surface(client, "tensorrt_llm", scalars, batched=False)
    answer, _ = s.infer(text_input=[PROMPTS[0]], sampling_param_max_tokens=6)
    assert set(answer) == {"text_output"} and answer["text_output"].shape == (1,), answer
    text = answer["text_output"][0].decode()
    assert text and not text.startswith(PROMPTS[0]), text  # without the prompt, as the LLM API
    full, _ = s.infer(text_input=[PROMPTS[0]], sampling_param_max_tokens=6, sampling_param_exclude_input_from_output=False)
    assert full["text_output"][0].decode() == PROMPTS[0] + text, full
    more, _ = s.infer(text_input=[PROMPTS[0]], sampling_param_max_tokens=6, return_finish_reason=True, return_stop_reason=True, return_cumulative_logprob=True,
                      sampling_param_return_perf_metrics=True)
    assert more["finish_reason"][0] == b"length" and more["stop_reason"][0] == b"" and more["cumulative_logprob"][0] < 0, more
    assert more["kv_cache_hit_rate"].dtype == np.float32 and more["arrival_time_ns"][0] > 0, more
    word = text.split()[0]
    stopped, _ = s.infer(text_input=[PROMPTS[0]], sampling_param_max_tokens=6, sampling_param_stop=[word], return_finish_reason=True, return_stop_reason=True)
    assert stopped["finish_reason"][0] == b"stop" and stopped["stop_reason"][0].decode() == word and word not in stopped["text_output"][0].decode(), stopped
    pieces = s.stream(text_input=[PROMPTS[0]], sampling_param_max_tokens=6, streaming=True)
    assert b"".join(p["text_output"][0] for p in pieces).decode() == text and len(pieces) > 2, pieces
    s.fails("'lora_id' is not supported", text_input=[PROMPTS[0]], lora_id=3)
    s.fails("'image_url' is not supported", text_input=[PROMPTS[0]], image_url=["http://x/y.png"])
    s.fails("'best_of' is 3", text_input=[PROMPTS[0]], sampling_param_best_of=3)
    s.fails("has 2 elements, want one prompt", text_input=PROMPTS[:2])


def generate(server):
    """Names in JSON: aliases are obeyed, unknown ones warned about, unsupported ones refused."""
    body = {"text_input": PROMPTS[0], "max_tokens": 4}
    status, plain = server.call("/v2/models/ensemble/generate", body)
    assert status == 200 and set(plain) == {"model_name", "model_version", "text_output"}, plain
    status, warned = server.call("/v2/models/ensemble/generate", {**body, "temprature": 0.5, "stop": "\n"})
    assert status == 200 and warned["text_output"] == plain["text_output"], warned
    assert "did you mean 'temperature'" in warned["warning"] and "did you mean 'stop_words'" in warned["warning"], warned
    for name in ("eod_id", "end_id"):
        status, ended = server.call("/v2/models/ensemble/generate", {**body, name: -1})
        assert status == 200 and "warning" not in ended, ended
    assert server.call("/v2/models/ensemble/generate", {**body, "eod_id": -7})[0] == 400
    status, refused = server.call("/v2/models/ensemble/generate", {**body, "num_draft_tokens": 4})
    assert status == 501 and "num_draft_tokens" in refused["error"], refused
    status, short = server.call("/v2/models/ensemble/generate", {"text_input": PROMPTS[0]})
    status2, sixteen = server.call("/v2/models/ensemble/generate", {"text_input": PROMPTS[0], "max_tokens": 16})
    assert short == sixteen, (short, sixteen)


def main():
    ingot, engine = sys.argv[1], llm_server.engine_or_skip(sys.argv[2])
    with llm_server.LlmServer(ingot, engine) as server:
        with grpc.InferenceServerClient(f"localhost:{server.grpc}") as client:
            client._url = f"localhost:{server.grpc}"
            text_surface(client)
            token_surface(client)
        generate(server)
    assert "unknown parameter 'temprature'" in server.log(), server.log()
    with llm_server.LlmServer(ingot, engine, "--llmapi") as server:
        with grpc.InferenceServerClient(f"localhost:{server.grpc}") as client:
            client._url = f"localhost:{server.grpc}"
            llmapi_surface(client)
    print("the three surfaces answer")


if __name__ == "__main__":
    main()
