import assert from "node:assert/strict";
import test from "node:test";
import { minified } from "./minified.js";

for (const [name, limit] of [
  ["userhero-widget.js", 4 * 1024],
  ["userhero-words.js", 1.5 * 1024],
]) {
  test(`${name} has at most ${limit} bytes minified`, async () => {
    const size = Buffer.byteLength(await minified(name));
    assert.ok(size > limit / 4 && size <= limit, `${size} bytes`);
  });

  test(`${name} is ASCII minified, whatever charset a page has`, async () => {
    assert.match(await minified(name), /^[\x20-\x7e\n]+$/);
  });
}
