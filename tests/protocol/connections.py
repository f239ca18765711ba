"""Many connections at once over the fake models: idle keep-alive ones, streams that begin and end all the time, slow readers, clients that
leave, truncated requests, loads and unloads under load, a log on a full disk. Nothing but the request concerned may be lost, and the
server's memory must stay flat. Usage: connections.py FAKE_SERVER [--idle 200 --streams 64 --seconds 5]

The numbers of the project's bar: --idle 2000 --streams 512 --seconds 600.
"""

import argparse
import asyncio
import json
import random
import re
import resource
import time
import urllib.request
from pathlib import Path

from fake_server import FakeServer

READY = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"


def post(path, body):
    text = json.dumps(body).encode()
    return b"POST " + path.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: " + str(len(text)).encode() + b"\r\n\r\n" + text


def resident_bytes(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()).group(1)) * 1024


class Run:
    def __init__(self, port, options):
        self.port, self.options = port, options
        self.deadline = time.monotonic() + options.seconds
        self.counts, self.errors = {}, []

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def wrong(self, text):
        self.count("WRONG")
        if len(self.errors) < 10:
            self.errors.append(text)

    async def connect(self):
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def head(self, reader):
        head = await reader.readuntil(b"\r\n\r\n")
        return int(head.split(b" ")[1]), head

    async def idle(self, reader, writer):
        """Asks rarely; the connection must be the same to the end."""
        try:
            while True:
                writer.write(READY)
                status, _ = await asyncio.wait_for(self.head(reader), 60)
                if status != 200:
                    return self.wrong(f"an idle connection got {status}")
                self.count("asked on an idle connection")
                left = self.deadline - time.monotonic()
                if left <= 0:
                    break
                await asyncio.sleep(min(left, random.uniform(0.5, 1) * max(1.0, self.options.seconds / 8)))
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as e:
            self.wrong(f"an idle connection ended: {e!r}")
        finally:
            writer.close()

    async def stream(self, number):
        while time.monotonic() < self.deadline:
            try:
                await self.one_stream(number)
            except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as e:
                self.wrong(f"a stream ended: {e!r}")

    async def one_stream(self, number):
        words = [f"w{number}x{i}" for i in range(random.randint(1, 20))]
        request = post("/v2/models/llm/generate_stream", {"text_input": " ".join(words), "stream": True, "delay_ms": random.randint(1, 20)})
        reader, writer = await self.connect()
        try:
            kind = random.random()
            if kind < 0.05:  # a truncated request
                writer.write(request[:random.randrange(1, len(request))])
                await writer.drain()
                return self.count("truncated")
            writer.write(request)
            await writer.drain()
            if kind < 0.15:  # leaves before or within the answer
                await asyncio.sleep(random.uniform(0, 0.1))
                return self.count("left")
            status, _ = await asyncio.wait_for(self.head(reader), 60)
            if status != 200:
                return self.wrong(f"a stream got {status}")
            body = b""
            while not body.endswith(b"0\r\n\r\n"):
                if kind < 0.2:
                    await asyncio.sleep(0.02)  # a slow reader
                data = await asyncio.wait_for(reader.read(4096 if kind >= 0.2 else 64), 60)
                if not data:
                    return self.wrong("a stream ended in its middle")
                body += data
            got = "".join(json.loads(m)["text_output"] for m in re.findall(rb"data: (\{.*?\})\n\n", body))
            if got.split() != words:
                return self.wrong(f"a stream answered {got!r}, want {words}")
            self.count("streamed")
        finally:
            writer.close()

    async def control(self):
        """A model goes and comes under load: its requests get an answer or an exact refusal."""
        while time.monotonic() < self.deadline:
            reader, writer = await self.connect()
            for action in ("unload", "load"):
                writer.write(post(f"/v2/repository/models/raw/{action}", {}))
                status, head = await asyncio.wait_for(self.head(reader), 60)
                await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head).group(1)))
                if status != 200:
                    self.wrong(f"{action} got {status}")
                self.count(action)
                await asyncio.sleep(0.05)
            writer.close()

    async def all(self):
        idle = []
        for _ in range(self.options.idle):
            idle.append(await self.connect())
        tasks = [asyncio.create_task(self.idle(*c)) for c in idle]
        tasks += [asyncio.create_task(self.stream(i)) for i in range(self.options.streams)]
        tasks.append(asyncio.create_task(self.control()))
        samples = []
        while time.monotonic() < self.deadline:
            await asyncio.sleep(max(0.2, self.options.seconds / 40))
            samples.append(resident_bytes(self.options.pid))
        await asyncio.gather(*tasks)
        return samples


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server")
    parser.add_argument("--idle", type=int, default=200)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    want = 2 * (options.idle + options.streams) + 100
    assert most >= want or most == resource.RLIM_INFINITY, f"the limit of open files is {most}, want {want}"
    with FakeServer(options.server, "--log-info", "true", "--log-file", "/dev/full") as server:
        options.pid = server.process.pid
        run = Run(server.http_port, options)
        samples = asyncio.run(run.all())
        time.sleep(0.5)
        text = urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics").read().decode()
        pending = [float(v) for v in re.findall(r"nv_inference_pending_request_count\{[^}]*\} (\S+)", text)]
    print(", ".join(f"{k}: {v}" for k, v in sorted(run.counts.items())))
    early, late = max(samples[:max(1, len(samples) // 2)]), max(samples[len(samples) // 2:])
    print(f"resident memory: {early >> 20} MiB in the first half, {late >> 20} MiB in the second")
    assert not run.errors, "\n".join(run.errors)
    assert not any(pending), f"requests are still pending: {pending}"
    assert run.counts.get("streamed", 0) > 0 and run.counts.get("asked on an idle connection", 0) >= 2 * options.idle
    assert late < early * 1.25 + (16 << 20), "the server's memory grows"
    print("connections: all passed")


main()
