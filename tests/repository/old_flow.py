"""The serving lines of the classic flow, unchanged up to paths: templates, fill_template.py, tritonserver, curl.

Usage: old_flow.py INGOT DEMO_DIR WORK_DIR
Needs the demo engine (`make demo` leaves it in DEMO_DIR/engine); label `net`. Without it the test says so and skips (exit code 77), or
fails when CI is set.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


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


class Server:
    def __init__(self, command, log):
        self.port, self.log = free_port(), log
        args = command + [f"--http-port={self.port}", f"--metrics-port={free_port()}", f"--grpc-port={free_port()}"]
        self.process = subprocess.Popen(args, stderr=open(log, "w"))
        for _ in range(600):
            if self.process.poll() is not None:
                return
            try:
                if fetch(self.port, "/v2/health/ready")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.2)
        raise AssertionError("the server does not become ready: " + Path(log).read_text())

    def __enter__(self):
        assert self.process.poll() is None, Path(self.log).read_text()
        return self

    def __exit__(self, *unused):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=60) == 0, Path(self.log).read_text()


def infer(port, model, inputs):
    tensors = [{"name": n, "datatype": t, "shape": s, "data": d} for n, t, s, d in inputs]
    status, text = fetch(port, f"/v2/models/{model}/infer", {"inputs": tensors})
    assert status == 200, text
    return {o["name"]: o for o in json.loads(text)["outputs"]}


def main():
    ingot, engine, work = sys.argv[1], Path(sys.argv[2]) / "engine", Path(sys.argv[3])
    if not (engine / "rank0.engine").exists():
        print(f"no engine in {engine}: `make demo` makes it")
        return 1 if os.environ.get("CI") else 77
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    run = lambda *args: subprocess.run([*map(str, args)], check=True, cwd=work)
    run(ingot, "aliases", work)
    repo = work / "all_models/inflight_batcher_llm"
    fill = [sys.executable, "tools/fill_template.py", "-i"]
    run(*fill, repo / "preprocessing/config.pbtxt", "tokenizer_dir:/m,tokenizer_type:auto,triton_max_batch_size:64,preprocessing_instance_count:1")
    run(*fill, repo / "postprocessing/config.pbtxt", "tokenizer_dir:/m,tokenizer_type:auto,triton_max_batch_size:64,postprocessing_instance_count:1")
    run(*fill, repo / "tensorrt_llm_bls/config.pbtxt", "triton_max_batch_size:64,decoupled_mode:False,bls_instance_count:1,accumulate_tokens:False")
    run(*fill, repo / "ensemble/config.pbtxt", "triton_max_batch_size:64")
    run(*fill, repo / "tensorrt_llm/config.pbtxt",
        f"triton_backend:tensorrtllm,triton_max_batch_size:64,decoupled_mode:False,max_beam_width:1,engine_dir:{engine},max_tokens_in_paged_kv_cache:2560,"
        "max_attention_window_size:2560,kv_cache_free_gpu_mem_fraction:0.2,exclude_input_in_output:True,enable_kv_cache_reuse:False,"
        "batching_strategy:inflight_fused_batching,max_queue_delay_microseconds:0")
    (repo / "README.md").write_text("stray files are ignored")

    with Server([str(work / "bin/tritonserver"), f"--model-repository={repo}", "--disable-auto-complete-config",
                 "--backend-config=python,shm-region-prefix-name=prefix0_:"], work / "server.log") as s:
        status, text = fetch(s.port, "/v2/models/ensemble/generate",
                             {"text_input": "What is machine learning?", "max_tokens": 8, "bad_words": "", "stop_words": ""})
        assert status == 200, text
        flat = json.loads(text)["text_output"]
        status, text = fetch(s.port, "/v2/models/tensorrt_llm_bls/generate",
                             {"text_input": "What is machine learning?", "parameters": {"max_tokens": 8, "bad_words": [""], "stop_words": [""]}})
        assert status == 200 and json.loads(text)["text_output"] == flat and flat.strip(), text
        # The ensemble by hand: preprocessing, tensorrt_llm, postprocessing.
        pre = infer(s.port, "preprocessing", [("QUERY", "BYTES", [1, 1], ["What is machine learning?"]), ("REQUEST_OUTPUT_LEN", "INT32", [1, 1], [8])])
        ids = pre["INPUT_ID"]
        assert pre["REQUEST_INPUT_LEN"]["data"] == [ids["shape"][1]] and pre["REQUEST_OUTPUT_LEN"]["data"] == [8], pre
        assert pre["STOP_WORDS_IDS"]["shape"] == [1, 2, 0], pre["STOP_WORDS_IDS"]
        out = infer(s.port, "tensorrt_llm", [("input_ids", "INT32", ids["shape"], ids["data"]), ("input_lengths", "INT32", [1, 1], [ids["shape"][1]]),
                                             ("request_output_len", "INT32", [1, 1], [8])])
        tokens = out["output_ids"]
        post = infer(s.port, "postprocessing", [("TOKENS_BATCH", "INT32", tokens["shape"], tokens["data"]),
                                                ("SEQUENCE_LENGTH", "INT32", out["sequence_length"]["shape"], out["sequence_length"]["data"])])
        assert post["OUTPUT"]["data"] == [flat], (post, flat)
        config = json.loads(fetch(s.port, "/v2/models/ensemble/config")[1])
        assert config["platform"] == "ensemble" and len(config["ensemble_scheduling"]["step"]) == 3, config
        index = {m["name"]: m["state"] for m in json.loads(fetch(s.port, "/v2/repository/index", {})[1])}
        assert index == {m: "READY" for m in ("ensemble", "preprocessing", "postprocessing", "tensorrt_llm", "tensorrt_llm_bls")}, index
        assert fetch(s.port, "/v2/repository/models/ensemble/load", {})[0] == 503  # mode none
    log = (work / "server.log").read_text()
    for want in ("| ensemble         | 1       | READY  |", "README.md is ignored", "Started HTTPService at 0.0.0.0:"):
        assert want in log, log

    with Server([ingot, "serve", "--model-repository", str(repo), "--model-control-mode=explicit", "--load-model=ensemble"], work / "explicit.log") as s:
        assert fetch(s.port, "/v2/models/tensorrt_llm_bls/ready")[0] == 404
        assert fetch(s.port, "/v2/repository/models/tensorrt_llm_bls/load", {}) == (200, "")
        assert fetch(s.port, "/v2/models/tensorrt_llm_bls/ready")[0] == 200
        assert fetch(s.port, "/v2/repository/models/ensemble/unload", {}) == (200, "")
        assert fetch(s.port, "/v2/models/ensemble/ready")[0] == 400

    (repo / "ensemble/config.pbtxt").write_text("max_batch_size: ${oops\n")
    broken = subprocess.run([ingot, "serve", "--model-repository", str(repo)], capture_output=True, text=True, timeout=120)
    assert broken.returncode == 1 and "ensemble/config.pbtxt:1:17: found '${oops'" in broken.stderr, broken.stderr
    print("the old flow runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
