"""The HTTP side of a peer: POST /v1/completions, streamed.

    completions.serve(port, lambda prompt, tokens: engine.answer(prompt, tokens))    # yields (text, how many tokens it is)
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def serve(port, answer):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            for text, tokens in answer(body["prompt"], body["max_tokens"]):
                self.wfile.write(b"data: %s\n\n" % json.dumps({"choices": [{"text": text}], "tokens": tokens}).encode())
            self.wfile.write(b"data: [DONE]\n\n")
            self.close_connection = True

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
