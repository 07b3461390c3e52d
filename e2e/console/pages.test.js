// Pages of the console: how large they get, what stands still, where the focus
// goes, what is said.
import assert from "node:assert/strict";
import test from "node:test";
import { context, openContext, receiver, relay, startRelay } from "./hooks.js";
import { axe, inFirefox, live, until } from "./relay.js";

test("with 200 webhooks and the largest feedback no page is higher than ten screens, or has more than 100 KiB", async () => {
  const webhooks = Array.from({ length: 199 }, (_, i) => `webhook more-${i} {\n url ${receiver.url}\n retry 1h\n}`).join("\n");
  await startRelay({ app: `webhook crm {\n url ${receiver.url}\n secret s\n retry 1h\n}\n${webhooks}`, intake: "max_body 256KiB" });
  await openContext();
  const page = await context.newPage();
  receiver.status = 503;
  const words = (n) => "Nothing works, and nobody answers. ".repeat(n);
  const ids = [
    await relay.submit({ message: words(2500), category: "bug", rating: 1 }),
    await relay.submit({ message: "x\n".repeat(30_000), rating: 2 }),
    await relay.submit({ message: "many members", metadata: Object.fromEntries(Array.from({ length: 4000 }, (_, i) => [`member ${i}`, i])), other: Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`further ${i}`, i])) }),
    await relay.submit({ message: "<'\"&".repeat(9000), context: { pageUrl: "https://example.com/" + "p".repeat(900) } }),
  ];
  const { items } = await (await fetch(`${relay.console}/api/events`)).json();
  const paths = ["/", "/feedback", "/events", "/events?webhook=crm", "/activity", "/webhooks/crm", ...ids.map((id) => `/feedback/${id}?project=proj_e2e`), ...items.map(({ id }) => `/events/${id}`)];
  for (let i = 1; i <= 8; i++) paths.push(`/webhooks?page=${i}`);
  const wrong = [];
  let whole = 0;
  for (const path of paths) {
    const bytes = (await (await page.goto(relay.console + path)).body()).length;
    if (bytes > 100 << 10) wrong.push(`${path} has ${bytes} bytes`);
    for (const size of [{ width: 1280, height: 900 }, { width: 390, height: 844 }]) {
      await page.setViewportSize(size);
      const { width, height } = await page.evaluate(() => ({ width: document.documentElement.scrollWidth, height: document.documentElement.scrollHeight }));
      if (width > size.width) wrong.push(`${path} scrolls sideways: ${width} px`);
      if (height > 10 * size.height) wrong.push(`${path} is ${(height / size.height).toFixed(1)} screens high at ${size.width} px`);
    }
    whole += await page.locator("main a", { hasText: "See the whole text" }).count();
  }
  assert.deepEqual(wrong, []);
  assert.ok(whole > 8, "what is cut off is whole elsewhere");
  await page.goto(`${relay.console}/feedback/${ids[0]}?project=proj_e2e`);
  await page.getByText("Show the rest of the message").click();
  await page.getByRole("link", { name: "See the whole text" }).click();
  await page.waitForURL(/\/document$/);
  assert.ok((await page.evaluate(() => document.body.innerText)).includes(words(2500)));
  assert.deepEqual(context.wrong, []);
});

test("WCAG 2.2.2: updates can be paused, and go on", async () => {
  await startRelay({ app: `webhook crm {\n url ${receiver.url}\n}` });
  await openContext();
  const page = await context.newPage();
  await page.goto(`${relay.console}/`);
  await live(page);
  await page.getByRole("button", { name: "Pause updates" }).click();
  const other = await context.newPage(); // hears of it for certain
  await other.goto(`${relay.console}/`);
  await live(other);
  await relay.submit("while it stands still");
  await other.getByRole("link", { name: "while it stands still" }).waitFor();
  assert.equal(await page.getByRole("link", { name: "while it stands still" }).count(), 0);
  await page.bringToFront();
  await page.getByRole("button", { name: "Go on updating" }).click();
  await page.getByRole("link", { name: "while it stands still" }).waitFor();
});

test("WCAG 2.4.3: the focus goes in the order of the page, and stays through updates", async () => {
  await startRelay({ app: `webhook crm {\n url ${receiver.url}\n retry 1h\n}` });
  await openContext();
  receiver.status = 503;
  await relay.submit("one");
  await relay.submit("two");
  await receiver.arrived("two");
  const page = await context.newPage();
  await page.goto(`${relay.console}/events?webhook=crm&state=retrying`);
  await live(page);
  const order = await page.evaluate(() => {
    const all = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")].filter((element) => element.checkVisibility() && element.type !== "hidden");
    return all.every((element, i) => element.tabIndex === 0 && (i === 0 || all[i - 1].compareDocumentPosition(element) & Node.DOCUMENT_POSITION_FOLLOWING));
  });
  assert.ok(order, "nothing changes the order of the focus");
  const choice = page.locator(".choice").nth(1);
  await choice.check();
  assert.ok(await choice.evaluate((box) => box === document.activeElement));
  await relay.submit("three");
  await page.locator(".news:not([hidden]) a", { hasText: "1 new" }).waitFor();
  assert.ok(await choice.evaluate((box) => box === document.activeElement && box.checked), "focus and choice stay");
  await page.getByRole("button", { name: "Send the chosen again" }).click();
  await page.getByRole("heading", { name: "Send 1 delivery again?" }).waitFor();
  receiver.status = 204;
  await page.getByRole("button", { name: "Send it again" }).click();
  await page.getByRole("heading", { name: "Done: 1 delivery was sent again. 1 delivered, 0 failed again." }).waitFor();
});

test("WCAG 3.3.1: an error is said in text at its field, which has the focus", async () => {
  await startRelay({});
  await openContext();
  const page = await context.newPage();
  await page.goto(`${relay.console}/add`);
  await page.getByLabel("URL of the receiver").fill(receiver.url);
  await page.getByText("Only some events").click();
  await page.getByLabel("Filter").fill("data.rating <");
  await page.getByRole("button", { name: "Next: the secret" }).click();
  await page.getByText("1 field is wrong").waitFor();
  const field = page.getByLabel("Filter");
  assert.ok(await field.evaluate((input) => input === document.activeElement && input.getAttribute("aria-invalid") === "true"));
  const text = await field.evaluate((input) => document.getElementById(input.getAttribute("aria-describedby")).textContent);
  assert.match(text, /^At character 14/);
  assert.equal(await field.inputValue(), "data.rating <", "what was written stays");
});

test("keys move between rows, search and explain themselves, and can be turned off", async () => {
  await startRelay({ app: `webhook crm {\n url ${receiver.url}\n retry 1h\n}` });
  await openContext();
  receiver.status = 503;
  for (const message of ["first", "second"]) await relay.submit(message);
  await receiver.arrived("second");
  const page = await context.newPage();
  await page.goto(`${relay.console}/events?webhook=crm`);
  const focused = () => page.evaluate(() => document.activeElement.textContent || document.activeElement.name);
  await page.keyboard.press("j");
  assert.equal(await focused(), "second");
  await page.keyboard.press("j");
  assert.equal(await focused(), "first");
  await page.keyboard.press("k");
  assert.equal(await focused(), "second");
  await page.keyboard.press("r");
  assert.ok(await page.locator(".choice").first().isChecked());
  await page.keyboard.press("/");
  assert.equal(await focused(), "q");
  await page.keyboard.type("j/?");
  assert.equal(await page.getByLabel("Search").inputValue(), "j/?", "a key is a letter where somebody types");
  await page.goto(`${relay.console}/events?webhook=crm`);
  await page.keyboard.press("?");
  await page.getByRole("dialog", { name: "Keys" }).waitFor();
  assert.deepEqual(await axe(page), []);
  await page.getByLabel("Turn these keys off").check();
  await page.getByRole("button", { name: "Close" }).click();
  await page.keyboard.press("j");
  assert.notEqual(await focused(), "second", "the keys are off");
  assert.deepEqual(context.wrong, []);
});

test("titles and icon count what fails, times are local", async () => {
  await startRelay({ app: `webhook crm {\n url ${receiver.url}\n retry none\n}` });
  await openContext({ timezoneId: "Asia/Tokyo", locale: "en-GB" });
  const page = await context.newPage();
  await page.goto(`${relay.console}/`);
  await live(page);
  assert.match(await page.title(), /^Overview/);
  receiver.status = 500;
  await relay.submit("fails");
  await page.waitForFunction(() => document.title.startsWith("(1) Overview") && document.querySelector("link[rel=icon]").href.includes("icon-1.svg"));
  const icon = await page.evaluate(async () => (await (await fetch(document.querySelector("link[rel=icon]").href)).text()).includes(">1</text>"));
  assert.ok(icon);
  const time = page.locator("main .how time").first();
  assert.match(await time.getAttribute("title"), /\d\d:\d\d:\d\d (GMT\+9|JST)$/);
  // A tap shows times in full, and so does print.
  const width = async () => (await time.boundingBox()).width;
  const short = await width();
  await time.click();
  const full = await width();
  assert.ok(full > short + 50, `${short} px, after a click ${full} px`);
  await time.click();
  assert.ok((await width()) < full);
  if (!inFirefox) {
    await page.emulateMedia({ media: "print" });
    assert.ok((await width()) > short + 50);
    assert.equal(await page.locator("nav:visible, button:visible").count(), 0, "what cannot be used on paper is left out");
  }
  assert.deepEqual(context.wrong, []);
});

test("without shared workers one page has the connection for all, another takes over, and hidden pages let it go", async () => {
  await startRelay({ app: `webhook crm {\n url ${receiver.url}\n}` });
  await openContext();
  await context.addInitScript(() => delete window.SharedWorker);
  const streams = [];
  const ended = new Set();
  context.on("request", (request) => request.url().endsWith("/api/stream") && streams.push(request));
  for (const event of ["requestfailed", "requestfinished"]) context.on(event, (request) => ended.add(request));
  const tabs = [];
  for (let i = 0; i < 4; i++) {
    const tab = await context.newPage();
    await tab.goto(`${relay.console}/`);
    await live(tab);
    tabs.push(tab);
  }
  assert.equal(streams.length, 1);
  await relay.submit("for all tabs");
  for (const tab of tabs) await tab.getByRole("link", { name: "for all tabs" }).waitFor();
  await tabs.shift().close();
  for (const tab of tabs) await live(tab);
  await relay.submit("after the first has gone");
  for (const tab of tabs) await tab.locator(".news:not([hidden]) a", { hasText: "1 new" }).waitFor();
  assert.equal(streams.length, 2);
  const show = (tab, hidden) =>
    tab.evaluate((hidden) => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }, hidden);
  for (const tab of tabs) await show(tab, true);
  // Firefox's driver does not report the end of a stream.
  if (!inFirefox) await until("no page has the connection", () => streams.slice(1).every((stream) => ended.has(stream)));
  const before = streams.length;
  await show(tabs[0], false);
  await until("the page that is shown connects", () => streams.length > before);
  assert.deepEqual(context.wrong, []);
});
