"""llama.cpp's own quantiser: quantize_gguf.py IN.gguf OUT.gguf Q4_0|Q8_0 [THREADS]."""

import sys

import llama_cpp


def main():
    source, target, name = sys.argv[1:4]
    p = llama_cpp.llama_model_quantize_default_params()
    p.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}")
    p.nthread = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    p.allow_requantize = True
    code = llama_cpp.llama_model_quantize(source.encode(), target.encode(), p)
    if code != 0:
        sys.exit(f"llama_model_quantize of {source} to {name} returned {code}")


if __name__ == "__main__":
    main()
