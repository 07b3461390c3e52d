// The demonstration of ../../Caddyfile in a browser, as a new user meets it: the
// page has its style, and what is sent arrives, with script and without.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import test, { after, before } from "node:test";
import { Relay, inFirefox, launch, until, watched } from "./relay.js";

const folder = fileURLToPath(new URL("../../", import.meta.url));
const source = await readFile(`${folder}Caddyfile`, "utf8");

let browser, relay;

before(async () => {
  browser = await launch();
  relay = await new Relay().start({
    caddyfile: (site, admin) =>
      source.replace("\n{\n", `\n{\n\tadmin 127.0.0.1:${admin}\n`).replaceAll(":8080", `:${site}`).replace("root examples/demo", `root ${folder}examples/demo`),
  });
});
after(async () => {
  await browser?.close();
  await relay?.stop();
});

const open = async (javaScriptEnabled) => {
  const context = await watched(browser, { javaScriptEnabled });
  const page = await context.newPage();
  await page.goto(relay.site);
  assert.equal(await page.locator("button").evaluate((button) => getComputedStyle(button).borderTopStyle), "none", "the button has the browser's style");
  return { context, page };
};

const arrived = async (page, message) => {
  await until(`${message} arrives`, async () => (await (await fetch(`${relay.site}/receiver`)).text()).includes(message));
  await page.goto(`${relay.site}/receiver`);
  await page.getByText(message).first().waitFor();
};

test("with script the page thanks with the id, and the receiver and the console show what was sent", async () => {
  const { context, page } = await open(true);
  await page.getByLabel("Your message").fill("sent with script");
  await page.getByLabel("4", { exact: true }).check();
  await page.getByRole("button", { name: "Send feedback" }).click();
  await page.getByText(/Thank you\. Your feedback is stored as fb_/).waitFor();
  await arrived(page, "sent with script");
  await page.goto(relay.site);
  await page.getByRole("link", { name: "every event and attempt" }).click();
  await page.getByText("webhook is healthy").first().waitFor();
  assert.deepEqual(context.wrong, []);
  await context.close();
});

// Firefox's driver cannot turn script off, and <noscript> asks for the page that thanks.
test("without script the form is sent, and a page says thank you", { skip: inFirefox }, async () => {
  const { context, page } = await open(false);
  await page.getByLabel("Your message").fill("sent without script");
  await page.getByRole("button", { name: "Send feedback" }).click();
  await page.getByText("Thank you, your feedback has arrived.").waitFor();
  await arrived(page, "sent without script");
  await context.close();
});
