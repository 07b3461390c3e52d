// The widget in Chromium, with the network cut in between. RELAY names the
// binary to test against instead of the intake in this process; CHROMIUM the
// browser, where it is not /usr/bin/chromium.
import assert from "node:assert/strict";
import http from "node:http";
import { readFile } from "node:fs/promises";
import test, { after, afterEach, before, beforeEach } from "node:test";
import { chromium } from "playwright-core";
import { Intake, Line, Relay, listen } from "./intake.js";
import { minified } from "./minified.js";

const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src *";
const real = process.env.RELAY;
// For answers that the real relay gives under overload only, and for counting requests.
const simulated = real ? () => {} : test;
const CHROMIUM_FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

let browser, code, source, demonstration, site, origin; // for all tests
let intake, line, context, errors, posted; // for one

// The host page is on another origin than the intake, with a strict policy.
const serve = (request, response) => {
  const { pathname, searchParams } = new URL(request.url, origin);
  if (pathname === "/widget.js") return response.setHeader("Content-Type", "text/javascript").end(code);
  if (pathname === "/broken.js") return response.setHeader("Content-Type", "text/javascript").end(BROKEN);
  if (pathname === "/userhero-widget.js") return response.setHeader("Content-Type", "text/javascript").end(source);
  if (pathname === "/feedback") return response.writeHead(202).end(posted.push(pathname).toString());
  response.setHeader("Content-Type", "text/html");
  if (pathname === "/demonstration") return response.end(demonstration);
  response.setHeader("Content-Security-Policy", POLICY);
  if (pathname !== "/page") return response.end("<!doctype html><title>elsewhere</title>");
  const broken = searchParams.has("broken") ? "<script src=/broken.js></script>" : "";
  response.end(
    `<!doctype html><html lang=en><title>host</title><body><h1>Host page</h1><a href=#x>first link</a>${broken}` +
      `<script src=/widget.js data-endpoint="${line.url}" data-project=proj_test data-widget=w_test></script></html>`,
  );
};

// What browsers do where a visitor has forbidden storage.
const BROKEN = `Object.defineProperty(window, "localStorage", { get() { throw new DOMException("denied", "SecurityError"); } });`;

before(async () => {
  code = await minified();
  source = await readFile(new URL("../userhero-widget.js", import.meta.url));
  demonstration = await readFile(new URL("../index.html", import.meta.url));
  site = http.createServer(serve);
  origin = `http://127.0.0.1:${await listen(site)}`;
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: CHROMIUM_FLAGS,
  });
});

after(async () => {
  await browser?.close();
  site.closeAllConnections();
  site.close();
});

beforeEach(async () => {
  intake = await (real ? new Relay(real) : new Intake()).start();
  line = await new Line(intake.port).start();
  errors = [];
  posted = [];
  context = await browser.newContext({ locale: "de-CH", timezoneId: "Europe/Zurich", viewport: { width: 800, height: 600 } });
  context.on("weberror", (error) => errors.push(error.error()));
});

afterEach(async () => {
  await context.close();
  await line.stop();
  await intake.stop();
});

const open = async (query = "") => {
  const page = await context.newPage();
  await page.goto(`${origin}/page?token=secret${query}#part`);
  return page;
};

const write = async (page, message) => {
  if (!(await page.getByRole("dialog").isVisible())) await page.getByRole("button", { name: "Feedback" }).click();
  await page.getByLabel("Message").fill(message);
  await page.getByRole("button", { name: "Send" }).click();
};

const says = (page, text) => page.getByRole("status").filter({ hasText: text }).waitFor();
const kept = (page) => page.evaluate(() => Object.keys(localStorage).length);
const messages = () => intake.events.map((event) => event.message);

const until = async (what, holds, patience = 20_000) => {
  for (const end = Date.now() + patience; !(await holds()); ) {
    assert.ok(Date.now() < end, `not within ${patience} ms: ${what}`);
    await new Promise((done) => setTimeout(done, 20));
  }
};

test("a feedback arrives with its context, and nothing is kept", async () => {
  const page = await open();
  await page.getByRole("button", { name: "Feedback" }).click();
  await page.getByLabel("Category").fill("bug");
  await page.getByLabel("Rating").fill("2");
  await write(page, "Grüße 👋");
  await says(page, "Thank you!");
  await until("the event", () => intake.events.length === 1);
  const [event] = intake.events;
  assert.equal(event.message, "Grüße 👋");
  assert.equal(event.category, "bug");
  assert.equal(event.rating, 2);
  assert.equal(event.projectId, "proj_test");
  assert.equal(event.widgetId, "w_test");
  assert.equal(event.context.pageUrl, `${origin}/page`, "without query and fragment");
  assert.deepEqual(event.context.viewport, { width: 800, height: 600 });
  assert.equal(event.context.timezone, "Europe/Zurich");
  assert.equal(event.context.locale, "de-CH");
  assert.equal(await kept(page), 0);
  if (!real) assert.equal(intake.requests[0].key, event.id);
  assert.deepEqual(errors, []);
});

test("what is written while the network is down survives a reload and arrives once", async () => {
  line.set("down");
  let page = await open();
  await write(page, "kept");
  await says(page, "Kept here");
  await page.close();
  page = await open();
  assert.equal(await kept(page), 1);
  line.set("up");
  await until("the event", () => intake.events.length === 1);
  await until("acknowledged", async () => (await kept(page)) === 0);
  assert.deepEqual(messages(), ["kept"]);
});

test("a lost answer makes no second event", async () => {
  line.set("deaf");
  const page = await open();
  await write(page, "once");
  await says(page, "Kept here");
  await until("the event", () => intake.events.length === 1);
  line.set("up");
  await until("acknowledged", async () => (await kept(page)) === 0);
  await write(page, "another");
  await until("the other", () => intake.events.length === 2);
  assert.deepEqual(messages(), ["once", "another"]);
  if (!real) {
    const first = intake.requests.filter((request) => request.text.includes('"once"'));
    assert.ok(first.length >= 2);
    assert.equal(new Set(first.map((request) => request.key + request.text)).size, 1, "every attempt is the same");
  }
});

test("going online sends at once what waits", async () => {
  const page = await open();
  await context.setOffline(true);
  for (let i = 0; i < 3; i++) await write(page, `offline ${i}`);
  await says(page, "Kept here");
  await page.evaluate(() => {
    // A back-off so long that only the event can end it: [body, tries, due, hold].
    for (const key of Object.keys(localStorage)) {
      const [body, tries, due, hold] = JSON.parse(localStorage[key]);
      localStorage[key] = JSON.stringify([body, tries, due + 3600_000, hold]);
    }
  });
  await context.setOffline(false);
  await until("all three", () => intake.events.length === 3);
  assert.deepEqual(messages().sort(), ["offline 0", "offline 1", "offline 2"]);
});

test("a closing page hands what it has to a beacon, which is no second event later", async () => {
  line.set("silent");
  let page = await open();
  await write(page, "last words");
  await until("an attempt that hangs", () => line.connections > 0);
  line.mode = "up"; // new connections pass, the attempt still hangs
  await page.goto(`${origin}/elsewhere`);
  await until("the beacon's event", () => intake.events.length === 1);
  if (!real) {
    assert.equal(intake.requests[0].key, undefined);
    assert.match(intake.requests[0].type, /^text\/plain/);
  }
  assert.equal(await kept(page), 1, "kept, because nobody has seen the beacon's answer");
  page = await open();
  await until("acknowledged", async () => (await kept(page)) === 0);
  await write(page, "and more");
  await until("the other", () => intake.events.length === 2);
  assert.deepEqual(messages(), ["last words", "and more"]);
});

simulated("several tabs send a feedback once", async () => {
  const pages = [await open(), await open(), await open()];
  await context.setOffline(true);
  await write(pages[0], "one of three tabs");
  await says(pages[0], "Kept here");
  await context.setOffline(false); // every tab hears it
  await until("acknowledged", async () => (await kept(pages[0])) === 0);
  // A tab's turn comes after those that wait before it, so these two end the race.
  for (const page of pages) await write(page, "mark");
  await until("the marks", () => intake.events.length === 4);
  assert.equal(intake.requests.filter((request) => request.text.includes("three tabs")).length, 1);
});

simulated("Retry-After is honoured, by a page that is opened meanwhile too", async () => {
  intake.refusals.push([503, { "Retry-After": "3" }]);
  const page = await open();
  await write(page, "patience");
  await says(page, "Kept here");
  await open();
  await until("the event", () => intake.events.length === 1);
  const [refused, taken] = intake.requests;
  assert.ok(taken.at - refused.at >= 3000, `${taken.at - refused.at} ms`);
  assert.equal(taken.key, refused.key);
});

for (const status of [401, 403, 404, 405, 408, 425, 429, 500, 502, 503])
  simulated(`${status} is tried again`, async () => {
    intake.refusals.push([status, {}]);
    const page = await open();
    await write(page, "again");
    if (status !== 408) await says(page, "Kept here");
    await until("the event", () => intake.events.length === 1);
    await until("acknowledged", async () => (await kept(page)) === 0);
    const [refused, taken] = intake.requests;
    // Chromium repeats a 408 by itself, at once (RFC 9110 §15.5.9 lets it).
    if (status !== 408) assert.ok(taken.at - refused.at >= 450, "backs off");
  });

for (const status of [400, 410, 413, 415, 422])
  simulated(`${status} leaves what was written to the visitor, on later pages too`, async () => {
    intake.refusals.push([status, {}]);
    let page = await open();
    await page.getByRole("button", { name: "Feedback" }).click();
    await page.getByLabel("Category").fill("bug");
    await page.getByLabel("Rating").fill("2");
    await write(page, "refused");
    await says(page, "Not accepted.");
    const form = () => Promise.all(["Message", "Category", "Rating"].map((name) => page.getByLabel(name).inputValue()));
    assert.deepEqual(await form(), ["refused", "bug", "2"]);
    await page.close();
    page = await open();
    assert.equal(await kept(page), 1);
    await page.getByRole("button", { name: "Feedback" }).click();
    assert.deepEqual(await form(), ["refused", "bug", "2"]);
    await write(page, "changed");
    await says(page, "Thank you!");
    assert.deepEqual(await form(), ["", "", ""]);
    assert.equal(await kept(page), 0);
    assert.deepEqual(messages(), ["changed"]);
    assert.equal(intake.requests.length, 2, "what was refused is not sent again by itself");
  });

test("what is written while an answer is awaited stays", async () => {
  line.set("silent");
  const page = await open();
  await write(page, "first");
  await until("an attempt that hangs", () => line.connections > 0);
  assert.equal(await page.getByLabel("Message").inputValue(), "first", "nothing is emptied before it is safe to");
  await page.getByLabel("Message").fill("second");
  line.set("up");
  await says(page, "Kept here");
  assert.equal(await page.getByLabel("Message").inputValue(), "second");
  await until("the first", () => intake.events.length === 1);
});

test("what is kept has a bound, and the visitor's text stays in the form beyond it", async () => {
  line.set("down");
  const page = await open();
  const ids = await page.evaluate(() => Array.from({ length: 60 }, (_, i) => UserHero.send({ message: `m ${i}` })));
  assert.equal(ids.filter(Boolean).length, 50);
  assert.equal(await kept(page), 50);
  assert.equal(await page.evaluate(() => UserHero.send({ message: "x".repeat(20_000) })), undefined, "too long for a beacon");
  await write(page, "stays");
  await says(page, "No room.");
  assert.equal(await page.getByLabel("Message").inputValue(), "stays");
});

test("a page without storage sends all the same", async () => {
  const page = await open("&broken");
  await write(page, "no storage");
  await says(page, "Thank you!");
  await until("the event", () => intake.events.length === 1);
  assert.deepEqual(errors, []);
});

test("the keyboard is enough, and what is typed is not the page's", async () => {
  const page = await open();
  await page.evaluate(() => {
    window.heard = [];
    document.addEventListener("keydown", (event) => window.heard.push(event.key));
  });
  await page.keyboard.press("Tab"); // the link
  await page.keyboard.press("Tab"); // the button
  await page.keyboard.press("Enter");
  await page.getByRole("dialog", { name: "Feedback" }).waitFor();
  await page.keyboard.type("typed?");
  for (const _ of ["category", "rating", "send"]) await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await says(page, "Thank you!");
  await until("the event", () => intake.events.length === 1);
  assert.deepEqual(messages(), ["typed?"]);
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  assert.equal(await page.evaluate(() => document.activeElement.shadowRoot.activeElement.className), "o", "focus is back on the button");
  assert.deepEqual(await page.evaluate(() => window.heard.filter((key) => key.length === 1)), []);
});

test("it is dark where the visitor wants dark", async () => {
  const page = await open();
  const colours = async (colorScheme) => {
    await page.emulateMedia({ colorScheme });
    return page.getByRole("button", { name: "Feedback" }).evaluate((button) => {
      const { color, backgroundColor } = getComputedStyle(button);
      return { color, backgroundColor };
    });
  };
  const light = await colours("light");
  const dark = await colours("dark");
  assert.equal(light.backgroundColor, "rgb(255, 255, 255)");
  assert.equal(light.color, "rgb(0, 0, 0)");
  assert.notEqual(dark.backgroundColor, light.backgroundColor);
  assert.notEqual(dark.color, light.color);
});

test("the demonstration page works with the readable source", async () => {
  const page = await context.newPage();
  await page.goto(`${origin}/demonstration`);
  await write(page, "demonstrated");
  await says(page, "Thank you!");
  assert.equal(posted.length, 1);
  assert.deepEqual(errors, []);
});
