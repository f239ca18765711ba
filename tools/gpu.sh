#!/bin/bash
# Everything that needs a GPU, in one command: builds the CUDA plugin, runs op_conformance on it (bf16, f16, f32) and, where their test
# program is given, the golden models; then times engines of true shapes (synthetic weights) where the ingot program is given. A table
# comes last; logs and records go to OUT. About 500 s on an H200 with 16 cores, 50 of them the build.
#
#   tools/gpu.sh [--ingot PROGRAM] [--golden golden_engine_test] [--built FOLDER] [--out FOLDER] [--quick] [--sanitize]
#
# Needs nvcc 13, cmake, ninja; no network, Rust, gRPC. --ingot, --golden: CPU programs, built anywhere (their libraries: LD_LIBRARY_PATH);
# they load the plugin built here. --built: the folder with libingot_cuda.so, op_conformance and op_steps, built elsewhere; nothing is built.
# --quick: few timings. --sanitize: compute-sanitizer as well, some minutes.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
ingot="" golden="" built="" out="${OUT:-$root/build/gpu}" quick="" sanitize=""
while [ $# -gt 0 ]; do
  case "$1" in
    --ingot) ingot=$(realpath "$2"); shift 2 ;;
    --golden) golden=$(realpath "$2"); shift 2 ;;
    --out) out="$2"; shift 2 ;;
    --built) built=$(realpath "$2"); shift 2 ;;
    --quick) quick=1; shift ;;
    --sanitize) sanitize=1; shift ;;
    *) echo "unknown flag '$1'; flags: --ingot --golden --built --out --quick --sanitize" >&2; exit 2 ;;
  esac
done
mkdir -p "$out" && out=$(realpath "$out")
cd "$root" || exit 2
bin=${built:-$root/build/cuda/bin}
plugin=$bin/libingot_cuda.so
table=$out/table.txt
: > "$table"
failed=0
row() { printf '%-44s %s\n' "$1" "$2" >> "$table"; }

start=$(date +%s)
if [ -n "$built" ]; then
  row "build" "elsewhere: $built"
elif (unset LD_LIBRARY_PATH; cmake --preset cuda > "$out/build.log" 2>&1 && cmake --build --preset cuda --parallel "$(nproc)" >> "$out/build.log" 2>&1); then
  row "build" "ok, $(($(date +%s) - start)) s"
else
  row "build" "FAILED"
  grep -E "error|FAILED" "$out/build.log" | head -n 40
  cat "$table"
  exit 1
fi
row "card" "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -n 1)"

for activation in bf16 f16 f32; do
  if "$bin/op_conformance" --device "$plugin" --activation "$activation" > "$out/conformance_$activation.log" 2>&1; then
    row "op_conformance $activation" "$(tail -n 1 "$out/conformance_$activation.log")"
  else
    failed=1
    row "op_conformance $activation" "FAILED: $(tail -n 1 "$out/conformance_$activation.log")"
    grep FAILED "$out/conformance_$activation.log" | head -n 30
  fi
done
if "$bin/op_steps" --device "$plugin" > "$out/steps.log" 2>&1; then row "op_steps" "ok"; else
  failed=1
  row "op_steps" "FAILED: $(head -n 1 "$out/steps.log")"
fi
if [ -n "$sanitize" ] && command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    timeout 240 compute-sanitizer --tool "$tool" "$bin/op_conformance" --device "$plugin" --only /T7 > "$out/$tool.log" 2>&1
    row "compute-sanitizer $tool (cases /T7)" "$(grep -E "ERROR SUMMARY|RACECHECK SUMMARY" "$out/$tool.log" | tail -n 1)"
  done
fi

if [ -n "$golden" ]; then
  if timeout 120 "$golden" "$root/tests/golden" --device cuda --plugin "$plugin" > "$out/golden.log" 2>&1; then
    row "golden models" "$(grep PASSED "$out/golden.log" | tail -n 1)"
  else
    failed=1
    row "golden models" "FAILED"
    grep FAILED "$out/golden.log" | sort -u | head -n 30
  fi
fi

# A line of the table a phase and batch; the records carry the rest. An engine of this kind holds no weights: they are made at load.
engine=$(mktemp -d)
trap 'rm -rf "$engine"' EXIT
cat > "$engine/yuan2-2b-llama.json" << 'END'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
 "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 135040, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
 "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}
END
make_engine() {  # SHAPE ALGORITHM [SEQUENCES]
  rm -rf "$engine/e"
  # shellcheck disable=SC2086
  "$ingot" build --synthetic "$1" ${2:+--quant-algo $2} ${3:+--max-batch-size $3} --dtype bfloat16 --device "$plugin" \
    --output-dir "$engine/e" > "$out/engine.log" 2>&1 && return
  failed=1
  row "engine $1 $2" "FAILED: $(tail -n 1 "$out/engine.log")"
  return 1
}
time_engine() {  # NAME, flags of bench offline
  name=$1
  shift
  if timeout 100 "$ingot" bench offline "$engine/e" --device "$plugin" --name "$name" --records "$out/cuda.jsonl" "$@" > "$out/bench.log" 2>&1; then
    { echo "$name"; cat "$out/bench.log"; } >> "$table"
  else
    failed=1
    row "$name" "FAILED: $(tail -n 1 "$out/bench.log")"
  fi
}
measure() {  # SHAPE ALGORITHM BATCHES...
  shape=$1 algorithm=$2
  shift 2
  name=$(basename "$shape" .json)/${algorithm:-bf16}
  make_engine "$shape" "$algorithm" || return
  start=$(date +%s%N)
  "$ingot" bench offline "$engine/e" --device "$plugin" --batch 1 --input-len 16 --output-len 2 --prefill-len 0 --runs 1 > /dev/null 2>&1
  row "$name: weights made, loaded, one token" "$((($(date +%s%N) - start) / 1000000)) ms"
  INGOT_CUDA_TIMES=1 timeout 60 "$ingot" bench offline "$engine/e" --device "$plugin" --batch 1 --input-len 16 --output-len 100 --prefill-len 0 --runs 1 2>&1 |
    grep 'idle between' >> "$table"
  # Four prompts twice: the first time, steps of sizes not met before time cuBLASLt's proposals. The last record of a case counts.
  time_engine "$name" --batch "$@" --input-len 16 --output-len 300 --prefill-len 2048 --prefill-batch 1 4 4 --runs 2
}
# Requests that all arrive at once, by engines that run as many sequences; the better of two, for the first times cuBLASLt's proposals.
time_bursts() {  # SHAPE ALGORITHM
  kind=$(basename "$1" .json)/${2:-bf16}
  make_engine "$1" "$2" 1024 && time_engine "$kind 128+128" --batch 256 --burst 1024 --input-len 128 --output-len 128 --prefill-len 0 --runs 2
  make_engine "$1" "$2" 512 && time_engine "$kind 1024+128" --batch 64 --burst 512 --input-len 1024 --output-len 128 --prefill-len 0 --runs 2
}
if [ -n "$ingot" ]; then
  measure llama3-8b "" 1 8 64 256
  [ -n "$quick" ] || time_bursts llama3-8b ""
  measure llama3-8b W4A16_AWQ 1 8 64
  if [ -z "$quick" ]; then
    time_engine "llama3-8b/W4A16_AWQ" --batch 256 --input-len 16 --output-len 300 --prefill-len 0 --runs 1
    measure llama3-8b fp8 1 8 64 256
    time_bursts llama3-8b fp8
    measure "$engine/yuan2-2b-llama.json" "" 1 8 64 256
    time_bursts "$engine/yuan2-2b-llama.json" ""
    measure yuan2-2b "" 1 4 8 16 32 64
    measure llama3-8b int8 1 8 64 256
    if timeout 200 python3 "$root/tools/gpu_ready.py" "$ingot" "$plugin" --records "$out/cuda.jsonl" > "$out/ready.log" 2>&1; then cat "$out/ready.log" >> "$table"; else
      failed=1
      row "real engines served" "FAILED: $(tail -n 1 "$out/ready.log")"
    fi
  fi
fi
cat "$table"
exit $failed
