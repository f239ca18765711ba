"""OpenVINO GenAI's ContinuousBatchingPipeline behind POST /v1/completions, streamed: serve_openvino.py MODEL_DIR THREADS PORT.

One thread steps the pipeline, as the engine thread of a server does; a handler thread passes on what its request has.
"""

import sys
import threading

import completions
import openvino_genai


class Engine:
    def __init__(self, model, threads):
        config = openvino_genai.SchedulerConfig()
        config.cache_size, config.max_num_seqs, config.max_num_batched_tokens, config.enable_prefix_caching = 2, 64, 512, False
        self.pipe = openvino_genai.ContinuousBatchingPipeline(model, config, "CPU", {"INFERENCE_NUM_THREADS": threads})
        self.tokenizer = self.pipe.get_tokenizer()
        self.wake, self.requests, self.next_id = threading.Condition(), [], 0
        threading.Thread(target=self.loop, daemon=True).start()

    def submit(self, prompt, tokens):
        config = openvino_genai.GenerationConfig(max_new_tokens=tokens, min_new_tokens=tokens, ignore_eos=True, do_sample=False)
        ids = self.tokenizer.encode(prompt).input_ids
        with self.wake:
            self.next_id += 1
            handle = self.pipe.add_request(self.next_id, ids, config)
            got = threading.Event()
            self.requests.append(got)
            self.wake.notify()
        return handle, got

    def loop(self):
        while True:
            with self.wake:
                while not self.pipe.has_non_finished_requests():
                    self.wake.wait()
            self.pipe.step()
            for got in self.requests:
                got.set()

    def answer(self, prompt, tokens):
        handle, got = self.submit(prompt, tokens)
        while tokens > 0:
            got.wait()
            got.clear()
            while handle.can_read():
                for output in handle.read().values():
                    tokens -= len(output.generated_ids)
                    yield self.tokenizer.decode(output.generated_ids), len(output.generated_ids)
        self.requests.remove(got)


if __name__ == "__main__":
    completions.serve(int(sys.argv[3]), Engine(sys.argv[1], int(sys.argv[2])).answer)
