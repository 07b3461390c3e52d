// The tasks of docs/tasks.md: what people come for, as clicks from the overview. The
// tests count the clicks; `make screenshots` takes the pictures.
import assert from "node:assert/strict";
import { Receiver, Relay, until } from "./relay.js";

const feedback = [
  ["How do I invite a colleague to a project?", "question", 4],
  ["Invoices show euros for customers who pay in francs", "bug", 2],
  ["The new dashboard is so much faster. Thank you!", "praise", 5],
  ["Search takes eight seconds with more than a thousand projects", "bug", 2],
  ["Please let me sort the list by date", "idea", 3],
  ["Signing in with Safari goes round in circles", "bug", 1],
  ["The export button does nothing when I click it.\nI tried three browsers, and I need the file for a meeting.", "bug", 1],
];

// stage is a relay with a CRM that works and was paused for a while, a chat that is
// down since its first delivery, and a mailer that gave up.
export const stage = async () => {
  const crm = await new Receiver().start();
  const down = await new Receiver().start();
  const relay = await new Relay().start({
    app: `webhook chat {\n url ${down.url}\n secret s\n retry 1h\n filter \`data.rating <= 2\`\n}\nwebhook mailer {\n url ${down.url}\n retry none\n filter \`data.rating == 1\`\n}`,
  });
  const post = (path, body) => fetch(`${relay.console}/api${path}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body ?? {}) });
  assert.equal((await post("/webhooks", { name: "crm", url: crm.url, secret: "the secret of the crm" })).status, 201);
  for (const [i, [message, category, rating]] of feedback.entries()) {
    if (i === 4) await post("/webhooks/crm/disable");
    await relay.submit({
      message, category, rating, metadata: { plan: "team", userId: `user_${i}` }, screenshotUrl: rating === 1 ? `${relay.site}/relay/assets/icon.svg` : undefined,
      context: { pageUrl: "/dashboard/reports", browser: "Safari", browserVersion: "18", os: "macOS", deviceType: "desktop", country: "CH" },
    });
    if (i < 4) await crm.arrived(message.split("\n")[0]);
    if (rating > 2) continue;
    await down.arrived(message.split("\n")[0]);
    down.status = 503; // from the second on
  }
  await until("the attempts have ended", async () => {
    const { items } = await (await fetch(`${relay.console}/api/webhooks`)).json();
    const { chat, mailer } = Object.fromEntries(items.map(({ name, counts }) => [name, counts]));
    return chat.retrying === 3 && mailer.failed + mailer.pending === 2 && mailer.failed > 0;
  });
  return {
    relay,
    post,
    stop: async () => {
      await relay.stop();
      crm.stop();
      down.stop();
    },
  };
};

const link = (page, name) => page.locator("main").getByRole("link", { name, exact: true }).first();
const button = (page, name) => page.getByRole("button", { name }).first();
const menu = (page, name) => page.getByRole("navigation", { name: "Console" }).getByRole("link", { name, exact: true });
const says = (page, text) => page.getByText(text).first().waitFor();

// tasks are in the order of the document. Each has the clicks that it takes; typing and
// the Enter key are none.
export const tasks = [
  ["Find the angry feedback about export", async (page, click, choose) => {
    await click(menu(page, "Feedback"));
    await choose(page.getByLabel("Rating"), "1 or 2");
    await page.waitForURL(/rating=1-2/);
    await page.getByLabel("Search").fill("export");
    await page.keyboard.press("Enter");
    await page.waitForURL(/q=export/);
    await says(page, "text: export");
    await says(page, "The export button does nothing");
  }],
  ["Read the whole feedback, and where it came from", async (page, click) => {
    await click(page.getByRole("link", { name: /^The export button/ }));
    await says(page, "Safari 18 on macOS, desktop");
    await says(page, "Switzerland");
  }],
  ["See the screenshot that somebody sent", async (page, click) => {
    await click(page.getByRole("link", { name: /^The export button/ }));
    await click(link(page, "Show the screenshot"));
    await page.getByAltText("Screenshot that came with the feedback").waitFor();
  }],
  ["See why the chat fails, and since when", async (page, click) => {
    await click(link(page, "chat"));
    await says(page, "answered 503 Service Unavailable");
    await says(page, /^Last success: .* ago/);
  }],
  ["See how a webhook did in the last week", async (page, click) => {
    await click(link(page, "chat"));
    await click(link(page, "Charts"));
    await click(link(page, "7 days"));
    await says(page, "503 Service Unavailable");
  }],
  ["See what a receiver got, and what it answered", async (page, click) => {
    await click(page.locator(".event", { hasText: "Search takes eight" }).getByRole("link", { name: /^Sending in/ }));
    await says(page, "this is status 503");
  }],
  ["Send at once what waits for the chat", async (page, click) => {
    await click(link(page, "chat"));
    await click(button(page, /^Send all/));
    await says(page, /It waits: chat does not answer|deliveries were sent again/);
  }],
  ["Send again everything that failed for the mailer", async (page, click) => {
    await click(link(page, "mailer"));
    await click(link(page, "Failed"));
    await click(link(page, "Send all that match again"));
    await click(button(page, /^Send (it|them) again/));
    await page.waitForURL(/\/resend\//);
  }],
  ["Send what the CRM missed while it was paused", async (page, click) => {
    await click(link(page, "crm"));
    await click(button(page, "Resume"));
    await click(link(page, "Send what it missed"));
    await click(button(page, /^Send them again/));
    await says(page, "Done: 3 deliveries were sent again. 3 delivered, 0 failed again.");
  }],
  ["Change a secret without downtime", async (page, click) => {
    await click(link(page, "crm"));
    await click(link(page, "Settings"));
    await click(button(page, "Change the secret"));
    await says(page, "The old secret also works for 24 hours.");
  }],
  ["Check a signature that a receiver refuses", async (page, click) => {
    await click(page.locator(".event", { hasText: "Search takes eight" }).getByRole("link", { name: /^Delivered/ }));
    await page.getByLabel("Secret").fill("the secret of the crm");
    await click(button(page, "Check"));
    await says(page, "The signature is right");
  }],
  ["Pause a webhook for a while", async (page, click) => {
    await click(menu(page, "Webhooks"));
    await click(button(page, "Pause crm"));
    await says(page, "Paused. New events are not queued for crm");
  }],
];

// perform does a task and returns how many clicks it took.
export const perform = async (page, home, [, steps]) => {
  let clicks = 0;
  await page.goto(home);
  await steps(
    page,
    async (target) => {
      clicks++;
      await target.click();
    },
    async (target, label) => {
      clicks++;
      await target.selectOption({ label });
    },
  );
  return clicks;
};
