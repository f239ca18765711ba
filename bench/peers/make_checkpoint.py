"""Random weights of a true Llama shape as two files that every system reads: a Hugging Face folder and a bf16 GGUF file.

    make_checkpoint.py tinyllama-1.1b OUT_DIR     -> OUT_DIR/hf/{config.json,model.safetensors,tokenizer.json,...}, OUT_DIR/bf16.gguf

Needs numpy and gguf (PyPI). Speed does not depend on the values, so they are normal with the usual standard deviation of 0.02.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy

SHAPES = {
    # The 1.1B shape that bench records go by: 1.188e9 parameters, of which 1.123e9 are read for each decoded token.
    "tinyllama-1.1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 32, "num_key_value_heads": 4,
                       "vocab_size": 32000, "max_position_embeddings": 40960, "tie_word_embeddings": False},
}


def bf16(values):
    """Rounds f32 to the nearest bf16 (ties away from zero), as uint16."""
    return ((values.view(numpy.uint32) + 0x8000) >> 16).astype(numpy.uint16)


def weights(shape, seed):
    """Hugging Face names and bf16 arrays, in file order; norms are ones."""
    e, f, kv = shape["hidden_size"], shape["intermediate_size"], shape["hidden_size"] // shape["num_attention_heads"] * shape["num_key_value_heads"]
    random = numpy.random.default_rng(seed)

    def normal(*dims):
        return bf16(random.standard_normal(dims, dtype=numpy.float32) * numpy.float32(0.02))

    ones = bf16(numpy.ones(e, numpy.float32))
    yield "model.embed_tokens.weight", normal(shape["vocab_size"], e)
    for i in range(shape["num_hidden_layers"]):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", ones
        yield p + "self_attn.q_proj.weight", normal(e, e)
        yield p + "self_attn.k_proj.weight", normal(kv, e)
        yield p + "self_attn.v_proj.weight", normal(kv, e)
        yield p + "self_attn.o_proj.weight", normal(e, e)
        yield p + "post_attention_layernorm.weight", ones
        yield p + "mlp.gate_proj.weight", normal(f, e)
        yield p + "mlp.up_proj.weight", normal(f, e)
        yield p + "mlp.down_proj.weight", normal(e, f)
    yield "model.norm.weight", ones
    if not shape["tie_word_embeddings"]:
        yield "lm_head.weight", normal(shape["vocab_size"], e)


def write_safetensors(path, tensors):
    header, offset = {}, 0
    for name, t in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(t.shape), "data_offsets": [offset, offset + t.nbytes]}
        offset += t.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for t in tensors.values():
            t.tofile(out)


def byte_alphabet():
    """GPT-2's printable stand-ins of the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) if b in plain else chr(256 + [x for x in range(256) if x not in plain].index(b)) for b in range(256)]


def write_tokenizer(folder, vocab_size):
    """A byte-level BPE without merges: one token a byte; the rest of the vocabulary is never produced by text."""
    tokens = ["<unk>", "<s>", "</s>", *byte_alphabet()]
    tokens += [f"tok{i}" for i in range(vocab_size - len(tokens))]
    special = [{"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for i in range(3)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None, "pre_tokenizer": byte_level,
                 "post_processor": None, "decoder": byte_level,
                 "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                           "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": {t: i for i, t in enumerate(tokens)}, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "bos_token": "<s>",
                                                              "eos_token": "</s>", "model_max_length": 40960}))


def interleave(t, heads):
    """Rotary halves -> adjacent pairs, the row order of llama.cpp."""
    return t.reshape(heads, 2, t.shape[0] // heads // 2, *t.shape[1:]).swapaxes(1, 2).reshape(t.shape)


def write_gguf(path, shape, tensors):
    v, heads, kv_heads = shape["vocab_size"], shape["num_attention_heads"], shape["num_key_value_heads"]
    out = gguf.GGUFWriter(path, "llama")
    out.add_context_length(shape["max_position_embeddings"])
    out.add_embedding_length(shape["hidden_size"])
    out.add_block_count(shape["num_hidden_layers"])
    out.add_feed_forward_length(shape["intermediate_size"])
    out.add_head_count(heads)
    out.add_head_count_kv(kv_heads)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_freq_base(10000.0)
    out.add_rope_dimension_count(shape["hidden_size"] // heads)
    out.add_vocab_size(v)
    out.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    out.add_tokenizer_model("llama")
    out.add_tokenizer_pre("default")
    out.add_token_list(["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] + [f"\u2581t{i}" for i in range(v - 259)])
    out.add_token_scores([0.0 if i < 259 else -float(i) for i in range(v)])
    out.add_token_types([2, 3, 3] + [6] * 256 + [1] * (v - 259))
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_unk_token_id(0)
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
             "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
             "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    for name, t in tensors.items():
        stem = name.removesuffix(".weight")
        if stem.startswith("model.layers."):
            layer, stem = stem.removeprefix("model.layers.").split(".", 1)
            target = f"blk.{layer}.{names[stem]}.weight"
        else:
            target = names[stem] + ".weight"
        if t.ndim == 1:
            out.add_tensor(target, (t.astype(numpy.uint32) << 16).view(numpy.float32))
            continue
        if stem.endswith("q_proj"):
            t = interleave(t, heads)
        if stem.endswith("k_proj"):
            t = interleave(t, kv_heads)
        out.add_tensor(target, numpy.ascontiguousarray(t).view(numpy.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def main():
    shape, folder = SHAPES[sys.argv[1]], Path(sys.argv[2])
    hf = folder / "hf"
    hf.mkdir(parents=True, exist_ok=True)
    tensors = dict(weights(shape, seed=0))
    write_safetensors(hf / "model.safetensors", tensors)
    (hf / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
                                                "rope_theta": 10000.0, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2, **shape}, indent=1))
    (hf / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    write_tokenizer(hf, shape["vocab_size"])
    write_gguf(folder / "bf16.gguf", shape, tensors)


if __name__ == "__main__":
    main()
