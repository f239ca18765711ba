"""OpenAI and Anthropic routes on a real model: embeddings, echo with log-probabilities, structured answers, responses, messages, API keys.

Usage: llm_openai.py INGOT DEMO_DIR WORK_DIR      (label `net`: needs the demo engine)
"""

import base64
import json
import math
import re
import struct
import sys
from pathlib import Path

import llm_server

MODEL = "ensemble"


def dot(a, b):
    return sum(x * y for x, y in zip(a, b))


def embeddings(server):
    texts = ["A cat sits on the mat.", "A kitten sits on a rug.", "Interest rates rose by two percent last quarter."]
    status, all_ = server.call("/v1/embeddings", {"model": MODEL, "input": texts})
    assert status == 200 and [d["index"] for d in all_["data"]] == [0, 1, 2], all_
    vectors = [d["embedding"] for d in all_["data"]]
    assert all(len(v) == 576 and abs(dot(v, v) - 1) < 1e-4 for v in vectors), [len(v) for v in vectors]
    assert all_["usage"]["prompt_tokens"] > 10 and all_["usage"]["prompt_tokens"] == all_["usage"]["total_tokens"], all_["usage"]
    near, far = dot(vectors[0], vectors[1]), dot(vectors[0], vectors[2])
    assert near > far, (near, far)
    status, one = server.call("/v1/embeddings", {"model": MODEL, "input": texts[2], "encoding_format": "base64"})
    raw = base64.b64decode(one["data"][0]["embedding"])
    again = struct.unpack(f"<{len(raw) // 4}f", raw)
    assert max(abs(x - y) for x, y in zip(again, vectors[2])) < 1e-5  # the same alone and in a batch
    assert server.call("/v1/embeddings", {"model": MODEL, "input": "x", "dimensions": 5})[0] == 400
    assert server.call("/v1/embeddings", {"model": "nobody", "input": "x"})[0] == 404
    return near, far


def completions(server):
    body = {"model": MODEL, "prompt": "The capital of France is", "temperature": 0}
    status, plain = server.call("/v1/completions", body)
    assert status == 200 and plain["usage"]["completion_tokens"] == 16 and plain["choices"][0]["finish_reason"] == "length", plain
    status, scored = server.call("/v1/completions", {**body, "max_tokens": 3, "echo": True, "logprobs": 2})
    choice, probs = scored["choices"][0], scored["choices"][0]["logprobs"]
    prompt_tokens = scored["usage"]["prompt_tokens"]
    assert choice["text"].startswith(body["prompt"]) and "".join(probs["tokens"]) == choice["text"], scored
    assert len(probs["tokens"]) == prompt_tokens + 3 and probs["token_logprobs"][0] is None and probs["top_logprobs"][0] is None, probs
    assert all(p is not None and p <= 0 for p in probs["token_logprobs"][1:]) and all(len(t) == 2 for t in probs["top_logprobs"][1:]), probs
    # The prompt alone, nothing generated: what scoring harnesses ask for.
    status, only = server.call("/v1/completions", {**body, "max_tokens": 0, "echo": True, "logprobs": 0})
    assert status == 200 and only["choices"][0]["text"] == body["prompt"] and only["usage"]["completion_tokens"] == 0, only
    first = only["choices"][0]["logprobs"]["token_logprobs"]
    assert len(first) == prompt_tokens and all(math.isclose(a, b, abs_tol=1e-3) for a, b in zip(first[1:], probs["token_logprobs"][1:])), (first, probs)
    # A text that was generated greedily is scored as it was generated.
    status, whole = server.call("/v1/completions", {**body, "prompt": choice["text"], "max_tokens": 0, "echo": True, "logprobs": 1})
    rescored = whole["choices"][0]["logprobs"]["token_logprobs"]
    assert all(math.isclose(a, b, abs_tol=2e-3) for a, b in zip(rescored[-3:], probs["token_logprobs"][-3:])), (rescored, probs)


def structured(server):
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
              "required": ["name", "age"], "additionalProperties": False}
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Invent a person."}], "max_tokens": 80, "temperature": 0}
    status, r = server.call("/v1/chat/completions", {**body, "response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": schema}}})
    person = json.loads(r["choices"][0]["message"]["content"])
    assert status == 200 and set(person) == {"name", "age"} and 0 <= person["age"] <= 120, r
    status, r = server.call("/v1/chat/completions", {**body, "response_format": {"type": "regex", "pattern": "[0-9]{3}-[a-f]{2}"}})
    assert re.fullmatch("[0-9]{3}-[a-f]{2}", r["choices"][0]["message"]["content"]), r
    status, r = server.call("/v1/chat/completions", {**body, "response_format": {"type": "json_schema", "json_schema": {
        "name": "p", "schema": {"type": "object", "unevaluatedProperties": {"$dynamicRef": "#x"}}}}})
    assert status == 400, (status, r)


def responses(server):
    body = {"model": MODEL, "input": "Name a colour.", "max_output_tokens": 8, "temperature": 0}
    status, whole = server.call("/v1/responses", body)
    text = whole["output"][-1]["content"][0]["text"]
    assert status == 200 and whole["object"] == "response" and text, whole
    events = server.events("/v1/responses", {**body, "stream": True})
    kinds = [e[1]["type"] for e in events]
    assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete"), kinds
    assert all(name == e["type"] for name, e in events) and "".join(e["delta"] for _, e in events if e["type"] == "response.output_text.delta") == text, events


def messages(server):
    body = {"model": MODEL, "max_tokens": 8, "messages": [{"role": "user", "content": "Name a colour."}], "temperature": 0}
    status, whole = server.call("/v1/messages", body, {"anthropic-version": "2023-06-01"})
    assert status == 200 and whole["type"] == "message" and whole["stop_reason"] in ("max_tokens", "end_turn"), whole
    events = server.events("/v1/messages", {**body, "stream": True})
    kinds = [e[0] for e in events]
    assert kinds[:3] == ["message_start", "content_block_start", "content_block_delta"] or kinds[1:3] == ["content_block_start", "ping"], kinds
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"], kinds
    text = "".join(e["delta"]["text"] for n, e in events if n == "content_block_delta")
    assert text == whole["content"][0]["text"] and events[-2][1]["usage"]["output_tokens"] == whole["usage"]["output_tokens"], events


def keys(ingot, engine, work):
    work.mkdir(parents=True, exist_ok=True)
    file = work / "keys.json"
    file.write_text(json.dumps({"keys": [{"key": "first-key-1", "name": "a", "requests_per_minute": 2}, {"key": "second-key", "name": "b", "tokens_per_minute": 5}]}))
    body = {"model": MODEL, "prompt": "Hello there, how are you?", "max_tokens": 4}
    with llm_server.LlmServer(ingot, engine, f"--api-keys-file={file}") as server:
        ask = lambda key, route="/v1/completions", b=body: server.call(route, b, {"Authorization": f"Bearer {key}"} if key else {})
        assert ask("")[0] == 401 and ask("wrong-key-0")[0] == 401
        assert [ask("first-key-1")[0] for _ in range(3)] == [200, 200, 429]
        assert [ask("second-key")[0] for _ in range(2)] == [200, 429]  # the first one's tokens were more than the minute has
        status, refused = ask("second-key", "/v1/embeddings", {"model": MODEL, "input": "x"})
        assert status == 429 and refused["error"]["code"] == "rate_limit_exceeded", refused
        assert server.call("/v1/messages", {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}, {"x-api-key": "nobody-here"})[0] == 401


def main():
    ingot, engine, work = sys.argv[1], llm_server.engine_or_skip(sys.argv[2]), Path(sys.argv[3])
    with llm_server.LlmServer(ingot, engine) as server:
        near, far = embeddings(server)
        completions(server)
        structured(server)
        responses(server)
        messages(server)
    with llm_server.LlmServer(ingot, engine, "--embedding-pooling=mean") as server:
        mean_near, mean_far = embeddings(server)
    keys(ingot, engine, work)
    print(f"similar and other texts: {near:.3f} and {far:.3f} (last), {mean_near:.3f} and {mean_far:.3f} (mean)")


if __name__ == "__main__":
    main()
