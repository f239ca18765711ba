"""The metrics of a running server through the published Prometheus parser; the dashboard and the alerts of deploy/ name only what is exported.

Usage: llm_metrics.py INGOT DEMO_DIR DEPLOY_DIR      (label `net`: needs the demo engine and prometheus-client)
"""

import json
import os
import re
import sys
import urllib.request
from pathlib import Path

import llm_server

try:
    from prometheus_client.parser import text_string_to_metric_families
except ImportError as e:
    print(f"skipped: {e}; set INGOT_CLIENT_PYTHON to a Python with tools/requirements-test.txt")
    sys.exit(1 if os.environ.get("CI") else 77)

GPU_ONLY = ("nv_gpu_", "nv_energy_")  # families of machines with a GPU
WORDS = {"sum", "by", "rate", "histogram_quantile", "le", "model", "reason", "version", "label_values", "for", "up", "job", "instance", "m"}


def scrape(server):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics}/metrics") as r:
        assert r.headers["content-type"].startswith("text/plain"), r.headers
        text = r.read().decode()
    samples = {}
    for family in text_string_to_metric_families(text):
        for s in family.samples:
            # The parser gives every counter the suffix _total.
            name = s.name if f"\n{s.name}" in text or f"\n{s.name.removesuffix('_total')}{{" not in text else s.name.removesuffix("_total")
            key = (name, tuple(sorted(s.labels.items())))
            assert key not in samples, f"{key} stands there twice"
            samples[key] = s.value
    return samples


def value(samples, name, **labels):
    found = [v for (n, l), v in samples.items() if n == name and all((k, str(x)) in l for k, x in labels.items())]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def names_in(expression):
    bare = re.sub(r"\{[^}]*\}|\"[^\"]*\"|\[[^\]]*\]|\bby\s*\([^)]*\)", " ", expression)
    return {w for w in re.findall(r"[a-z][a-z0-9_]+", bare) if w not in WORDS}


def main():
    ingot, engine, deploy = sys.argv[1], llm_server.engine_or_skip(sys.argv[2]), Path(sys.argv[3])
    with llm_server.LlmServer(ingot, engine) as server:
        prompt = "In the beginning there was a machine that could read and write and count to a hundred before anybody had asked it to do so"
        for _ in range(2):
            assert server.call("/v2/models/ensemble/generate", {"text_input": prompt * 4, "max_tokens": 5, "end_id": -1})[0] == 200
        events = server.events("/v2/models/ensemble/generate_stream", {"text_input": prompt, "max_tokens": 5, "end_id": -1, "stream": True})
        assert events, events
        s = scrape(server)
        text = {"model": "ensemble", "version": 1}
        assert value(s, "nv_inference_request_success", **text) == 3
        assert {dict(l)["reason"] for (n, l) in s if n == "nv_inference_request_failure" and ("model", "ensemble") in l} == {"REJECTED", "CANCELED", "BACKEND", "OTHER"}
        assert value(s, "ingot_time_to_first_token_seconds_count", **text) == 3
        assert value(s, "ingot_inter_token_latency_seconds_count", **text) == 12
        assert value(s, "ingot_request_latency_seconds_count", **text) == 3
        assert value(s, "ingot_generated_tokens_total", **text) == 15
        prompts = value(s, "ingot_prompt_tokens_total", **text)
        reused = value(s, "ingot_kv_reused_tokens_total", **text)
        assert 0 < reused < prompts, (reused, prompts)  # the second request found the first one's pages
        assert value(s, "nv_llm_input_token_len_count", **text) == 3 and value(s, "nv_llm_input_token_len_sum", **text) == prompts
        assert value(s, "nv_llm_output_token_len_sum", response_metric_type="total_output_tokens", **text) == 15
        assert value(s, "ingot_queue_depth", **text) == 0 and value(s, "ingot_cancelled_requests_total", **text) == 0
        kinds = {dict(l)["kv_cache_block_type"] for (n, l) in s if n == "nv_trt_llm_kv_cache_block_metrics"}
        assert kinds == {"max", "free", "used", "tokens_per", "reused", "fraction"}, kinds
        for family, label, want in (("nv_trt_llm_request_metrics", "request_type", {"active", "max", "scheduled", "context", "waiting"}),
                                    ("nv_trt_llm_runtime_memory_metrics", "memory_type", {"cpu", "gpu", "pinned"}),
                                    ("nv_trt_llm_inflight_batcher_metrics", "inflight_batcher_specific_metric",
                                     {"total_context_tokens", "generation_requests", "micro_batch_id", "paused_requests"}),
                                    ("nv_trt_llm_general_metrics", "general_type", {"timestamp", "iteration_counter"}),
                                    ("nv_trt_llm_disaggregated_serving_metrics", "disaggregated_serving_type", {"kv_cache_transfer_ms", "request_count"})):
            assert {dict(l)[label] for (n, l) in s if n == family} == want, family

        exported = {n for (n, _) in s}
        dashboard = json.loads((deploy / "grafana.json").read_text())
        expressions = [t["expr"] for p in dashboard["panels"] for t in p.get("targets", [])]
        expressions += [v["definition"] for v in dashboard["templating"]["list"] if "definition" in v]
        expressions += re.findall(r"expr: (.*)", (deploy / "alerts.yml").read_text())
        named = set().union(*map(names_in, expressions))
        assert len(named) > 30, named
        missing = {n for n in named if n not in exported and not n.startswith(GPU_ONLY)}
        assert not missing, f"named in {deploy} but not exported: {sorted(missing)}"
    print(f"{len(named)} metrics named in deploy, {len(exported)} exported")


if __name__ == "__main__":
    main()
