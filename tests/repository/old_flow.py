"""The serving lines of the classic flow, releases 0.5 to 0.10, unchanged up to paths and ports: templates, fill_template.py,
launch_triton_server.py, tritonserver, curl, the client scripts.

Usage: old_flow.py INGOT DEMO_DIR WORK_DIR
Needs the demo engine (`make demo` leaves it in DEMO_DIR/engine) and curl; label `net`. Without it the test says so and skips (exit code
77), or fails when CI is set.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

WORK = Path()
ENV = {}
QUESTION = "What is machine learning?"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def fetch(port, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", data), timeout=120) as r:
            return r.status, r.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


def sh(line, check=True, **more):
    """One line of an old script, in WORK."""
    done = subprocess.run(["bash", "-c", line], cwd=WORK, env=ENV, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, **more)
    assert not check or done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done


class Server:
    """A line that starts a server, with ports of its own; `launcher`: the line returns and leaves the server running."""

    def __init__(self, line, log, launcher=False, http=True):
        self.http, self.grpc, self.metrics, self.log, self.pid = free_port(), free_port(), free_port(), WORK / log, 0
        dash = "_" if launcher else "-"
        line += f" --http{dash}port={self.http} --grpc{dash}port={self.grpc} --metrics{dash}port={self.metrics}"
        out = open(self.log, "w")
        self.process = subprocess.Popen(["bash", "-c", ("" if launcher else "exec ") + line], cwd=WORK, env=ENV, stdout=out, stderr=out)
        if launcher:
            assert self.process.wait(timeout=60) == 0, self.text()
            self.pid = int(re.search(r"process (\d+)", self.text()).group(1))
        for _ in range(600):
            if not launcher and self.process.poll() is not None:
                raise AssertionError(f"{line}\nended with {self.process.returncode}: {self.text()}")
            try:
                if http and fetch(self.http, "/v2/health/ready")[0] == 200:
                    return
                if not http and "Started GRPCInferenceService" in self.text():
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise AssertionError("the server does not become ready: " + self.text())

    def text(self):
        return self.log.read_text()

    def curl(self, path, body=None, port=None):
        data = "" if body is None else "-X POST -d '" + body + "'"
        return sh(f"curl -s {data} localhost:{port or self.http}{path}").stdout

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        os.kill(self.pid or self.process.pid, signal.SIGTERM)
        if not self.pid:
            assert self.process.wait(timeout=60) == 0, self.text()
            return
        for _ in range(600):
            if not Path(f"/proc/{self.pid}").exists() or Path(f"/proc/{self.pid}/stat").read_text().split()[2] == "Z":
                return
            time.sleep(0.1)
        raise AssertionError("the server does not end: " + self.text())


def infer(port, model, inputs):
    tensors = [{"name": n, "datatype": t, "shape": s, "data": d} for n, t, s, d in inputs]
    status, text = fetch(port, f"/v2/models/{model}/infer", {"inputs": tensors})
    assert status == 200, text
    return {o["name"]: o for o in json.loads(text)["outputs"]}


def fresh(name, layout="inflight_batcher_llm"):
    shutil.rmtree(WORK / name, ignore_errors=True)
    sh(f"cp -r all_models/{layout} {name}")
    return name


def flow_a(engine):
    """Yuan2.0-2B, 0.7.1: the gpt layout, fields set by hand."""
    repo = WORK / fresh("triton_model_repo_yuan", "gpt")
    for config in repo.glob("*/config.pbtxt"):
        text = config.read_text().replace("${tokenizer_dir}", "/m").replace("${tokenizer_type}", "yuan").replace("${gpt_model_path}", str(engine))
        config.write_text(text)
    with Server("python3 scripts/launch_triton_server.py --world_size=1 --model_repo=triton_model_repo_yuan", "a.log", launcher=True) as s:
        answer = s.curl("/v2/models/ensemble/generate",
                        '{"text_input": "写一篇春游作文<sep>", "max_tokens": 8, "bad_words": "", "stop_words": "", "pad_id": 77185, "end_id": 77185}')
        assert "text_output" in answer, (answer, s.text())
        text = json.loads(answer)["text_output"]
        assert text.startswith("写一篇春游作文<sep>") and "warning" not in answer, answer
        for want in (f"Started GRPCInferenceService at 0.0.0.0:{s.grpc}", f"Started HTTPService at 0.0.0.0:{s.http}",
                     f"Started Metrics Service at 0.0.0.0:{s.metrics}"):
            assert want in s.text(), s.text()


def flow_b(engine):
    """Baichuan2-7B-Chat, 0.7.1: tritonserver by hand, modes, strays, the end-to-end client."""
    repo = WORK / fresh("Baichuan2-7B-Chat")
    for model, more in {"preprocessing": ",preprocessing_instance_count:1", "postprocessing": ",postprocessing_instance_count:1"}.items():
        sh(f"python3 tools/fill_template.py -i {repo.name}/{model}/config.pbtxt tokenizer_dir:/m,tokenizer_type:auto,triton_max_batch_size:64{more}")
    sh(f"python3 tools/fill_template.py -i {repo.name}/tensorrt_llm/config.pbtxt triton_backend:tensorrtllm,triton_max_batch_size:64,decoupled_mode:False,"
       f"max_beam_width:1,engine_dir:{engine},kv_cache_free_gpu_mem_fraction:0.2,batching_strategy:inflight_fused_batching,max_queue_delay_microseconds:0")
    (repo / "end_to_end_grpc_client.py").write_text("# a client that lies in the repository")
    (repo / "README.md").write_text("stray files are ignored")
    line = (f"tritonserver --model-repository={repo} --disable-auto-complete-config --backend-config=python,shm-region-prefix-name=prefix0_:")
    with Server(line, "b.log") as s:
        config = json.loads(s.curl("/v2/models/ensemble/config"))
        assert config["platform"] == "ensemble" and len(config["ensemble_scheduling"]["step"]) == 3, config
        ready = sh(f"curl -v localhost:{s.http}/v2/health/ready")
        assert "200 OK" in ready.stderr, ready.stderr
        metrics = sh(f"curl -v localhost:{s.metrics}/metrics")
        assert 'nv_inference_request_success{model="ensemble",version="1"}' in metrics.stdout, metrics.stdout
        out = sh(f'python3 ./end_to_end_grpc_client.py -u 127.0.0.1:{s.grpc} -p "{QUESTION}" -S -o 8').stdout
        flat = json.loads(s.curl("/v2/models/ensemble/generate", json.dumps({"text_input": QUESTION, "max_tokens": 8, "exclude_input_in_output": True})))["text_output"]
        assert out.rstrip("\n") == flat.rstrip("\n") and flat.strip(), (out, flat)
        # The ensemble by hand: preprocessing, tensorrt_llm, postprocessing.
        pre = infer(s.http, "preprocessing", [("QUERY", "BYTES", [1, 1], [QUESTION]), ("REQUEST_OUTPUT_LEN", "INT32", [1, 1], [8])])
        ids = pre["INPUT_ID"]
        assert pre["REQUEST_INPUT_LEN"]["data"] == [ids["shape"][1]] and pre["REQUEST_OUTPUT_LEN"]["data"] == [8], pre
        assert pre["STOP_WORDS_IDS"]["shape"] == [1, 2, 0], pre["STOP_WORDS_IDS"]
        out = infer(s.http, "tensorrt_llm", [("input_ids", "INT32", ids["shape"], ids["data"]), ("input_lengths", "INT32", [1, 1], [ids["shape"][1]]),
                                             ("request_output_len", "INT32", [1, 1], [8])])
        post = infer(s.http, "postprocessing", [("TOKENS_BATCH", "INT32", out["output_ids"]["shape"], out["output_ids"]["data"]),
                                                ("SEQUENCE_LENGTH", "INT32", out["sequence_length"]["shape"], out["sequence_length"]["data"])])
        assert post["OUTPUT"]["data"] == [QUESTION + flat], (post, flat)
        index = {m["name"]: m["state"] for m in json.loads(fetch(s.http, "/v2/repository/index", {})[1])}
        assert index == {m: "READY" for m in ("ensemble", "preprocessing", "postprocessing", "tensorrt_llm", "tensorrt_llm_bls")}, index
        assert fetch(s.http, "/v2/repository/models/ensemble/load", {})[0] == 503  # mode none
        text = s.text()
    for want in ("| ensemble         | 1       | READY  |", "README.md is ignored", "end_to_end_grpc_client.py is ignored", "Started HTTPService at 0.0.0.0:"):
        assert want in text, text
    for unset in ("triton_max_batch_size", "decoupled_mode"):  # of ensemble and tensorrt_llm_bls, left as they were
        assert unset in text, (unset, text)

    with Server(f"tritonserver --model-repository {repo} --model-control-mode=explicit --load-model=ensemble", "explicit.log") as s:
        assert fetch(s.http, "/v2/models/tensorrt_llm_bls/ready")[0] == 404
        assert fetch(s.http, "/v2/repository/models/tensorrt_llm_bls/load", {}) == (200, "")
        assert fetch(s.http, "/v2/models/tensorrt_llm_bls/ready")[0] == 200
        assert fetch(s.http, "/v2/repository/models/ensemble/unload", {}) == (200, "")
        assert fetch(s.http, "/v2/models/ensemble/ready")[0] == 400

    with Server(f"tritonserver --model-repository {repo} --model-control-mode poll --repository-poll-secs 1", "poll.log") as s:
        assert json.loads(s.curl("/v2/models/ensemble/config"))["max_batch_size"] == 64
        sh(f"sed -i 's/max_batch_size: .*/max_batch_size: 3/' {repo}/ensemble/config.pbtxt")
        shutil.copytree(repo / "ensemble", repo / "another")
        sh(f"sed -i 's/name: \"ensemble\"/name: \"another\"/' {repo}/another/config.pbtxt")
        for _ in range(100):
            status, text = fetch(s.http, "/v2/models/ensemble/config")
            if status == 200 and json.loads(text)["max_batch_size"] == 3 and fetch(s.http, "/v2/models/another/ready")[0] == 200:
                break
            time.sleep(0.1)
        else:
            raise AssertionError("poll mode does not see the change: " + s.text())
    shutil.rmtree(repo / "another")
    (repo / "ensemble/config.pbtxt").write_text("max_batch_size: ${oops\n")
    broken = sh(f"tritonserver --model-repository {repo}", check=False)
    assert broken.returncode == 1 and "ensemble/config.pbtxt:1:17: found '${oops'" in broken.stderr, broken.stderr


def flow_c(engine):
    """Llama-2-13B, Qwen2-7B, 0.9 and 0.10: decoupled, gRPC alone, launch, the streaming client."""
    sh("rm -rf R && cp -r all_models/inflight_batcher_llm R")
    fill = "python3 fill_template.py -i "
    sh(fill + "R/preprocessing/config.pbtxt tokenizer_dir:/m,triton_max_batch_size:8,preprocessing_instance_count:1")
    sh(fill + "R/postprocessing/config.pbtxt tokenizer_dir:/m,triton_max_batch_size:8,postprocessing_instance_count:1")
    sh(fill + "R/tensorrt_llm_bls/config.pbtxt triton_max_batch_size:8,decoupled_mode:True,bls_instance_count:1,accumulate_tokens:False")
    sh(fill + "R/ensemble/config.pbtxt triton_max_batch_size:8")
    sh(fill + f"R/tensorrt_llm/config.pbtxt triton_max_batch_size:8,decoupled_mode:True,max_beam_width:1,engine_dir:{engine},max_tokens_in_paged_kv_cache:2560,"
       "max_attention_window_size:2560,kv_cache_free_gpu_mem_fraction:0.5,exclude_input_in_output:True,enable_kv_cache_reuse:False,"
       "batching_strategy:inflight_batching,max_queue_delay_microseconds:600")
    with Server("tritonserver --model-repository=R --allow-http False --allow-grpc True --log-verbose=2", "c.log", http=False) as s:
        streamed = sh(f'python3 trt_llm.py --port {s.grpc} --question "{QUESTION}"').stdout
        assert len(streamed) > 40, streamed
        try:
            fetch(s.http, "/v2/health/ready")
            raise AssertionError("HTTP answers although --allow-http False")
        except OSError:
            pass
    with Server("python3 launch_triton_server.py --model_repo=R --world_size 1", "c2.log", launcher=True) as s:
        # A decoupled model refuses /infer and answers generate; -n 2 gives two responses with their indexes.
        body = {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": [QUESTION]},
                           {"name": "max_tokens", "datatype": "INT32", "shape": [1, 1], "data": [4]}]}
        status, text = fetch(s.http, "/v2/models/ensemble/infer", body)
        assert status == 501 and "decoupled" in text, (status, text)
        answer = json.loads(s.curl("/v2/models/ensemble/generate", json.dumps({"text_input": QUESTION, "max_tokens": 4})))
        assert answer["text_output"].strip() and QUESTION not in answer["text_output"], answer
        two = s.curl("/v2/models/ensemble/generate_stream", json.dumps({"text_input": QUESTION, "max_tokens": 4, "num_return_sequences": 2}))
        events = [json.loads(e[6:]) for e in two.strip().split("\n\n")]
        assert sorted(e["sequence_index"] for e in events) == [0, 1] and {e["text_output"] for e in events} == {answer["text_output"]}, events
        client = sh(f'python3 inflight_batcher_llm/client/end_to_end_grpc_client.py -u localhost:{s.grpc} -p "{QUESTION}" -o 4 '
                    f'--model-name tensorrt_llm_bls --check-outputs --expected-outputs "{answer["text_output"]}"')
        assert "as expected" in client.stdout, client.stdout
    wrong = sh("python3 launch_triton_server.py --model_repo=R --world_size 4", check=False)
    assert wrong.returncode != 0 and "--world_size is 4" in wrong.stderr and "tp_size x pp_size = 1" in wrong.stderr, wrong.stderr


def flow_d(engine):
    """Llama-3-8B-Instruct, 0.8: the engine's files in the version folder."""
    repo = fresh("all_models/d")
    sh(f"cp {engine}/* {repo}/tensorrt_llm/1/")
    fill = f"python3 tools/fill_template.py -i {repo}/"
    sh(fill + "preprocessing/config.pbtxt tokenizer_dir:/m,tokenizer_type:auto,triton_max_batch_size:64,preprocessing_instance_count:1")
    sh(fill + "postprocessing/config.pbtxt tokenizer_dir:/m,tokenizer_type:auto,triton_max_batch_size:64,postprocessing_instance_count:1")
    sh(fill + "tensorrt_llm_bls/config.pbtxt triton_max_batch_size:64,decoupled_mode:False,bls_instance_count:1,accumulate_tokens:False")
    sh(fill + "ensemble/config.pbtxt triton_max_batch_size:64")
    sh(fill + f"tensorrt_llm/config.pbtxt triton_max_batch_size:64,decoupled_mode:False,max_beam_width:1,engine_dir:{WORK}/{repo}/tensorrt_llm/1,"
       "max_tokens_in_paged_kv_cache:2560,max_attention_window_size:2560,kv_cache_free_gpu_mem_fraction:0.5,exclude_input_in_output:True,"
       "enable_kv_cache_reuse:False,batching_strategy:inflight_fused_batching,max_queue_delay_microseconds:0")
    with Server(f"python3 scripts/launch_triton_server.py --model_repo {repo} --world_size 1", "d.log", launcher=True) as s:
        with_parameters = json.loads(s.curl("/v2/models/ensemble/generate",
                                            '{"text_input": "How do I count to nine in French?", "parameters": {"max_tokens": 8, "bad_words":[""], "stop_words":[""]}}'))
        without = json.loads(s.curl("/v2/models/ensemble/generate",
                                    '{"text_input": "How do I count to nine in French?", "max_tokens": 8, "bad_words": "", "stop_words": ""}'))
        assert with_parameters == without and "text_output" in without, (with_parameters, without)
        on = json.loads(s.curl("/v2/models/ensemble/generate", '{"text_input": "How do I count to nine in French?", "max_tokens": 8, "end_id": -1}'))
        assert "text_output" in on and "error" not in on, on
    shutil.rmtree(WORK / repo)


def flow_e(engine):
    """Llama-2-7B, 0.5: the oldest keys; sampling in the parameters."""
    sh("rm -rf triton_model_repo; cp -R all_models/inflight_batcher_llm triton_model_repo")
    sh("python tools/fill_template.py --in_place triton_model_repo/tensorrt_llm/config.pbtxt triton_max_batch_size:128,decoupled_mode:true,"
       f"max_queue_delay_microseconds:100,max_beam_width:1,batching_strategy:inflight_fused_batching,engine_dir:{engine},max_tokens_in_paged_kv_cache:,"
       "max_kv_cache_length:,batch_scheduler_policy:guaranteed_completion,kv_cache_free_gpu_mem_fraction:0.2,max_num_sequences:4,enable_trt_overlap:true,"
       "exclude_input_in_output:")
    sh("python tools/fill_template.py --in_place triton_model_repo/preprocessing/config.pbtxt tokenizer_type:llama,tokenizer_dir:/llama-tokenizer")
    with Server("CUDA_VISIBLE_DEVICES=3 python scripts/launch_triton_server.py --model_repo triton_model_repo --world_size 1", "e.log", launcher=True) as s:
        body = ('{"text_input": "%s", "parameters": {"max_tokens": 12, "bad_words":[""], "stop_words":[""], "end_id": 2, "random_seed": %d, "top_k": 20, '
                '"top_p": 0.95, "temperature": 0.5, "repetition_penalty": 1.2}}')
        first = s.curl("/v2/models/ensemble/generate", body % (QUESTION, 42))
        again = s.curl("/v2/models/ensemble/generate", body % (QUESTION, 42))
        others = {s.curl("/v2/models/ensemble/generate", body % (QUESTION, seed)) for seed in (1, 2, 3)}
        assert first == again and json.loads(first)["text_output"].startswith(QUESTION), (first, again)
        assert others != {first}, first
        text = s.text()
        assert "without an effect here" in text and "enable_trt_overlap" in text, text


# The documented keys of each release; every one must have a place in our files.
KEYS = {
    "preprocessing": "tokenizer_dir tokenizer_type triton_max_batch_size preprocessing_instance_count add_special_tokens multimodal_model_path engine_dir "
                     "max_num_images max_queue_delay_microseconds max_queue_size",
    "postprocessing": "tokenizer_dir tokenizer_type triton_max_batch_size postprocessing_instance_count skip_special_tokens",
    "ensemble": "triton_max_batch_size logits_datatype",
    "tensorrt_llm_bls": "triton_max_batch_size decoupled_mode bls_instance_count accumulate_tokens logits_datatype tensorrt_llm_model_name "
                        "tensorrt_llm_draft_model_name multimodal_encoders_name prompt_embedding_table_data_type",
    "tensorrt_llm": "triton_backend triton_max_batch_size max_queue_delay_microseconds max_queue_size decoupled_mode batching_strategy engine_dir "
                    "encoder_engine_dir encoder_input_features_data_type logits_datatype max_beam_width max_tokens_in_paged_kv_cache max_kv_cache_length "
                    "kv_cache_free_gpu_mem_fraction cross_kv_cache_fraction kv_cache_host_memory_bytes kv_cache_onboard_blocks enable_kv_cache_reuse "
                    "max_attention_window_size sink_token_length batch_scheduler_policy exclude_input_in_output cancellation_check_period_ms "
                    "stats_check_period_ms recv_poll_period_ms iter_stats_max_iterations request_stats_max_iterations normalize_log_probs "
                    "enable_chunked_context enable_trt_overlap gpu_device_ids participant_ids num_nodes decoding_mode lora_cache_optimal_adapter_size "
                    "lora_cache_max_adapter_size lora_cache_gpu_memory_fraction lora_cache_host_memory_bytes lora_prefetch_dir lookahead_window_size "
                    "lookahead_ngram_size lookahead_verification_set_size medusa_choices eagle_choices gpu_weights_percent multi_block_mode "
                    "enable_context_fmha_fp32_acc cuda_graph_mode cuda_graph_cache_size speculative_decoding_fast_logits tokenizer_dir "
                    "guided_decoding_backend xgrammar_tokenizer_info_path max_num_sequences",
}


def all_keys():
    repo = fresh("keys")
    values = {"decoupled_mode": "true", "bls_instance_count": "1", "preprocessing_instance_count": "1", "postprocessing_instance_count": "1",
              "logits_datatype": "TYPE_FP32", "triton_backend": "tensorrtllm", "encoder_input_features_data_type": "TYPE_FP16", "engine_dir": "/e"}
    for model, keys in KEYS.items():
        sh(f"python3 tools/fill_template.py -i {repo}/{model}/config.pbtxt " + ",".join(f"{k}:{values.get(k, '1')}" for k in keys.split()))
        text = (WORK / repo / model / "config.pbtxt").read_text()
        assert "${" not in text, re.findall(r"\$\{\w+\}", text)
    unknown = sh(f"python3 tools/fill_template.py all_models/inflight_batcher_llm/ensemble/config.pbtxt triton_max_batchsize:1", check=False)
    assert unknown.returncode == 1 and "did you mean 'triton_max_batch_size'" in unknown.stderr, unknown.stderr


def main():
    global WORK, ENV
    ingot, engine, WORK = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve() / "engine", Path(sys.argv[3]).resolve()
    if not (engine / "rank0.engine").exists():
        print(f"no engine in {engine}: `make demo` makes it")
        return 1 if os.environ.get("CI") else 77
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    (WORK / "bin").mkdir()
    (WORK / "bin/python").symlink_to(sys.executable)  # old scripts say python and python3
    ENV = {**os.environ, "PATH": f"{WORK}/bin:{os.environ['PATH']}"}
    sh(f"{ingot} aliases {WORK}")
    only = sys.argv[4:]
    for flow in (all_keys, flow_a, flow_b, flow_c, flow_d, flow_e):
        if only and flow.__name__ not in only:
            continue
        start = time.time()
        flow() if flow is all_keys else flow(engine)
        print(f"{flow.__name__}: {time.time() - start:.1f} s", flush=True)
    print("the old flow runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
