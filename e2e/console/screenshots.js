// Pictures of the console for the README: `make screenshots`. What they show is
// a relay that runs, with receivers of every temper.
import { mkdir, stat } from "node:fs/promises";
import { Receiver, Relay, launch, watched } from "./relay.js";
import { perform, stage, tasks } from "./tasks.js";

const folder = process.argv[2];
await mkdir(folder, { recursive: true });

const feedback = [
  ["How do I invite a colleague to a project?", "question", 4],
  ["Invoices show euros for customers who pay in francs", "bug", 2],
  ["The new dashboard is so much faster. Thank you!", "praise", 5],
  ["Search takes eight seconds with more than a thousand projects", "bug", 2],
  ["Please let me sort the list by date", "idea", 3],
  ["The week view leaves out Sundays when weeks start on Monday", "bug", 3],
  ["Signing in with Safari goes round in circles", "bug", 1],
  ["The export button does nothing when I click it", "bug", 2],
];

const [good, busy, slow] = await Promise.all([new Receiver().start(), new Receiver().start(), new Receiver().start()]);
busy.status = 503;
slow.status = 200;
const relay = await new Relay().start({
  app: `webhook crm {\n url ${good.url}\n secret s\n}\nwebhook chat {\n url ${busy.url}\n secret s\n filter \`data.rating <= 3 && data.category == "bug"\`\n}\nwebhook warehouse {\n url ${slow.url}\n secret s\n}`,
});
const browser = await launch();
const submit = (item) =>
  relay.submit({ message: item[0], category: item[1], rating: item[2], metadata: { plan: "team" }, context: { pageUrl: "/dashboard/reports", browser: "Safari", os: "macOS" } });
try {
  for (const item of feedback) {
    busy.status = item[2] === 1 ? 204 : 503;
    await submit(item);
    await Promise.all([good, slow, ...(item[1] === "bug" ? [busy] : [])].map((receiver) => receiver.arrived(item[0])));
  }
  for (const colorScheme of ["light", "dark"]) {
    const context = await watched(browser, { colorScheme, viewport: { width: 1240, height: 780 } });
    const page = await context.newPage();
    const picture = async (name) => {
      await page.locator("#live-state", { hasText: "Live" }).waitFor();
      const path = `${folder}/console-${name}-${colorScheme}.png`;
      await page.screenshot({ path });
      const { size } = await stat(path);
      if (size > 150_000) throw new Error(`${path} has ${size} bytes`);
      console.log(path, size);
    };
    await page.goto(`${relay.console}/`);
    await page.getByText("Retrying").waitFor();
    await picture("overview");
    await page.goto(`${relay.console}/webhooks/chat`);
    await picture("webhook");
    await page.goto(`${relay.console}/events`);
    await page.getByRole("link", { name: "The export button" }).click();
    await picture("feedback");
    await page.locator(".deliveries").getByRole("link", { name: "chat" }).click();
    await picture("event");
    if (context.wrong.length > 0) throw new Error(context.wrong.join("\n"));
    await context.close();
  }
} finally {
  await browser.close();
  await relay.stop();
  for (const receiver of [good, busy, slow]) receiver.stop();
}

// The tasks of docs/tasks.md, as they end.
const scene = await stage();
const second = await launch();
try {
  const context = await watched(second, { colorScheme: "light", viewport: { width: 1240, height: 780 } });
  const page = await context.newPage();
  for (const [i, task] of tasks.entries()) {
    await perform(page, `${scene.relay.console}/`, task);
    const path = `${folder}/task-${i + 1}.png`;
    await page.screenshot({ path });
    const { size } = await stat(path);
    if (size > 150_000) throw new Error(`${path} has ${size} bytes`);
    console.log(path, size);
  }
} finally {
  await second.close();
  await scene.stop();
}
