// The console in a browser, over the built Caddy: what an owner of feedback does
// from the first webhook to the last. RELAY_CADDY names the binary, if it is not
// ../../caddy; BROWSER the browser: chromium, or firefox.
import assert from "node:assert/strict";
import test from "node:test";
import { context, openContext, receiver, relay, startRelay } from "./hooks.js";
import { axe, live } from "./relay.js";

const says = (page, text) => page.getByText(text).first().waitFor();
const press = (page, name) => page.getByRole("button", { name, exact: true }).click();

// accessible holds a page against the rules for screen readers. axe.test.js does so in
// all looks.
const accessible = async (page) => assert.deepEqual(await axe(page), [], page.url());

// narrow holds a page against a phone's width.
const narrow = async (page) => {
  const size = page.viewportSize();
  await page.setViewportSize({ width: 390, height: 844 });
  const { scrollWidth, clientWidth } = await page.evaluate(() => ({ scrollWidth: document.documentElement.scrollWidth, clientWidth: document.documentElement.clientWidth }));
  assert.equal(scrollWidth, clientWidth, `${page.url()} scrolls sideways on a phone`);
  await page.setViewportSize(size);
};

// sound is all that must hold of every page.
const sound = async (page) => {
  await accessible(page);
  await narrow(page);
};

test("the whole path of a webhook: add, test, save, see it delivered, break, repair, redeliver, pause, delete", async () => {
  await startRelay();
  await openContext();
  const page = await context.newPage();

  // With no webhook, the first page is the wizard.
  await page.goto(relay.console);
  await page.getByRole("heading", { name: "Where should feedback go?" }).waitFor();
  await sound(page);
  await page.getByLabel("URL of the receiver").fill(receiver.url);
  await page.getByRole("textbox", { name: /^Name/ }).fill("crm");
  await press(page, "Next: the secret");
  const secret = await page.getByLabel("Secret").inputValue();
  assert.match(secret, /^whsec_/);
  await page.getByText("timingSafeEqual").first().waitFor();
  await sound(page);
  receiver.status = 404;
  await press(page, "Next: test it");
  await says(page, "It does not work yet: answered 404 Not Found");
  await says(page, "There is nothing at this path");
  receiver.status = 200;
  await press(page, "Test again");
  await says(page, "It works: the receiver answered 200 OK");
  await says(page, "this is status 200");
  await sound(page);
  assert.equal(receiver.arrivals.at(-1).headers["x-userhero-test"], "true");
  await press(page, "Save");
  await page.getByRole("heading", { name: "crm" }).waitFor();
  await says(page, "Webhook crm added.");

  // With no event, the list says how to make one; then it comes by itself.
  const events = await context.newPage();
  await events.goto(`${relay.console}/events`);
  await says(events, "curl http://127.0.0.1");
  await sound(events);
  await live(events);
  await relay.submit({ message: "The export button does nothing", category: "bug", rating: 2, metadata: { plan: "pro" } });
  await events.getByRole("link", { name: "The export button does nothing" }).waitFor();
  await events.locator(".event .mark.good", { hasText: "Delivered" }).waitFor();
  await sound(events);
  await live(page);
  await page.locator(".card .mark.good", { hasText: "Active" }).waitFor();

  // The receiver breaks: where the delivery stands is drawn, and it can be hurried.
  receiver.status = 503;
  await relay.submit("broken");
  await says(page, "you are here");
  await page.getByRole("img", { name: "The ladder of 6 attempts: 1 failed, the next is number 2" }).waitFor();
  await page.locator(".here", { hasText: "Sending in" }).waitFor();
  await says(page, "The receiver is not available at the moment.");
  await sound(page);
  receiver.status = 200;
  await press(page, "Retry now");
  await says(page, "Queued again. It will be sent to crm as soon as possible.");
  await page.locator(".card .mark.good", { hasText: "Active" }).waitFor();

  // Without retries one failure is the last: the webhook is failing.
  await page.getByRole("link", { name: "Settings" }).click();
  await sound(page);
  await page.getByLabel("Retries after").fill("");
  await press(page, "Save");
  await says(page, "Settings saved.");
  await page.getByRole("link", { name: "Charts" }).click();
  await says(page, "503 Service Unavailable");
  await sound(page);
  await page.getByRole("link", { name: "Deliveries" }).click();
  await live(page);
  receiver.status = 500;
  await relay.submit("given up");
  await page.locator(".card .mark.bad", { hasText: "Failing" }).waitFor();
  await says(page, "answered 500 Internal Server Error");
  await sound(page);
  await events.goto(`${relay.console}/`);
  await events.getByRole("heading", { name: "0 of 1 webhook healthy" }).waitFor();
  await sound(events);

  // Repaired, what was given up is delivered again, from its own page.
  receiver.status = 200;
  await events.getByRole("link", { name: "given up" }).click();
  await says(events, "Failed after 1 attempt");
  assert.match(await events.title(), /^\(1\) given up/);
  await sound(events);
  await events.locator(".deliveries").getByRole("link", { name: "crm" }).click();
  await says(events, "Failed after 1 attempt");
  await sound(events);
  await live(events);
  await press(events, "Redeliver");
  await says(events, /^Queued again\./); // whether it does not answer yet or does again
  await events.locator(".tabs .mark.good", { hasText: "Delivered" }).waitFor();
  await events.getByRole("link", { name: /^2/ }).click();
  await says(events, "Attempt 2: 200 OK");
  await events.getByLabel("Secret").fill(secret);
  await press(events, "Check");
  await says(events, "The signature is right");
  await sound(events);
  await page.locator(".card .mark.good", { hasText: "Active" }).waitFor();

  // Paused, it misses an event, which is counted before it is sent.
  await press(page, "Pause");
  await says(page, "Paused by you");
  await relay.submit("missed");
  await press(page, "Resume");
  await page.getByLabel("What").selectOption({ label: "failed or missed in the last hour" });
  await press(page, "Count first");
  await page.getByRole("heading", { name: "1 delivery would be sent again." }).waitFor();
  await sound(page);
  await press(page, "Send it again");
  await page.getByRole("heading", { name: "Done: 1 delivery was sent again. 1 delivered, 0 failed again." }).waitFor();
  await receiver.arrived("missed");
  await sound(page);
  await page.getByRole("link", { name: "crm" }).click();

  // Deleting asks first.
  await page.getByRole("link", { name: "Delete" }).click();
  await page.getByRole("heading", { name: "Delete the webhook crm?" }).waitFor();
  await sound(page);
  await page.getByRole("link", { name: "Keep it" }).click();
  await page.getByRole("link", { name: "Delete" }).click();
  await press(page, "Delete crm");
  await says(page, "Webhook crm deleted.");
  await says(page, "There is no webhook yet.");
  await sound(page);
  await page.getByRole("link", { name: "Activity" }).click();
  await says(page, "Webhook deleted");
  await says(page, /^Paused$/);
  await sound(page);
  assert.deepEqual(context.wrong, []);
});

// Text that closes whatever it may stand in, and markup that only script of the
// pages would give a meaning.
const POLYGLOT =
  `jaVasCript:/*-/*\`/*\\\`/*'/*"/**/(/* */oNcliCk=alert() )//%0D%0A%0d%0a//</stYle/</titLe/</teXtarEa/</scRipt/--!>` +
  `\x3csVg/<sVg/oNloAd=alert()//>\x3e"><img src=x onerror=alert(1)><p hx-get="/relay/api/status" hx-trigger="load" hx-on:htmx:load="alert(2)">` +
  `<div sse-connect="//evil.example/"></div>{{constructor.constructor('alert(3)')()}}${"long".repeat(60)}`;

test("what people write is text, on every page", async () => {
  await startRelay({ app: `webhook crm {\n url ${receiver.url}\n secret s\n}` });
  await openContext();
  const page = await context.newPage();
  const requests = [];
  page.on("request", (request) => requests.push(request.url()));
  await page.goto(`${relay.console}/events`);
  await live(page);
  await relay.submit({
    message: POLYGLOT, category: POLYGLOT, status: POLYGLOT,
    screenshotUrl: "https://example.com/'onmouseover='alert(5)", context: { pageUrl: `javascript:alert(6)//${POLYGLOT}` }, metadata: { [POLYGLOT]: POLYGLOT },
  });
  await receiver.arrived("evil.example");
  await page.locator(".event .what", { hasText: "jaVasCript" }).waitFor(); // live
  await narrow(page);
  for (const path of ["/", "/events", "/webhooks/crm", `/events?q=${encodeURIComponent(POLYGLOT.slice(0, 80))}`, `/webhooks?q=${encodeURIComponent(POLYGLOT)}`]) {
    await page.goto(relay.console + path);
    assert.equal(await page.locator("main img, main script, main [hx-on\\:htmx\\:load], main svg[onload], main p[hx-get], main div[sse-connect]").count(), 0, path);
    await narrow(page);
  }
  await page.goto(`${relay.console}/events`);
  await page.getByRole("link", { name: "jaVasCript" }).click();
  await page.getByRole("heading", { name: "Metadata" }).waitFor();
  assert.equal((await page.getByRole("heading", { level: 1 }).textContent()).replace(/\s+/g, " "), POLYGLOT.replace(/\s+/g, " "));
  assert.equal(await page.locator("main img, main script, main [hx-on\\:htmx\\:load], main p[hx-get]").count(), 0);
  await sound(page);
  await page.locator(".deliveries").getByRole("link", { name: "crm" }).click();
  await page.getByText("Send the same request with curl").click();
  assert.equal((await page.getByRole("heading", { level: 1 }).textContent()).replace(/\s+/g, " "), POLYGLOT.replace(/\s+/g, " "));
  assert.equal(await page.locator("main img, main script, main [hx-on\\:htmx\\:load], main p[hx-get]").count(), 0);
  await sound(page);
  assert.deepEqual(requests.filter((url) => !url.startsWith(relay.site)), [], "nothing is asked of others");
  assert.deepEqual(context.wrong, []);

  // Were there markup, the policy would keep it from doing anything, and this
  // test would hear of it.
  await page.evaluate(() => document.querySelector("main").insertAdjacentHTML("beforeend", `<p style="color:red" onclick="alert()">x</p><img src="https://evil.example/x">`));
  await page.locator("main > p").last().click();
  const heard = () => ["style-src", "script-src", "img-src"].filter((directive) => context.wrong.some((text) => text.startsWith(`policy: ${directive}`)));
  while (heard().length < 3) await page.evaluate(() => new Promise(requestAnimationFrame));
  assert.equal(context.wrong.filter((text) => text === "alert").length, 0);
});

test("the essentials work without script", async () => {
  await startRelay();
  await openContext({ javaScriptEnabled: false });
  const page = await context.newPage();
  await page.goto(relay.console);
  await page.getByLabel("URL of the receiver").fill(receiver.url);
  await press(page, "Next: the secret");
  await page.getByLabel("Secret").fill("my own secret");
  await press(page, "Next: test it");
  await says(page, "It works");
  await press(page, "Save");
  await says(page, "added. New events that match its settings are sent to it.");
  receiver.status = 503;
  await relay.submit("without script");
  await receiver.arrived("without script");
  await page.getByRole("link", { name: "Events", exact: true }).click();
  await page.getByLabel("Search").fill("WITHOUT");
  await press(page, "Search");
  await page.getByRole("link", { name: "without script" }).click();
  receiver.status = 200;
  await page.getByRole("button", { name: /^Retry now/ }).click();
  await says(page, "Queued again.");
  await page.getByRole("link", { name: "Webhooks" }).first().click();
  await press(page, "Pause 127-0-0-1-" + new URL(receiver.url).port);
  await says(page, "Paused by you");
  await page.getByRole("link", { name: /^Delete/ }).click();
  await page.getByRole("button", { name: /^Delete/ }).click();
  await says(page, "No delivery was waiting for it.");
  assert.equal(await page.locator("[data-copy]:visible, #live-state:visible").count(), 0, "what needs script is not offered");
  assert.deepEqual(context.wrong, []);
});

test("the keyboard is enough, and keeps its place while the page changes under it", async () => {
  await startRelay({ app: `webhook crm {\n url ${receiver.url}\n}` });
  await openContext();
  const page = await context.newPage();
  await page.goto(`${relay.console}/`);
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  await page.keyboard.press("Tab"); // Add a webhook
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.id), "hook-crm");
  await live(page);
  await relay.submit("while the focus is elsewhere");
  await page.getByRole("link", { name: "while the focus is elsewhere" }).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "hook-crm", "the focus stays");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { level: 1, name: "crm" }).waitFor();
  await page.keyboard.press("Tab");
  const ring = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.equal(ring, "solid", "the focus is seen");
  assert.deepEqual(context.wrong, []);
});

test("a console that is closed says what opens it", async () => {
  await startRelay({ console: "" });
  await openContext();
  const page = await context.newPage();
  assert.equal((await page.goto(`${relay.console}/webhooks/crm`)).status(), 403);
  await page.getByRole("heading", { name: "The console is closed" }).waitFor();
  await says(page, "basic_auth");
  await sound(page);
  assert.deepEqual(context.wrong.filter((text) => !text.includes("403")), []);
});

// news is what a list announces.
const news = (page, text) => page.locator(".news:not([hidden]) a", { hasText: text });

test("eight tabs over plain HTTP all work", async () => {
  await startRelay({ app: `webhook crm {\n url ${receiver.url}\n}` });
  await openContext();
  const tabs = [];
  for (let i = 0; i < 8; i++) {
    const tab = await context.newPage();
    await tab.goto(`${relay.plain}/`);
    assert.equal(await tab.evaluate(() => isSecureContext), false);
    await live(tab);
    tabs.push(tab);
  }
  await relay.submit("for all tabs");
  for (const tab of tabs) await tab.getByRole("link", { name: "for all tabs" }).waitFor();
  // Tabs that are closed leave the others what they have.
  for (const tab of tabs.splice(0, 7)) await tab.close();
  await relay.submit("for the last tab");
  await news(tabs[0], "1 new").waitFor();
  assert.deepEqual(context.wrong, []);
});

test("a page says when the relay is away, and goes on when it is back", async () => {
  await startRelay({ app: `webhook crm {\n url ${receiver.url}\n}` });
  await openContext();
  const page = await context.newPage();
  await page.goto(`${relay.console}/`);
  await live(page);
  await page.getByRole("heading", { name: "The webhook is healthy" }).waitFor();
  await relay.kill();
  await page.getByRole("alert").filter({ hasText: /Connection lost, as of \d/ }).waitFor();
  await page.getByRole("heading", { name: "No connection to the relay." }).waitFor();
  assert.equal(await page.getByText("healthy").count(), 0, "nothing says that all is well");
  assert.equal(await page.locator("#live-state:visible").count(), 0);
  await accessible(page);
  await relay.again();
  await page.getByRole("heading", { name: "The webhook is healthy" }).waitFor();
  await live(page);
  assert.equal(await page.locator("#lost:visible").count(), 0);
  await relay.submit("after the return");
  await page.getByRole("link", { name: "after the return" }).waitFor();
});

test("what is read does not move: new rows are announced, focus and selection stay", async () => {
  await startRelay({ app: `webhook crm {\n url ${receiver.url}\n retry 1h\n}` });
  await openContext();
  receiver.status = 503;
  for (let i = 0; i < 5; i++) await relay.submit(`row ${i}`);
  const page = await context.newPage();
  await page.goto(`${relay.console}/events`);
  await live(page);
  await page.locator(".event .mark.wait", { hasText: "Sending in" }).nth(4).waitFor();
  const rows = () => page.locator("#rows > li .message").allTextContents();
  const before = await rows();
  assert.equal(before.length, 5);
  const link = page.getByRole("link", { name: "row 2" });
  await link.focus();
  const top = (await link.boundingBox()).y;
  await page.evaluate(() => {
    getSelection().selectAllChildren(document.querySelectorAll("#rows .message")[3]);
    document.querySelectorAll("#rows > li")[2].same = "yes";
  });

  receiver.status = 204;
  for (let i = 0; i < 3; i++) await relay.submit(`newer ${i}`);
  await news(page, "3 new").waitFor();
  assert.deepEqual(await rows(), before);
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "row 2", "the focus stays");
  assert.equal(await page.evaluate(() => getSelection().toString()), before[3], "the selection stays");
  assert.equal((await link.boundingBox()).y, top, "the row stays where it is");

  // What is shown goes on to be true.
  const address = await link.getAttribute("id");
  const { deliveries } = await (await fetch(`${relay.console}/api/events/${address}`)).json();
  await fetch(`${relay.console}/api/deliveries/${deliveries[0].id}/redeliver`, { method: "POST" });
  await page.locator("#rows > li", { hasText: "row 2" }).locator(".mark.good").waitFor();
  assert.equal(await page.evaluate(() => document.querySelectorAll("#rows > li")[2].same), "yes", "the row is the same element");
  await accessible(page);

  await page.getByRole("link", { name: "3 new" }).click();
  await page.getByRole("link", { name: "newer 2" }).waitFor();
  assert.deepEqual((await rows()).slice(0, 3), ["newer 2", "newer 1", "newer 0"]);

  // In a list of one state, what leaves the state stays where it is, marked.
  await page.goto(`${relay.console}/events?state=retrying`);
  await live(page);
  assert.equal((await rows()).length, 4);
  const other = (await page.locator("#rows > li").nth(1).getAttribute("id")).slice("row-".length);
  await fetch(`${relay.console}/api/deliveries/${other}/redeliver`, { method: "POST" });
  await page.locator("#rows > li.past").waitFor();
  assert.equal((await rows()).length, 4);
  assert.deepEqual(context.wrong, []);
});

test("copying works where the browser gives no clipboard", async () => {
  await startRelay();
  await openContext();
  const page = await context.newPage();
  await page.goto(`${relay.plain}/add`);
  assert.equal(await page.evaluate(() => navigator.clipboard), undefined);
  await page.getByLabel("URL of the receiver").fill(receiver.url);
  await press(page, "Next: the secret");
  const secret = await page.getByLabel("Secret").inputValue();
  await press(page, "Copy");
  await press(page, "Copied");
  await page.getByLabel("Secret").fill("");
  await page.getByLabel("Secret").focus();
  await page.keyboard.press("Control+V");
  assert.equal(await page.getByLabel("Secret").inputValue(), secret);
  await press(page, "Next: test it");
  await press(page, "Save");
  await page.getByRole("link", { name: "Settings" }).click();
  await press(page, "Change the secret");
  const shown = await page.locator("#secret").textContent();
  await press(page, "Copy");
  await press(page, "Copied");
  await page.getByLabel("Own secret").focus();
  await page.keyboard.press("Control+V");
  assert.equal(await page.getByLabel("Own secret").inputValue(), shown);
  assert.deepEqual(context.wrong, []);
});

test("neither reload nor the way back sends a form again, and errors have the focus", async () => {
  await startRelay();
  await openContext();
  const page = await context.newPage();
  await page.goto(`${relay.console}/add`);
  await page.getByLabel("URL of the receiver").fill(receiver.url + "?token=canary");
  await page.getByRole("textbox", { name: /^Name/ }).fill("crm");
  await press(page, "Next: the secret");
  await press(page, "Next: test it");
  await says(page, "It works");
  const sent = receiver.arrivals.length;
  await page.reload();
  await says(page, "It works");
  await page.goBack();
  assert.match(await page.getByLabel("Secret").inputValue(), /^whsec_/);
  assert.equal(receiver.arrivals.length, sent);
  await page.goForward();
  await press(page, "Save");
  await page.getByRole("link", { name: "Settings" }).click();
  await press(page, "Change the secret");
  await says(page, "Secret changed. The old secret also works for 24 hours.");
  await sound(page);
  await page.reload();
  await says(page, "was shown here once");
  assert.equal(await page.locator("#secret").count(), 0);
  await page.goto(`${relay.console}/activity`);
  assert.equal(await page.getByText("Secret changed").count(), 1, "it was changed once");

  await page.goto(`${relay.console}/webhooks/crm/settings`);
  await page.getByLabel("URL").fill(`${receiver.url}/moved?...`);
  await page.getByLabel("Filter").fill("data.rating <");
  await press(page, "Save");
  await says(page, "Nothing was saved. 1 field is wrong");
  assert.equal(await page.evaluate(() => document.activeElement.name), "filter");
  assert.ok(await page.getByLabel("Filter").evaluate((field) => field.getBoundingClientRect().top < innerHeight), "the field is seen");
  await says(page, "At character 14");
  await sound(page);
  await page.getByLabel("Filter").fill("data.rating < 3");
  await press(page, "Save");
  await says(page, "Settings saved.");
  await press(page, "Test");
  await says(page, "It works");
  assert.match(receiver.arrivals.at(-1).url, /moved\?token=canary$/);
  assert.deepEqual(context.wrong.filter((text) => !text.includes("422")), []);
});
