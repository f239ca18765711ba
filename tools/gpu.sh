#!/bin/bash
# Everything that needs a GPU, in one command: builds the CUDA plugin, runs op_conformance on it (bf16, f16, f32) and, where their test
# program is given, the golden models; then times engines of true shapes (synthetic weights) where the ingot program is given. A table
# comes last; logs and records go to OUT.
#
#   tools/gpu.sh [--ingot PROGRAM] [--golden golden_engine_test] [--out FOLDER] [--quick]
#
# Needs nvcc 13, cmake, ninja; no network, Rust, gRPC. --ingot, --golden: CPU programs, built anywhere; they load the plugin built here.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
ingot="" golden="" out="${OUT:-$root/build/gpu}" quick=""
while [ $# -gt 0 ]; do
  case "$1" in
    --ingot) ingot=$(realpath "$2"); shift 2 ;;
    --golden) golden=$(realpath "$2"); shift 2 ;;
    --out) out="$2"; shift 2 ;;
    --quick) quick=1; shift ;;
    *) echo "unknown flag '$1'; flags: --ingot --golden --out --quick" >&2; exit 2 ;;
  esac
done
mkdir -p "$out" && out=$(realpath "$out")
cd "$root" || exit 2
build=$root/build/cuda plugin=$root/build/cuda/bin/libingot_cuda.so
table=$out/table.txt
: > "$table"
failed=0
row() { printf '%-44s %s\n' "$1" "$2" >> "$table"; }

start=$(date +%s)
if cmake --preset cuda > "$out/build.log" 2>&1 && cmake --build --preset cuda --parallel "$(nproc)" >> "$out/build.log" 2>&1; then
  row "build" "ok, $(($(date +%s) - start)) s"
else
  row "build" "FAILED"
  grep -E "error|FAILED" "$out/build.log" | head -n 40
  cat "$table"
  exit 1
fi
row "card" "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -n 1)"

for activation in bf16 f16 f32; do
  if "$build/bin/op_conformance" --device "$plugin" --activation "$activation" > "$out/conformance_$activation.log" 2>&1; then
    row "op_conformance $activation" "$(tail -n 1 "$out/conformance_$activation.log")"
  else
    failed=1
    row "op_conformance $activation" "FAILED: $(tail -n 1 "$out/conformance_$activation.log")"
    grep FAILED "$out/conformance_$activation.log" | head -n 30
  fi
done
if "$build/bin/op_steps" --device "$plugin" > "$out/steps.log" 2>&1; then row "op_steps" "ok"; else
  failed=1
  row "op_steps" "FAILED: $(head -n 1 "$out/steps.log")"
fi
if [ -z "$quick" ] && command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    timeout 240 compute-sanitizer --tool "$tool" "$build/bin/op_conformance" --device "$plugin" --only /T7 > "$out/$tool.log" 2>&1
    row "compute-sanitizer $tool (cases /T7)" "$(grep -E "ERROR SUMMARY|RACECHECK SUMMARY" "$out/$tool.log" | tail -n 1)"
  done
fi

if [ -n "$golden" ]; then
  if "$golden" --device cuda --plugin "$plugin" --fixtures "$root/tests/golden" > "$out/golden.log" 2>&1; then
    row "golden models" "$(grep PASSED "$out/golden.log" | tail -n 1)"
  else
    failed=1
    row "golden models" "FAILED"
    grep FAILED "$out/golden.log" | sort -u | head -n 30
  fi
fi

# A line of the table a phase and batch; the records carry the rest.
engine=$(mktemp -d)
trap 'rm -rf "$engine"' EXIT
measure() {  # SHAPE ALGORITHM BATCHES...
  shape=$1 algorithm=$2
  shift 2
  name=$shape/${algorithm:-bf16}
  rm -rf "$engine/e"
  # shellcheck disable=SC2086
  if "$ingot" build --synthetic "$shape" ${algorithm:+--quant-algo $algorithm} --dtype bfloat16 --device "$plugin" --output-dir "$engine/e" > "$out/engine.log" 2>&1 &&
     "$ingot" bench offline "$engine/e" --device "$plugin" --batch "$@" --input-len 16 --output-len 300 --prefill-len 2048 --runs 3 \
       --name "$name" --records "$out/cuda.jsonl" > "$out/bench.log" 2>&1; then
    cat "$out/bench.log" >> "$table"
  else
    failed=1
    row "$name" "FAILED: $(cat "$out/engine.log" "$out/bench.log" 2>/dev/null | tail -n 1)"
  fi
}
if [ -n "$ingot" ]; then
  measure llama3-8b "" 1 8 64 256
  if [ -z "$quick" ]; then
    measure llama3-8b int4 1 8 64
    measure yuan2-2b "" 1 4 8 16 32 64
  fi
fi
cat "$table"
exit $failed
