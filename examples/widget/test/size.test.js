import assert from "node:assert/strict";
import test from "node:test";
import { minified } from "./minified.js";

test("the minified widget has at most 4 KiB", async () => {
  const size = Buffer.byteLength(await minified());
  assert.ok(size > 1024 && size <= 4 * 1024, `${size} bytes`);
});

test("the minified widget is ASCII, whatever charset a page has", async () => {
  assert.match(await minified(), /^[\x20-\x7e\n]+$/);
});
