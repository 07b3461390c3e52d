"""A webhook receiver as a WSGI application. It needs Python 3.9 and nothing else.

    USERHERO_WEBHOOK_SECRET=demo-secret python3 receiver.py 3000
    USERHERO_WEBHOOK_SECRET=demo-secret gunicorn receiver:app      # in production
"""

import hashlib
import hmac
import json
import os
import sqlite3
import sys
from contextlib import closing
from wsgiref.simple_server import WSGIRequestHandler, make_server

SECRET = os.environ.get("USERHERO_WEBHOOK_SECRET", "").encode()
DATABASE = os.environ.get("DATABASE", "deliveries.db")
LARGEST_EVENT = 1024 * 1024  # bytes


def handle(event):
    """Your code. If it raises, the relay delivers the event again later."""
    print("received", event["event"], event["data"]["id"], repr(event["data"]["message"]), flush=True)


def app(environ, start_response):
    def answer(status):
        start_response(status, [("Content-Length", "0")])
        return []

    if environ["REQUEST_METHOD"] != "POST" or environ.get("PATH_INFO") != "/webhook/userhero":
        return answer("404 Not Found")
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if not 0 < length <= LARGEST_EVENT:
        return answer("413 Content Too Large")
    body = environ["wsgi.input"].read(length)

    # Verify the bytes as they came, before any JSON parser.
    expected = "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest()
    signature = environ.get("HTTP_X_USERHERO_SIGNATURE", "")
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        return answer("401 Unauthorized")

    # A delivery has the same id on every attempt. The id and what handle does are
    # committed together, so each event is handled once. Put both into one database.
    delivery = environ.get("HTTP_X_USERHERO_DELIVERY", "")
    with closing(sqlite3.connect(DATABASE)) as db, db:
        db.execute("CREATE TABLE IF NOT EXISTS deliveries (id TEXT PRIMARY KEY)")
        if db.execute("INSERT INTO deliveries VALUES (?) ON CONFLICT DO NOTHING", (delivery,)).rowcount:
            handle(json.loads(body))
    return answer("204 No Content")


class QuietHandler(WSGIRequestHandler):
    def log_message(self, *_):
        pass


if not SECRET:
    sys.exit("set USERHERO_WEBHOOK_SECRET to the secret of your webhook")
if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    server = make_server("127.0.0.1", port, app, handler_class=QuietHandler)
    print(f"listening on http://127.0.0.1:{server.server_port}/webhook/userhero", flush=True)
    server.serve_forever()
