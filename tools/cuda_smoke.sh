#!/bin/sh
# Compiles one unit of the CUDA plugin where nvcc is on the PATH (or NVCC names it); says SKIPPED, exit code 77, where it is not.
# Usage: tools/cuda_smoke.sh OBJECT
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
nvcc=${NVCC:-$(command -v nvcc || true)}
if [ -z "$nvcc" ]; then
  echo "SKIPPED: no nvcc on the PATH, so no unit of src/cuda is compiled for a GPU"
  exit 77
fi
"$nvcc" --version | tail -n 1
"$nvcc" -std=c++20 --expt-relaxed-constexpr --extended-lambda -gencode=arch=compute_90a,code=sm_90a -I"$root/src" -I"$root/include" \
  -c "$root/src/cuda/sample.cu" -o "$1"
echo "compiled src/cuda/sample.cu for sm_90a"
