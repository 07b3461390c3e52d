// Every page of the console, for people who see colours differently, on phones and at
// twice the size. It takes as long as all other tests of pages, so it is a file, that
// is a process, of its own.
import assert from "node:assert/strict";
import test from "node:test";
import { context, openContext, receiver, relay, startRelay } from "./hooks.js";
import { axe, inFirefox } from "./relay.js";

const LOOKS = [
  ["light", { width: 1280, height: 900 }, { colorScheme: "light", forcedColors: "none" }],
  ["dark", { width: 1280, height: 900 }, { colorScheme: "dark", forcedColors: "none" }],
  ["forced colours", { width: 1280, height: 900 }, { colorScheme: "dark", forcedColors: "active" }],
  ["390 px", { width: 390, height: 844 }, { colorScheme: "light", forcedColors: "none" }],
  ["200 % zoom", { width: 640, height: 450 }, { colorScheme: "light", forcedColors: "none" }],
];

const noForcedColours = { skip: inFirefox && "Firefox's driver cannot force colours" };

test("axe finds nothing on any page in any look, none scrolls sideways, none is higher than ten screens", noForcedColours, async () => {
  const webhooks = Array.from({ length: 34 }, (_, i) => `webhook more-${i} {\n url http://127.0.0.1:1/\n disabled\n}`).join("\n");
  await startRelay({
    app: `webhook crm {\n url ${receiver.url}\n secret s\n retry 1h\n}\nwebhook mailer {\n url ${receiver.url}\n retry none\n filter \`data.rating == 1\`\n}\n${webhooks}`,
  });
  await openContext();
  const page = await context.newPage();
  receiver.status = 503;
  const id = await relay.submit({ message: "The export is broken.\nEvery time.", category: "bug", rating: 1, screenshotUrl: "https://shots.example.com/1.png", context: { pageUrl: "/reports", country: "CH" }, metadata: { plan: "pro" } });
  for (let i = 0; i < 60; i++) await relay.submit({ message: `Feedback ${i} with a few more words, as people write them`, category: "idea", rating: 3 });
  await receiver.arrived("Feedback 59");
  const made = await fetch(`${relay.console}/api/webhooks`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ name: "mine", url: receiver.url, secret: "s", headers: { "X-Team": "red" } }) });
  assert.equal(made.status, 201);
  const { items } = await (await fetch(`${relay.console}/api/deliveries?webhook=crm&state=retrying`)).json();
  const paths = [
    "/", "/feedback", "/feedback?rating=1-2&view=Angry", `/feedback/${id}?project=proj_e2e`, "/events", "/events?webhook=crm&state=retrying", "/events?webhook=mailer&state=failed", "/events?q=nowhere", "/events/caught",
    `/events/${items[0].event_id}?delivery=${items[0].id}`, "/webhooks", "/webhooks/crm", "/webhooks/mailer", "/webhooks/crm/charts", "/webhooks/crm/charts?span=30d", "/webhooks/crm/settings", "/webhooks/mine/settings",
    "/webhooks/mine/delete", "/erase?value=user_1", `/erase?feedback=${id}&project=proj_e2e`, "/webhooks/crm/recover?span=waiting", "/resend/new?query=webhook%3Dcrm", "/add", "/activity", "/nothing",
  ];
  const wrong = [];
  const look = async (path) => {
    for (const [name, size, media] of LOOKS) {
      await page.setViewportSize(size);
      await page.emulateMedia(media);
      for (const found of await axe(page)) wrong.push(`${path} in ${name}: ${found}`);
      const { width, height } = await page.evaluate(() => ({ width: document.documentElement.scrollWidth, height: document.documentElement.scrollHeight }));
      if (width > size.width) wrong.push(`${path} in ${name} scrolls sideways: ${width} px`);
      if (name !== "200 % zoom" && height > 10 * size.height) wrong.push(`${path} in ${name} is ${(height / size.height).toFixed(1)} screens high`);
    }
  };
  for (const path of paths) {
    await page.goto(relay.console + path);
    await look(path);
  }

  // What forms lead to.
  const press = (name) => page.getByRole("button", { name, exact: true }).click();
  await page.goto(`${relay.console}/feedback/${id}?project=proj_e2e`);
  await page.getByRole("link", { name: "Show the screenshot" }).click();
  await page.getByAltText("Screenshot that came with the feedback").waitFor({ state: "attached" });
  await look("a screenshot");
  await page.goto(`${relay.console}/add`);
  await page.getByLabel("URL of the receiver").fill(receiver.url);
  await press("Next: the secret");
  await page.getByRole("heading", { name: "Verify what arrives" }).waitFor();
  await look("the secret of a new webhook");
  await press("Next: test it");
  await page.getByText("It does not work yet").waitFor();
  await look("a test that failed");
  await page.goto(`${relay.console}/webhooks/mine/settings`);
  await press("Change the secret");
  await page.getByText("Copy it now.").waitFor();
  await look("a new secret");
  await page.goto(`${relay.console}/webhooks/mine/settings`);
  await page.getByLabel("Filter").fill("data.rating <");
  await press("Save");
  await page.getByText("1 field is wrong").waitFor();
  await look("a setting that is wrong");
  await page.goto(`${relay.console}/webhooks/crm`);
  await press("Pause");
  await page.getByText("Paused by you").first().waitFor();
  await page.goto(`${relay.console}/webhooks/crm/recover?span=waiting`);
  await press("Send them again");
  await page.getByText("It waits: crm is paused.").waitFor();
  await look("an action that waits");
  await page.getByRole("button", { name: "Keys" }).click();
  await look("the keys");
  assert.deepEqual(wrong, []);
});
