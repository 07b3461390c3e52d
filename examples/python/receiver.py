"""A webhook receiver that needs nothing but Python's standard library (3.9+).

    USERHERO_WEBHOOK_SECRET=demo-secret python3 examples/python/receiver.py 3000
"""

import hashlib
import hmac
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LARGEST_EVENT = 128 * 1024

# Deliveries come at least once: the same id again is the same event. A real
# receiver keeps the ids where it keeps the feedback, in one transaction.
seen = set()


def verified(body, signature, secret):
    """Tells whether signature is the one of these very bytes."""
    expected = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(signature.encode(), expected.encode())


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open between events
    secret = ""

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        if self.path != "/webhook/userhero" or not 0 < length <= LARGEST_EVENT:
            self.close_connection = True
            return self.answer(404)
        body = self.rfile.read(length)
        if not verified(body, self.headers.get("X-UserHero-Signature", ""), self.secret):
            return self.answer(401)
        delivery = self.headers.get("X-UserHero-Delivery")
        if delivery not in seen:
            seen.add(delivery)
            event = json.loads(body)
            print("received", event["event"], event["data"]["id"], repr(event["data"]["message"]), flush=True)
        return self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def main():
    Receiver.secret = os.environ.get("USERHERO_WEBHOOK_SECRET", "")
    if not Receiver.secret:
        sys.exit("set USERHERO_WEBHOOK_SECRET to the secret of your webhook")
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    server = ThreadingHTTPServer(("127.0.0.1", port), Receiver)
    print(f"listening on http://127.0.0.1:{server.server_port}/webhook/userhero", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
