"""The convert, build, run, summarize and benchmark lines of the classic flow as people have them in scripts, unchanged up to paths.

Usage: old_commands.py INGOT SOURCE_DIR WORK_DIR
`ingot aliases` writes the old tree; tiny checkpoints of random weights stand in for the published models. Each line is run by a shell in
that tree. What is not built yet must say so and exit with 2.
"""

import array
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HIDDEN, HEADS, INTER, LAYERS, VOCAB = 64, 4, 96, 2, 2048


def write_safetensors(path, tensors):
    """float32 tensors {name: (shape, mean)} of the generator's next numbers."""
    header, blobs, at = {}, [], 0
    for name, (shape, mean) in tensors.items():
        count = 1
        for n in shape:
            count *= n
        pool = array.array("f", [random.gauss(0, 0.08) + mean for _ in range(997)])
        values = (pool * (count // 997 + 1))[:count]
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + 4 * count]}
        at += 4 * count
        blobs.append(values.tobytes())
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def llama_tensors(heads=HEADS, kv=HEADS, qkv_bias=False):
    t = {"model.embed_tokens.weight": ((VOCAB, HIDDEN), 0), "model.norm.weight": ((HIDDEN,), 1), "lm_head.weight": ((VOCAB, HIDDEN), 0)}
    d = HIDDEN // heads
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        t[p + "input_layernorm.weight"] = t[p + "post_attention_layernorm.weight"] = ((HIDDEN,), 1)
        for name, rows in (("q", heads), ("k", kv), ("v", kv)):
            t[p + f"self_attn.{name}_proj.weight"] = ((rows * d, HIDDEN), 0)
            if qkv_bias:
                t[p + f"self_attn.{name}_proj.bias"] = ((rows * d,), 0)
        t[p + "self_attn.o_proj.weight"] = ((HIDDEN, HIDDEN), 0)
        t[p + "mlp.gate_proj.weight"] = t[p + "mlp.up_proj.weight"] = ((INTER, HIDDEN), 0)
        t[p + "mlp.down_proj.weight"] = ((HIDDEN, INTER), 0)
    return t


def yuan_tensors():
    t = llama_tensors()
    for i in range(LAYERS):
        p = f"model.layers.{i}.self_attn.lf_gate."
        t[p + "conv1.weight"], t[p + "conv1.bias"] = ((HIDDEN // 2, HIDDEN, 2, 1), 0), ((HIDDEN // 2,), 0)
        t[p + "conv2.weight"], t[p + "conv2.bias"] = ((HIDDEN, HIDDEN // 2, 2, 1), 0), ((HIDDEN,), 0)
        t[p + "output_layernorm.weight"] = ((HIDDEN,), 1)
    return t


def baichuan_tensors():
    t = llama_tensors()
    for i in range(LAYERS):
        p = f"model.layers.{i}.self_attn."
        for name in "qkv":
            del t[p + f"{name}_proj.weight"]
        t[p + "W_pack.weight"] = ((3 * HIDDEN, HIDDEN), 0)
    return t


def qwen1_tensors():
    t = {"transformer.wte.weight": ((VOCAB, HIDDEN), 0), "transformer.ln_f.weight": ((HIDDEN,), 1), "lm_head.weight": ((VOCAB, HIDDEN), 0)}
    for i in range(LAYERS):
        p = f"transformer.h.{i}."
        t[p + "ln_1.weight"] = t[p + "ln_2.weight"] = ((HIDDEN,), 1)
        t[p + "attn.c_attn.weight"], t[p + "attn.c_attn.bias"] = ((3 * HIDDEN, HIDDEN), 0), ((3 * HIDDEN,), 0)
        t[p + "attn.c_proj.weight"] = ((HIDDEN, HIDDEN), 0)
        t[p + "mlp.w1.weight"] = t[p + "mlp.w2.weight"] = ((INTER, HIDDEN), 0)
        t[p + "mlp.c_proj.weight"] = ((HIDDEN, INTER), 0)
    return t


def write_model(folder, tokenizer, config, tensors):
    folder.mkdir(parents=True)
    shared = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": INTER, "vocab_size": VOCAB,
              "hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "max_position_embeddings": 2048}
    (folder / "config.json").write_text(json.dumps({**shared, **config}))
    for file in tokenizer.iterdir():
        if file.name != "expected.json":
            shutil.copy(file, folder)
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


class Tree:
    def __init__(self, ingot, work):
        self.work, self.ran = work, 0
        # No network and no timing of kernels; `python` is this one.
        (work / "bin").mkdir(exist_ok=True)
        (work / "bin/python").symlink_to(sys.executable)
        (work / "bin/mpirun").write_text('#!/bin/sh\n# stands for Open MPI: starts the ranks one after the other\nn=$2; shift 2; [ "$1" = --allow-run-as-root ] && shift\n'
                                         'r=$((n - 1)); while [ $r -ge 0 ]; do OMPI_COMM_WORLD_RANK=$r "$@" || exit $?; r=$((r - 1)); done\n')
        (work / "bin/mpirun").chmod(0o755)
        self.env = {**os.environ, "PATH": f"{work}/bin:{os.environ['PATH']}", "INGOT_NO_TIMING": "1", "INGOT_THREADS": "1", "INGOT_CACHE_DIR": str(work / "cache"),
                    "INGOT_MAX_TOKENS_IN_PAGED_KV_CACHE": "8192"}

    def sh(self, line, code=0, where="."):
        self.ran += 1
        done = subprocess.run(line, shell=True, cwd=self.work / where, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        if done.returncode != code:
            raise AssertionError(f"{line}\nexit code {done.returncode}, want {code}\n{done.stdout}\n{done.stderr}")
        return done.stdout + done.stderr


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def answer_of(text):
    answer = text[text.index("Output [Text 0 Beam 0]: "):]
    assert answer.split("\n")[0].strip() not in ("Output [Text 0 Beam 0]:", 'Output [Text 0 Beam 0]: ""'), f"no answer: {text}"
    return answer


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def serve(tree, engine, prompt):
    """tritonserver's generate route on an engine folder."""
    ports = [free_port() for _ in range(3)]
    process = subprocess.Popen(["tritonserver", str(engine), f"--http-port={ports[0]}", f"--grpc-port={ports[1]}", f"--metrics-port={ports[2]}"], env=tree.env, stderr=subprocess.DEVNULL)
    try:
        body = json.dumps({"text_input": prompt, "max_tokens": 8, "bad_words": "", "stop_words": ""}).encode()
        for _ in range(300):
            assert process.poll() is None, "the server ended"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/v2/health/ready", timeout=5) as r:
                    if r.status == 200:
                        break
            except OSError:
                pass
            time.sleep(0.05)
        with urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/v2/models/ensemble/generate", body, timeout=60) as r:
            return json.loads(r.read())["text_output"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def flow_a(t, M, work):
    E = work / "yuan_engine"
    t.sh(f"python3 build.py --max_batch_size=4 --model_dir={M} --dtype=float16 --use_gemm_plugin=float16 --output_dir={E}", where="examples/yuan")
    assert names(E) == ["config.json", "model.cache", "yuan_float16_tp1_rank0.engine"] or names(E) == ["config.json", "yuan_float16_tp1_rank0.engine"], names(E)
    builder = json.loads((E / "config.json").read_text())["builder_config"]
    assert (builder["name"], builder["precision"], builder["max_batch_size"], builder["tensor_parallel"]) == ("yuan", "float16", 4, 1), builder
    text = t.sh(f'python3 run.py --max_output_len=100 --tokenizer_dir={M} --output_dir={E} --input_text="写一篇春游作文<sep>"', where="examples/yuan")
    assert 'Input [Text 0]: "写一篇春游作文<sep>"' in text and answer_of(text), text
    assert serve(t, E, "写一篇春游作文<sep>").strip(), "the server's answer is empty"


def flow_b(t, M, work, data):
    E = work / "baichuan_engine"
    t.sh(f"python examples/baichuan/build.py --model_version v2_7b --model_dir {M} --dtype float16 --parallel_build --use_inflight_batching --enable_context_fmha --use_gemm_plugin float16 "
         f"--use_gpt_attention_plugin float16 --output_dir {E}")
    assert "baichuan_float16_tp1_rank0.engine" in names(E), names(E)
    text = t.sh(f'python examples/run.py --input_text "世界上第二高的山峰是哪座?" --max_output_len=20 --tokenizer_dir {M} --engine_dir={E}')
    assert answer_of(text)
    text = t.sh(f"python examples/summarize.py --test_hf --hf_model_dir {M} --data_type fp16 --engine_dir {E}", code=2)
    assert "--dataset_path is missing" in text, text
    t.env["INGOT_DATASET_PATH"] = str(data)
    t.env["INGOT_OUTPUT_LEN"] = "8"
    hf = t.sh(f"python examples/summarize.py --test_hf --hf_model_dir {M} --data_type fp16 --engine_dir {E}")
    own = t.sh(f"python examples/summarize.py --test_trt_llm --hf_model_dir {M} --data_type fp16 --engine_dir {E}")
    assert "Hugging Face beam 0 result" in hf and "TensorRT-LLM beam 0 result" in own and "rougeLsum : " in own, own
    long = t.sh(f"python examples/summarize.py --test_trt_llm --hf_model_dir {M} --data_type fp16 --engine_dir {E} --check_accuracy --eval_ppl --output_dir {work}/s --batch_size 2", code=1)
    assert "rouge1 is" in long and (work / "s/trtllm.out").read_text().startswith("[0] [Beam 0] "), long


def flow_c(t, llama, qwen, qwen1, work, data):
    C, E = work / "c", work / "e"
    t.sh(f"python examples/llama/convert_checkpoint.py --model_dir {llama} --dtype float16 --output_dir {C} --tp_size 1")
    t.sh(f"trtllm-build --checkpoint_dir {C} --output_dir {E} --gemm_plugin float16 --max_batch_size=8 --max_input_len=1024 --max_output_len=512")
    assert "rank0.engine" in names(E)
    C, E = work / "cq", work / "eq"
    t.sh(f"python examples/qwen/convert_checkpoint.py --model_dir {qwen} --dtype float16 --output_dir {C} --tp_size 1")
    t.sh(f"trtllm-build --checkpoint_dir {C} --output_dir {E} --gemm_plugin float16 --max_batch_size=8 --max_input_len=1024 --max_output_len=512")
    # run.py applies Qwen's template.
    plain = t.sh(f'python3 examples/run.py --engine_dir={E} --max_output_len 4 --tokenizer_dir {qwen} --input_text "hello" --run_profiling --no_prompt_template')
    asked = t.sh(f'python3 examples/run.py --engine_dir={E} --max_output_len 4 --tokenizer_dir {qwen} --input_text "hello" --run_profiling')
    assert answer_of(plain) and answer_of(asked)
    tokens = [int(text[text.index("[", text.index("Output")):].split("[")[-1].split(" ")[0]) for text in (plain, asked)]
    assert tokens[1] > tokens[0] + 8, (plain, asked)
    assert 1 <= int(plain.split(" out at ")[0].split()[-1]) <= 4, f"the rates are of one run: {plain}"
    # Qwen-VL: its language side converts and builds.
    C, E = work / "cvl", work / "evl"
    t.sh(f"python3 ../qwen/convert_checkpoint.py --model_dir={qwen1} --output_dir={C}", where="examples/qwenvl")
    t.sh(f"trtllm-build --checkpoint_dir={C} --gemm_plugin=float16 --gpt_attention_plugin=float16 --lookup_plugin=float16 --max_input_len=2048 --max_output_len=1024 --max_batch_size=8 "
         f"--max_prompt_embedding_table_size=2048 --remove_input_padding=enable --output_dir={E}")
    text = t.sh(f"python3 run.py --tokenizer_dir={qwen1} --qwen_engine_dir={E} --vit_engine_dir=./plan --images_path='{{\"image\": \"./pics/demo.jpeg\"}}' --input_dir='{{\"image\": \"image.pt\"}}'",
                code=2, where="examples/qwenvl")
    assert "not built yet (issue: Qwen-VL's vision side)" in text, text
    # Quantization.
    C = work / "c4"
    t.sh(f'python examples/quantization/quantize.py --model_dir {llama} --dtype float16 --qformat int4_wo --calib_dataset "cnn_dailymail" --kv_cache_dtype fp8 --output_dir {C} --calib_size 32')
    config = json.loads((C / "config.json").read_text())["quantization"]
    assert (config["quant_algo"], config["kv_cache_quant_algo"]) == ("W4A16", "FP8"), config
    C, E = work / "c8", work / "e8"
    t.sh(f"python examples/quantization/quantize.py --model_dir {llama} --dtype float16 --qformat fp8 --kv_cache_dtype fp8 --output_dir {C} --tp_size 2 --pp_size 1 --calib_size 32")
    assert "rank1.safetensors" in names(C)
    t.sh(f"trtllm-build --checkpoint_dir {C} --output_dir {E} --gemm_plugin float16 --strongly_typed --paged_kv_cache enable --remove_input_padding enable --max_batch_size=8 --max_input_len=1028 "
         f"--max_output_len=128 --use_fp8_context_fmha enable --tp_size 2 --pp_size 1 --workers 2")
    assert {"rank0.engine", "rank1.engine"} <= set(names(E)), names(E)
    text = t.sh(f"mpirun -n 1 --allow-run-as-root python examples/summarize.py --test_trt_llm --hf_model_dir {llama} --data_type fp16 --engine_dir {E}")
    assert text.count("rouge1 : ") == 1, text
    for flags in ("--qformat int4_awq", "--qformat int8_sq"):
        assert "not built yet (issue: calibrated quantisation)" in t.sh(f"python examples/quantization/quantize.py --model_dir {llama} {flags}", code=2)
    assert "not built yet (issue: LoRA adapters)" in t.sh(f"trtllm-build --checkpoint_dir {C} --lora_dir x", code=2)
    assert "not built yet (issue: beam search)" in t.sh(f"python examples/run.py --engine_dir {E} --max_output_len 4 --num_beams 4", code=2)
    assert "not built yet (issue: evaluation)" in t.sh("python3 examples/mmlu.py --data_dir x", code=2)
    # Benchmarks.
    D, E = work / "D.json", work / "e"
    for stdev in (2, 0):
        t.sh(f"python cpp/build/benchmarks/cpp/prepare_dataset.py --output {D} --tokenizer {llama} token-norm-dist --num-requests 12 --input-mean 15 --input-stdev {stdev} --output-mean 6 --output-stdev {stdev}")
        samples = json.loads(D.read_text())["samples"]
        assert (len({s["input_len"] for s in samples}) > 2) == (stdev > 0), samples
    assert len(samples) == 12 and {s["input_len"] for s in samples} == {15} and {s["output_len"] for s in samples} == {6}
    bench = "cpp/build/benchmarks/gptManagerBenchmark"
    for line in (f"{bench} --engine_dir {E} --type IFB --request_rate 200 --dataset {D} --max_num_samples 10", f"{bench} --engine_dir {E} --type V1 --request_rate 200 --dataset {D} --max_num_samples 10",
                 f"{bench} --engine_dir {E} --type IFB --request_rate 200 --dataset {D} --static_emulated_batch_size 8 --static_emulated_timeout 100 --max_num_samples 10"):
        text = t.sh(line)
        assert "[BENCHMARK] num_samples 10\n[BENCHMARK] num_error_samples 0\n" in text and "[BENCHMARK] p99_sequence_latency(ms) " in text, text
        rate, total = (float(text.split(f"[BENCHMARK] {k} ")[1].split()[0]) for k in ("token_throughput(token/sec)", "total_latency(ms)"))
        assert abs(rate * total / 1000 - 60) < 1, text
    text = t.sh(f"{bench} --engine_dir {E} --type IFB --concurrency 4 --streaming --dataset {D} --output_csv {work}/r.csv")
    assert "p50_time_to_first_token(ms)" in text and (work / "r.csv").read_text().startswith("num_samples,"), text
    assert "--streaming with static batches" in t.sh(f"{bench} --engine_dir {E} --type V1 --streaming --dataset {D}", code=2)


def flow_d(t, M, work):
    C, E = work / "d_c", work / "d_e"
    t.sh(f"python3 examples/llama/convert_checkpoint.py --model_dir {M} --output_dir {C} --dtype bfloat16")
    del t.env["INGOT_NO_TIMING"]
    t.sh(f"trtllm-build --checkpoint_dir {C} --output_dir {E} --gpt_attention_plugin bfloat16 --gemm_plugin bfloat16")
    t.env["INGOT_NO_TIMING"] = "1"
    assert names(E) == ["config.json", "model.cache", "rank0.engine"], names(E)
    line = f'python3 examples/run.py --engine_dir={{}} --max_output_len 10 --tokenizer_dir {M} --input_text "How do I count to nine in French?"'
    want = answer_of(t.sh(line.format(E)))
    # 0.11 and later; a checkpoint and an engine of four ranks answer the same, also under mpirun.
    C4, E4 = work / "d_c4", work / "d_e4"
    t.sh(f"python3 examples/llama/convert_checkpoint.py --model_dir {M} --output_dir {C4} --dtype bfloat16 --tp_size 2 --pp_size 2 --workers 2 --use_parallel_embedding")
    t.sh(f"trtllm-build --checkpoint_dir {C4} --output_dir {E4} --gemm_plugin auto --max_seq_len 512 --max_num_tokens 512 --use_paged_context_fmha enable --multiple_profiles enable")
    assert [n for n in names(E4) if n.endswith(".engine")] == [f"rank{r}.engine" for r in range(4)], names(E4)
    mapping = json.loads((E4 / "config.json").read_text())["pretrained_config"]["mapping"]
    assert (mapping["world_size"], mapping["tp_size"], mapping["pp_size"]) == (4, 2, 2), mapping
    text = t.sh("mpirun -n 4 --allow-run-as-root " + line.format(E4))
    assert text.count("Input [Text 0]") == 1 and answer_of(text) == want, (text, want)
    (E4 / "rank3.engine").rename(E4 / "rank3.kept")
    assert f"rank 3 of 4" in t.sh(line.format(E4), code=1)
    return want


def flow_e(t, M, work):
    E = work / "e_e"
    t.sh(f"python examples/llama/build.py --model_dir {M} --dtype bfloat16 --use_gpt_attention_plugin bfloat16 --use_gemm_plugin bfloat16 --remove_input_padding --use_inflight_batching --paged_kv_cache "
         f"--output_dir {E}")
    line = (f'python examples/llama/run.py --engine_dir={{}} --max_output_len 16 --tokenizer_dir {M} --input_text "<s>[INST] <<SYS>>\\nAnswer very seriously\\n<</SYS>>\\n\\nwho is the best sportsman in the '
            f'world? [/INST]"')
    want = answer_of(t.sh(line.format(E)))
    E2 = work / "e_e2"
    t.sh(f"python examples/llama/build.py --model_dir {M} --dtype bfloat16 --use_gpt_attention_plugin bfloat16 --use_gemm_plugin bfloat16 --output_dir {E2} --tp_size 2 --world_size 2")
    files = [E2 / f"llama_bfloat16_tp2_rank{r}.engine" for r in range(2)]
    sizes = [f.stat().st_size for f in files]
    assert max(sizes) < 0.75 * sum(sizes), sizes
    assert answer_of(t.sh(line.format(E2))) == want
    assert serve(t, E2, "hello").strip(), "the answer of the server is empty"
    E4 = work / "e_e4"
    t.sh(f"python examples/llama/build.py --model_dir {M} --dtype bfloat16 --output_dir {E4} --tp_size 2 --pp_size 2 --world_size 4")
    assert "llama_bfloat16_tp2_pp2_rank3.engine" in names(E4), names(E4)
    assert answer_of(t.sh(line.format(E4))) == want
    text = t.sh(f"python examples/llama/build.py --model_dir {M} --dtype bfloat16 --output_dir {work}/e_e3 --tp_size 3 --world_size 3", code=1)
    assert "num_attention_heads (4) is not divisible by tp_size (3)" in text, text


def synthetic(t, work):
    """Engines of published sizes without weights: plan of the whole, a step of what fits."""
    names = t.sh("ingot build --synthetic help").split()
    assert {"yuan2-2b", "yuan2-102b", "baichuan2-13b", "llama3-70b", "qwen2-72b", "qwen-7b", "mixtral-8x7b", "gpt2"} <= set(names), names
    for shape, params in (("llama3-70b", 70.55e9), ("yuan2-2b", 2.09e9), ("gpt2", 0.1244e9)):
        text = t.sh(f"ingot build --synthetic {shape} --output_dir {work}/s_{shape}")
        assert "memory plan on this machine" in text, text
        size = json.loads(t.sh(f"ingot inspect --json {work}/s_{shape}"))["weight_bytes"] / 2
        assert abs(size / params - 1) < 0.01, (shape, size)
    (work / "ids.csv").write_text("5,6,7\n")
    for shape in ("gpt2", "qwen2-0.5b"):
        t.sh(f"ingot build --synthetic {shape} --layers 1 --embedding int8 --output_dir {work}/l_{shape}")
        assert "Output [Text 0 Beam 0]: [" in t.sh(f"ingot run --engine_dir {work}/l_{shape} --input_file {work}/ids.csv --max_output_len 1")


def main():
    ingot, source, work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    random.seed(1)
    subprocess.run([ingot, "aliases", work], check=True, stdout=subprocess.DEVNULL)
    t = Tree(ingot, work)
    os.environ["PATH"] = t.env["PATH"]
    text = source / "tests/fixtures/text"
    llama = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "bos_token_id": 1, "eos_token_id": 2}
    yuan = write_model(work / "models/yuan", text / "spm_bpe", {"architectures": ["YuanForCausalLM"], "model_type": "yuan", "model_max_length": 2048, "eod_token": 2, "eos_token_id": 2}, yuan_tensors())
    baichuan = write_model(work / "models/baichuan", text / "spm_bpe", {"architectures": ["BaichuanForCausalLM"], "model_type": "baichuan", "eos_token_id": 2}, baichuan_tensors())
    llama2 = write_model(work / "models/llama2", text / "spm_bpe", llama, llama_tensors())
    llama3 = write_model(work / "models/llama3", text / "bpe", {**llama, "num_key_value_heads": 2, "rope_theta": 5e5}, llama_tensors(kv=2))
    qwen2 = write_model(work / "models/qwen2", text / "bpe", {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_key_value_heads": 2}, llama_tensors(kv=2, qkv_bias=True))
    qwen1 = write_model(work / "models/qwen1", text / "tiktoken_qwen", {"architectures": ["QWenLMHeadModel"], "model_type": "qwen", "kv_channels": 16, "seq_length": 2048, "layer_norm_epsilon": 1e-6,
                                                                        "intermediate_size": 2 * INTER, "no_bias": True, "use_dynamic_ntk": True, "use_logn_attn": True}, qwen1_tensors())
    data = work / "articles.jsonl"
    data.write_text("".join(json.dumps({"article": f"The {w} story is n't long. It has two sentences.", "highlights": f"A {w} story."}) + "\n" for w in ("first", "second", "third")))
    for flow, args in ((flow_a, (yuan,)), (flow_b, (baichuan,)), (flow_c, (llama2, qwen2, qwen1)), (flow_d, (llama3,)), (flow_e, (llama2,))):
        flow(t, *args, work, *([data] if flow in (flow_b, flow_c) else []))
    (work / "bin/ingot").symlink_to(Path(ingot).resolve())
    synthetic(t, work)
    print(f"{t.ran} command lines")
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
