"""llama.cpp with continuous batching behind POST /v1/completions, streamed: serve_llama_cpp.py MODEL.gguf THREADS PORT USERS.

Each llama_decode call holds one token of every answering sequence and fills up with prompt tokens, 512 in all, as llama-server does;
its own Python server answers one request at a time and would be no peer. The next token is the largest logit.
"""

import ctypes
import queue
import sys
import threading

import completions
import llama_cpp
import numpy

CONTEXT, STEP = 1024, 512


class Sequence:
    def __init__(self, ids, tokens):
        self.ids, self.left, self.done, self.slot = ids, tokens, 0, -1
        self.out = queue.SimpleQueue()


class Engine:
    def __init__(self, path, threads, users):
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.size = llama_cpp.llama_vocab_n_tokens(self.vocab)
        p = llama_cpp.llama_context_default_params()
        p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max = CONTEXT * users, STEP, STEP, users
        p.n_threads = p.n_threads_batch = threads
        self.ctx = llama_cpp.llama_init_from_model(self.model, p)
        self.batch = llama_cpp.llama_batch_init(STEP, 0, 1)
        self.free, self.active = list(range(users)), []
        self.inbox = queue.SimpleQueue()
        threading.Thread(target=self.loop, daemon=True).start()

    def tokenize(self, text):
        raw = text.encode()
        ids = (llama_cpp.llama_token * (len(raw) + 8))()
        n = llama_cpp.llama_tokenize(self.vocab, raw, len(raw), ids, len(ids), True, True)
        return list(ids[:n])

    def text(self, token):
        buffer = ctypes.create_string_buffer(256)
        n = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, True)
        return buffer.raw[:max(n, 0)].decode(errors="replace")

    def loop(self):
        waiting = []
        while True:
            if not self.active and not waiting:
                waiting.append(self.inbox.get())
            while not self.inbox.empty():
                waiting.append(self.inbox.get())
            while waiting and self.free:
                s = waiting.pop(0)
                s.slot = self.free.pop()
                self.active.append(s)
            self.step()

    def step(self):
        b, n, sampled = self.batch, 0, []
        # Answers first, then prompts: (sequence, tokens of it in this step).
        for s in sorted(self.active, key=lambda s: len(s.ids) - s.done > 1):
            count = min(len(s.ids) - s.done, STEP - n)
            for i in range(count):
                b.token[n], b.pos[n], b.n_seq_id[n] = s.ids[s.done + i], s.done + i, 1
                b.seq_id[n][0] = s.slot
                b.logits[n] = last = s.done + i == len(s.ids) - 1
                if last:
                    sampled.append((s, n))
                n += 1
            s.done += count
        b.n_tokens = n
        if llama_cpp.llama_decode(self.ctx, b) != 0:
            sys.exit("llama_decode failed")
        for s, row in sampled:
            logits = numpy.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.ctx, row), shape=(self.size,))
            token = int(logits.argmax())
            s.ids.append(token)
            s.left -= 1
            s.out.put(self.text(token))
            if s.left == 0:
                s.out.put(None)
                self.active.remove(s)
                self.free.append(s.slot)
                llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self.ctx), s.slot, -1, -1)

    def answer(self, prompt, tokens):
        s = Sequence(self.tokenize(prompt), tokens)
        self.inbox.put(s)
        while (text := s.out.get()) is not None:
            yield text, 1


if __name__ == "__main__":
    completions.serve(int(sys.argv[3]), Engine(sys.argv[1], int(sys.argv[2]), int(sys.argv[4])).answer)
