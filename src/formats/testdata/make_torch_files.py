"""Writes torch_*.pt and their expected contents (torch_expected.txt: file, tensor, type, shape, FNV-1a of the bytes) beside itself.

Needs PyTorch. The tests read the files with our own reader; this script is run only when a case is added.
"""

import collections
import pathlib
import zipfile

import torch

HERE = pathlib.Path(__file__).parent
NAMES = {
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.bool: "bool",
    torch.float8_e4m3fn: "f8_e4m3",
}


def state_dict():
    torch.manual_seed(0)
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    d = collections.OrderedDict()
    d["base"] = base
    d["transposed"] = base.t()
    d["slice"] = base[1:3, 2:5]
    d["tied"] = base
    d["half"] = torch.randn(3, 5).half()
    d["brain"] = torch.randn(7).bfloat16()
    d["parameter"] = torch.nn.Parameter(torch.randn(2, 2))
    d["scalar"] = torch.tensor(3, dtype=torch.int64)
    d["flags"] = torch.tensor([True, False])
    d["empty"] = torch.empty(0, 4)
    d["expanded"] = torch.tensor([1.0, 2.0]).reshape(2, 1).expand(2, 3)
    return d


def flat(value, name=""):
    if isinstance(value, torch.Tensor):
        yield name, value.detach().contiguous()
    elif isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, below in items:
            yield from flat(below, f"{name}.{key}" if name else str(key))


def fnv(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


def main():
    d = state_dict()
    with_fp8 = collections.OrderedDict(d, fp8=torch.randn(4).to(torch.float8_e4m3fn))
    linear = torch.nn.Linear(3, 2)
    files = {
        "torch_zip.pt": (with_fp8, {}),
        "torch_protocol4.pt": (with_fp8, {"pickle_protocol": 4}),
        "torch_legacy.pt": (d, {"_use_new_zipfile_serialization": False}),
        "torch_module.pt": (linear.state_dict(), {}),
        "torch_nested.pt": ({"epoch": 3, "lr": 0.5, "none": None, "model": {"x": d["base"]}, "l": [d["base"], 2], "name": "n"}, {}),
    }
    expected = []
    for file, (value, options) in files.items():
        torch.save(value, HERE / file, **options)
        for name, t in flat(value):
            raw = t.reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b""
            shape = ", ".join(map(str, t.shape))
            expected.append(f"{file}\t{name}\t{NAMES[t.dtype]}\t[{shape}]\t{fnv(raw):016x}")
    torch.save({"layer": linear}, HERE / "torch_code.pt")
    with zipfile.ZipFile(HERE / "torch_zip.pt") as z, zipfile.ZipFile(HERE / "torch_deflated.pt", "w", zipfile.ZIP_DEFLATED) as out:
        for entry in z.namelist():
            out.writestr(entry, z.read(entry))
    expected += [line.replace("torch_zip.pt", "torch_deflated.pt") for line in expected if line.startswith("torch_zip.pt")]
    (HERE / "torch_expected.txt").write_text("\n".join(expected) + "\n")


if __name__ == "__main__":
    main()
