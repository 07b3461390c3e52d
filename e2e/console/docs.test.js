// docs/ as a site, in a browser: from a server below any path, and from a folder. The
// search finds pages, their links lead there, and nothing is asked of another machine.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createReadStream } from "node:fs";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import http from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { after, before } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { launch } from "./relay.js";

const below = "/some/where/";
let browser, folder, server;
const places = {};

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "userhero-docs-"));
  execFileSync("make", ["--no-print-directory", "docs", `DIST=${folder}`], { cwd: fileURLToPath(new URL("../../", import.meta.url)) });
  const types = { html: "text/html", css: "text/css", js: "text/javascript", png: "image/png", svg: "image/svg+xml" };
  server = http.createServer(({ url }, response) => {
    const { pathname } = new URL(url, "http://docs");
    response.setHeader("Content-Type", types[pathname.split(".").at(-1)] ?? "application/octet-stream");
    createReadStream(join(folder, "docs", pathname.startsWith(below) ? pathname.slice(below.length) : "missing"))
      .on("error", () => response.writeHead(404).end())
      .pipe(response);
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  places.server = `http://127.0.0.1:${server.address().port}${below}`;
  places.folder = `${pathToFileURL(join(folder, "docs"))}/`;
  browser = await launch();
});
after(async () => {
  await browser?.close();
  server?.close();
  if (folder) await rm(folder, { recursive: true });
});

for (const place of ["server", "folder"]) {
  test(`the site works from a ${place}, with its search`, async () => {
    const page = await browser.newPage();
    const wrong = [];
    page.on("request", (request) => {
      if (!request.url().startsWith(places[place])) wrong.push(`asks for ${request.url()}`);
    });
    page.on("requestfailed", (request) => wrong.push(`does not get ${request.url()}`));
    page.on("response", (response) => response.status() >= 400 && wrong.push(`${response.status()} for ${response.url()}`));
    page.on("pageerror", (error) => wrong.push(String(error)));

    await page.goto(`${places[place]}install.html`);
    const search = page.getByRole("searchbox", { name: "Search" });
    const found = page.locator("#found a");
    await search.fill("SIGNATURE  does not match");
    await found.first().waitFor();
    const all = (await readdir(join(folder, "docs"))).filter((name) => name.endsWith(".html") && name !== "index.html");
    assert.ok((await found.count()) < all.length, "the search finds every page");
    await found.filter({ hasText: /^Questions$/ }).click();
    await page.waitForURL(`${places[place]}questions.html`);
    assert.match(await page.locator("main").innerText(), /signature/i);

    await search.fill("signature qwxzqwxz"); // the second word is on no page
    await page.waitForFunction(() => !document.getElementById("found").hidden);
    assert.equal(await found.count(), 0);

    for (const name of all) {
      await page.goto(places[place] + name);
      const broken = await page.locator("img").evaluateAll((images) => images.filter((image) => image.complete && !image.naturalWidth).map((image) => image.src));
      assert.deepEqual(broken, [], name);
    }
    await page.getByRole("link", { name: "UserHero Relay", exact: true }).click();
    await page.waitForURL(`${places[place]}index.html`);
    assert.deepEqual(wrong, []);
    await page.close();
  });
}
