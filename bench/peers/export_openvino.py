"""A Hugging Face folder as OpenVINO models: export_openvino.py HF_DIR OUT_DIR -> OUT_DIR/{fp16,int8,int4}.

fp16 by optimum-intel; int8 (per channel, symmetric) and int4 (symmetric, groups; embedding and head int8) from it by NNCF without data.
"""

import shutil
import sys
from pathlib import Path

import nncf
import openvino
import openvino_tokenizers
from optimum.exporters.openvino import main_export
from optimum.intel import OVConfig
from transformers import AutoTokenizer


def main():
    source, out, group = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 64
    fp16 = out / "fp16"
    if not (fp16 / "openvino_model.bin").exists():
        # Without a configuration of weights, models of more than 1e9 parameters come out in int8.
        main_export(str(source), output=str(fp16), task="text-generation-with-past", ov_config=OVConfig(dtype="fp16"))
        tokenizer = AutoTokenizer.from_pretrained(source)
        for name, part in zip(("openvino_tokenizer", "openvino_detokenizer"), openvino_tokenizers.convert_tokenizer(tokenizer, with_detokenizer=True)):
            openvino.save_model(part, fp16 / f"{name}.xml")
    for name, options in {"int8": {"mode": nncf.CompressWeightsMode.INT8_SYM},
                          "int4": {"mode": nncf.CompressWeightsMode.INT4_SYM, "group_size": group, "ratio": 1.0}}.items():
        target = out / name
        if (target / "openvino_model.bin").exists():
            continue
        shutil.copytree(fp16, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("openvino_model.*"))
        model = openvino.Core().read_model(fp16 / "openvino_model.xml")
        openvino.save_model(nncf.compress_weights(model, **options), target / "openvino_model.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main()
