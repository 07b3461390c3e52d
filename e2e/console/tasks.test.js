// docs/tasks.md says how many clicks each task takes; this does them and counts.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import test from "node:test";
import { launch, watched } from "./relay.js";
import { perform, stage, tasks } from "./tasks.js";

test("the twelve tasks take as many clicks as their page says", async () => {
  const document = await readFile(new URL("../../docs/tasks.md", import.meta.url), "utf8");
  const said = [...document.matchAll(/^## (\d+)\. (.+)\n\n(\d+) clicks?/gm)].map(([, number, name, clicks]) => `${number} ${name}: ${clicks}`);
  const scene = await stage();
  const browser = await launch();
  try {
    const context = await watched(browser);
    const page = await context.newPage();
    const done = [];
    for (const [i, task] of tasks.entries()) done.push(`${i + 1} ${task[0]}: ${await perform(page, `${scene.relay.console}/`, task)}`);
    assert.deepEqual(said, done);
    assert.equal(done.length, 12);
  } finally {
    await browser.close();
    await scene.stop();
  }
});
