"""Receive what monconn notifies of, and refuse what is not signed with the secret.

    python examples/webhook_receiver.py [PORT]

In monconn's configuration: notify: [{url: "http://127.0.0.1:PORT", secret: change me please}]
"""

from __future__ import annotations

import hmac
import json
import sys
import time
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, HTTPServer

SECRET = b"change me please"
MOST_BYTES = 64 * 1024


class Receiver(BaseHTTPRequestHandler):
    timeout = 10

    def do_POST(self) -> None:
        body = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), MOST_BYTES))
        number, sent_at = (self.headers.get(f"webhook-{name}", "") for name in ("id", "timestamp"))
        signed = f"{number}.{sent_at}.".encode() + body
        expected = "v1," + b64encode(hmac.digest(SECRET, signed, "sha256")).decode()
        is_ours = hmac.compare_digest(
            expected.encode(), self.headers.get("webhook-signature", "").encode()
        )
        is_fresh = is_ours and abs(time.time() - int(sent_at)) < 300
        if is_fresh:
            message = json.loads(body)
            print(message["kind"], message["text"], flush=True)
        self.send_response(204 if is_fresh else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


with HTTPServer(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 0), Receiver) as server:
    print(f"receiving at http://127.0.0.1:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
