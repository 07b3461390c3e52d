import { createHmac, timingSafeEqual } from "node:crypto";

// body: the raw bytes of the request, before any JSON parser.
// signature: its header X-UserHero-Signature.
export function verify(body, signature, secret) {
  const want = Buffer.from("sha256=" + createHmac("sha256", secret).update(body).digest("hex"));
  const got = Buffer.from(signature ?? "");
  return got.length === want.length && timingSafeEqual(got, want);
}
