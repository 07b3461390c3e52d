import hashlib
import hmac

# body: the raw bytes of the request, before any JSON parser.
# signature: its header X-UserHero-Signature.
def verify(body: bytes, signature: str, secret: str) -> bool:
    want = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(want.encode(), (signature or "").encode())
