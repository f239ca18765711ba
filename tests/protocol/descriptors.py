"""Every message, field number, type and RPC of our .proto files against the descriptors of the published tritonclient.

Usage: descriptors.py PROTO_DIR
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    from google.protobuf import descriptor_pb2
    from tritonclient.grpc import model_config_pb2, service_pb2
except ImportError as e:
    print(f"skipped: {e} (install tools/requirements-test.txt)")
    sys.exit(1 if os.environ.get("CI") else 77)


def rows(file):
    """The file as comparable lines; the order of declarations does not matter."""
    out = set()

    def message(m, path):
        name = f"{path}.{m.name}"
        out.add(name)
        for f in m.field:
            group = m.oneof_decl[f.oneof_index].name if f.HasField("oneof_index") else ""
            out.add(f"{name}.{f.name} = {f.number} type {f.type} {f.type_name} label {f.label} oneof {group}")
        for n in m.nested_type:
            message(n, name)
        for e in m.enum_type:
            enum(e, name)

    def enum(e, path):
        for v in e.value:
            out.add(f"{path}.{e.name}.{v.name} = {v.number}")

    for m in file.message_type:
        message(m, file.package)
    for e in file.enum_type:
        enum(e, file.package)
    for s in file.service:
        for m in s.method:
            out.add(f"{s.name}.{m.name}({m.client_streaming} {m.input_type}) -> {m.server_streaming} {m.output_type}")
    return out


def main():
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "set"
        subprocess.run(["protoc", f"-I{folder}", f"--descriptor_set_out={path}", *map(str, folder.glob("*.proto"))], check=True)
        ours = {f.name: f for f in descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file}
    failed = 0
    for name, theirs in (("model_config.proto", model_config_pb2), ("grpc_service.proto", service_pb2)):
        want = descriptor_pb2.FileDescriptorProto()
        theirs.DESCRIPTOR.CopyToProto(want)
        found, want = rows(ours[name]), rows(want)
        for line in sorted(want - found):
            print(f"{name}: missing {line}")
        for line in sorted(found - want):
            print(f"{name}: not in the published one: {line}")
        failed += len(want ^ found)
        print(f"{name}: {len(want & found)} equal, {len(want ^ found)} different")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
