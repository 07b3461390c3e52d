// The widget in a browser, with the network cut in between. RELAY_CADDY names the
// binary to test against instead of the intake in this process; BROWSER the browser,
// chromium or firefox; CHROMIUM and FIREFOX where they are.
import assert from "node:assert/strict";
import http from "node:http";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import test, { after, afterEach, before, beforeEach } from "node:test";
import { chromium } from "playwright-core";
import { Intake, Line, Relay, listen } from "./intake.js";
import { minified } from "./minified.js";

const AXE = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src *";
const real = process.env.RELAY_CADDY;
const inFirefox = process.env.BROWSER === "firefox";
// For answers that the real relay gives under overload only, for counting requests, and
// for what does not depend on the relay.
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

let browser, scripts, site, origin; // for all tests
let intake, line, context, errors, posted; // for one

// The host page is on another origin than the intake, with a strict policy. Its
// language and further attributes of the widget come with its address.
const serve = (request, response) => {
  const { pathname, searchParams } = new URL(request.url, origin);
  if (scripts[pathname]) return response.setHeader("Content-Type", "text/javascript; charset=utf-8").end(scripts[pathname]);
  if (pathname === "/feedback") return response.writeHead(202).end(posted.push(pathname).toString());
  response.setHeader("Content-Type", "text/html");
  if (pathname === "/demonstration") return response.end(scripts.demonstration);
  response.setHeader("Content-Security-Policy", POLICY);
  if (pathname !== "/page") return response.end("<!doctype html><title>elsewhere</title>");
  const broken = searchParams.has("broken") ? "<script src=/broken.js></script>" : "";
  response.end(
    `<!doctype html><html lang="${searchParams.get("lang") ?? "en"}"><title>host</title>` +
      `<meta name=viewport content="width=device-width"><body><main><h1>Host page</h1><a href=#x>first link</a></main>${broken}` +
      `<script src=/words.js></script>` +
      `<script src=/widget.js data-endpoint="${line.url}" data-project=proj_test data-widget=w_test ${searchParams.get("attributes") ?? ""}></script></html>`,
  );
};

// What browsers do where a visitor has forbidden storage.
const BROKEN = `Object.defineProperty(window, "localStorage", { get() { throw new DOMException("denied", "SecurityError"); } });`;

before(async () => {
  const file = (name) => readFile(new URL(`../${name}`, import.meta.url));
  scripts = {
    "/widget.js": await minified("userhero-widget.js"),
    "/words.js": await minified("userhero-words.js"),
    "/broken.js": BROKEN,
    "/userhero-widget.js": await file("userhero-widget.js"),
    "/userhero-words.js": await file("userhero-words.js"),
    demonstration: await file("index.html"),
  };
  site = http.createServer(serve);
  origin = `http://127.0.0.1:${await listen(site)}`;
  browser = inFirefox
    ? await (await import("../../../e2e/console/firefox.js")).launch()
    : await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: CHROMIUM_FLAGS });
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
  // Firefox asks for the icon of a page that names none, which the policy refuses.
  context.on("weberror", (error) => String(error.error()).includes("/favicon.ico") || errors.push(error.error()));
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

const choose = async (page) => {
  await page.getByLabel("Category").selectOption({ label: "Bug" });
  await page.getByRole("radio", { name: "2" }).check();
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
  await choose(page);
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
    await choose(page);
    await write(page, "refused");
    await says(page, "Not accepted.");
    const form = async () => [
      await page.getByLabel("Message").inputValue(),
      await page.getByLabel("Category").inputValue(),
      (await page.locator("input:checked").count()) && (await page.locator("input:checked").inputValue()),
    ];
    assert.deepEqual(await form(), ["refused", "bug", "2"]);
    await page.close();
    page = await open();
    assert.equal(await kept(page), 1);
    await page.getByRole("button", { name: "Feedback" }).click();
    assert.deepEqual(await form(), ["refused", "bug", "2"]);
    await write(page, "changed");
    await says(page, "Thank you!");
    assert.deepEqual(await form(), ["", "", 0]);
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
  if (!inFirefox) await says(page, "Kept here"); // Firefox sends by itself what a closed connection took
  await until("the first", () => intake.events.length === 1);
  assert.equal(await page.getByLabel("Message").inputValue(), "second");
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
  assert.equal(await page.evaluate(() => document.activeElement.shadowRoot.activeElement.id), "o", "focus is back on the button");
  assert.deepEqual(await page.evaluate(() => window.heard.filter((key) => key.length === 1)), []);
});

for (const [lang, label, message, category, rating, thanks] of [
  ["en-GB", "Feedback", "Message", "Bug", "Rating", "Thank you!"],
  ["de-CH", "Feedback", "Nachricht", "Fehler", "Bewertung", "Danke!"],
  ["fr", "Votre avis", "Message", "Problème", "Note", "Merci !"],
  ["es-MX", "Comentarios", "Mensaje", "Error", "Valoración", "¡Gracias!"],
  ["ja", "ご意見", "メッセージ", "不具合", "評価", "ありがとうございます。"],
])
  simulated(`it speaks the page's language: ${lang}`, async () => {
    const page = await open(`&lang=${lang}`);
    await page.getByRole("button", { name: label }).click();
    const dialog = page.getByRole("dialog", { name: label });
    await dialog.getByLabel(message).fill("words");
    await dialog.getByRole("combobox").selectOption({ label: category });
    await dialog.getByRole("group", { name: rating }).getByRole("radio", { name: "5" }).check();
    await dialog.getByRole("button").first().click();
    await says(page, thanks);
    await until("the event", () => intake.events.length === 1);
    assert.equal(intake.events[0].category, "bug", "what is sent is the same in every language");
  });

simulated("a page brings words of its own; without any the widget is marked as English", async () => {
  const words = "Opinioni|Testo|Tema|Guasto|Idea|Domanda|Voto|Invia|Chiudi|Grazie!|Rifiutato.|Salvato.|Invio|Pieno.";
  const own = await open(`&lang=it&attributes=${encodeURIComponent(`data-words="${words}"`)}`);
  await own.getByRole("button", { name: "Opinioni" }).click();
  await own.getByLabel("Testo").fill("proprie parole");
  await own.getByRole("button", { name: "Invia" }).click();
  await says(own, "Grazie!");
  const label = await open(`&lang=de&attributes=${encodeURIComponent('data-label="Ihre <Meinung>"')}`);
  await label.getByRole("button", { name: "Ihre <Meinung>" }).waitFor();
  const none = await open("&lang=it");
  const button = none.getByRole("button", { name: "Feedback" });
  assert.equal(await button.evaluate((element) => element.getRootNode().host.lang), "en");
});

simulated("stars are chosen by keyboard and filled up to the choice", async () => {
  const page = await open();
  await page.getByRole("button", { name: "Feedback" }).click();
  await page.getByRole("radio", { name: "1" }).check();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowRight");
  const stars = await page.getByRole("radio").evaluateAll((radios) => radios.map((radio) => getComputedStyle(radio, "::after").content));
  assert.deepEqual(stars, ['"★"', '"★"', '"★"', '"☆"', '"☆"']);
  await write(page, "three stars");
  await says(page, "Thank you!");
  await until("the event", () => intake.events.length === 1);
  assert.equal(intake.events[0].rating, 3);
});

for (const [name, media, size] of [
  ["in light", { colorScheme: "light" }],
  ["in dark", { colorScheme: "dark" }],
  ["in forced colours", { forcedColors: "active" }],
  ["at 390 px", {}, { width: 390, height: 844 }],
  ["at 200 % zoom", {}, { width: 640, height: 400 }], // of a window of 1280 x 800
  ["at 400 % zoom", {}, { width: 320, height: 256 }],
].filter(([, { forcedColors }]) => !(inFirefox && forcedColors))) // its driver cannot force colours
  simulated(`axe finds nothing, everything fits and is large enough ${name}`, async () => {
    const page = await open();
    await page.emulateMedia(media);
    if (size) await page.setViewportSize(size);
    const check = async () => {
      await page.evaluate(AXE);
      const { violations, incomplete } = await page.evaluate(() =>
        axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }),
      );
      assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html)}`), []);
      return incomplete.map(({ id }) => id);
    };
    await check();
    await page.getByRole("button", { name: "Feedback" }).click();
    await page.getByRole("radio", { name: "4" }).check();
    await check();
    const narrow = await page.getByRole("dialog").evaluate((dialog) => {
      const { left, right } = dialog.getBoundingClientRect();
      return {
        page: document.documentElement.scrollWidth <= innerWidth,
        dialog: left >= 0 && right <= innerWidth && dialog.scrollWidth <= dialog.clientWidth,
        small: [...dialog.querySelectorAll("button,textarea,select,input")].filter((element) => {
          const { width, height } = element.getBoundingClientRect();
          return Math.min(width, height) < 24; // WCAG 2.5.8
        }).length,
      };
    });
    assert.deepEqual(narrow, { page: true, dialog: true, small: 0 });
    for (const name of ["Send", "Close"]) {
      await page.getByRole("button", { name }).focus();
      const hidden = await page.getByRole("button", { name }).evaluate((button) => {
        const { left, top, width, height } = button.getBoundingClientRect();
        return button.getRootNode().elementFromPoint(left + width / 2, top + height / 2) !== button;
      });
      assert.equal(hidden, false, `${name} is in view when it has the focus`); // WCAG 2.4.11
    }
  });

// Firefox's driver cannot set the colour scheme.
(inFirefox ? () => {} : test)("it is dark where the visitor wants dark", async () => {
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

// What the form without script sends, and the page that thanks, are the relay's.
// Firefox's driver cannot turn script off.
if (real && !inFirefox)
  for (const [locale, lang, thanks] of [
    ["en-US", "en", "Thank you"],
    ["de-CH", "de", "Danke"],
    ["fr-FR", "fr", "Merci"],
    ["es-MX", "es", "Gracias"],
    ["ja-JP", "ja", "ありがとうございます"],
    ["it-IT", "en", "Thank you"],
  ])
    test(`without script a form is there, and a page that thanks: ${locale}`, async () => {
      const plain = await browser.newContext({ javaScriptEnabled: false, locale });
      try {
        const page = await plain.newPage();
        await page.goto(`http://127.0.0.1:${intake.port}/index.html`);
        assert.equal(await page.getByRole("button", { name: "Feedback" }).count(), 0);
        await page.getByLabel("Message").fill("without script");
        await page.getByLabel("Category").selectOption("feature");
        await page.getByRole("radio", { name: "4" }).check();
        await page.getByRole("button", { name: "Send" }).click();
        await page.getByRole("heading", { name: thanks }).waitFor();
        assert.equal(await page.locator("html").getAttribute("lang"), lang);
        await until("the event", () => intake.events.length === 1);
        const [{ message, category, rating, projectId, widgetId, context: about }] = intake.events;
        assert.deepEqual([message, category, rating, projectId, widgetId, about.pageUrl], ["without script", "feature", 4, "proj_demo", "w_demo", "/"]);
      } finally {
        await plain.close();
      }
    });

test("the demonstration page works with the readable source", async () => {
  const page = await context.newPage();
  await page.goto(`${origin}/demonstration`);
  await write(page, "demonstrated");
  await says(page, "Thank you!");
  assert.equal(posted.length, 1);
  assert.deepEqual(errors, []);
});
