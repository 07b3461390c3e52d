// The main path in Firefox, driven by WebDriver BiDi. FIREFOX names the browser, where
// it is not Debian's firefox-esr.
import assert from "node:assert/strict";
import test, { after, before } from "node:test";
import puppeteer from "puppeteer-core";
import { Receiver, Relay } from "./relay.js";

let browser, relay, receiver;

before(async () => {
  receiver = await new Receiver().start();
  browser = await puppeteer.launch({ browser: "firefox", executablePath: process.env.FIREFOX || "/usr/bin/firefox-esr", headless: true, protocol: "webDriverBiDi" });
});
after(async () => {
  await browser?.close();
  await relay?.stop();
  receiver.stop();
});

test("Firefox: the main path", async () => {
  relay = await new Relay().start();
  const page = await browser.newPage();
  page.setDefaultTimeout(60_000);
  const wrong = [];
  page.on("console", (message) => message.type() === "error" && wrong.push(message.text()));
  page.on("pageerror", (error) => wrong.push(String(error)));
  const says = async (text) => {
    try {
      await page.waitForFunction((wanted) => document.body.innerText.includes(wanted), {}, text);
    } catch (cause) {
      throw new Error(`the page does not say "${text}" but:\n${await page.evaluate(() => document.body.innerText)}`, { cause });
    }
  };
  const press = (name) => page.locator(`::-p-xpath(//button[normalize-space()="${name}"] | //a[normalize-space()="${name}"])`).click();

  // Add a webhook, and see feedback come by itself.
  await page.goto(relay.console);
  await says("Where should feedback go?");
  await page.locator("input[name=url]").fill(receiver.url);
  await page.locator("input[name=name]").fill("crm");
  await press("Next: the secret");
  await says("timingSafeEqual");
  await press("Next: test it");
  await says("It works: the receiver answered 204 No Content");
  await press("Save");
  await says("Webhook crm added.");
  await page.waitForSelector("#live-state:not([hidden])");
  await relay.submit({ message: "The export does nothing\nat all", category: "bug", rating: 2, metadata: { plan: "pro" } });
  await says("The export does nothing");
  await receiver.arrived("at all");

  // Its page, by way of a list and a filter.
  await press("Feedback");
  await page.waitForSelector("select[name=rating]");
  await page.select("select[name=rating]", "1-2");
  await page.waitForFunction(() => location.search.includes("rating=1-2"));
  await page.locator("#rows .what").click();
  await page.waitForFunction(() => document.title.startsWith("The export does nothing"));
  await says("Metadata");
  await says("Delivered");

  // What is missed while it is paused is counted and sent.
  await press("Webhooks");
  await press("crm");
  await page.waitForSelector("#toggle");
  await press("Pause");
  await says("Paused by you");
  await relay.submit("missed");
  await press("Resume");
  await says("1 event was missed meanwhile.");
  await press("Send what it missed");
  await says("1 delivery would be sent again.");
  await press("Send it again");
  await says("Done: 1 delivery was sent again. 1 delivered, 0 failed again.");
  await receiver.arrived("missed");
  await press("crm");

  // Charts and settings.
  await press("Charts");
  await says("204 No Content");
  await press("Settings");
  await page.waitForSelector("input[name=filter]");
  await page.locator("input[name=filter]").fill("data.rating <");
  await press("Save");
  await says("Nothing was saved. 1 field is wrong");
  await page.waitForFunction(() => document.activeElement.name === "filter");
  assert.deepEqual(wrong.filter((text) => !text.includes("422")), []);
});
