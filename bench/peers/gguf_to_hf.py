"""A GGUF file as a bf16 Hugging Face folder, for the exporters that read nothing else: gguf_to_hf.py FILE.gguf OUT_DIR."""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    source, out = Path(sys.argv[1]), sys.argv[2]
    model = AutoModelForCausalLM.from_pretrained(str(source.parent), gguf_file=source.name, dtype=torch.bfloat16)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name).save_pretrained(out)


if __name__ == "__main__":
    main()
