// Pictures of the console for the README and for docs/tasks.md: `make screenshots`. They
// show the stage of the tasks: a relay that runs, with receivers of every temper.
import { mkdir, stat } from "node:fs/promises";
import { launch, live, watched } from "./relay.js";
import { perform, stage, tasks } from "./tasks.js";

const folder = process.argv[2];
await mkdir(folder, { recursive: true });

const picture = async (page, name) => {
  const path = `${folder}/${name}.png`;
  await page.screenshot({ path });
  const { size } = await stat(path);
  if (size > 150_000) throw new Error(`${path} has ${size} bytes`);
  console.log(path, size);
};

const scene = await stage();
const browser = await launch();
const open = async (colorScheme) => {
  const context = await watched(browser, { colorScheme, viewport: { width: 1240, height: 780 } });
  return { context, page: await context.newPage() };
};
try {
  // The tasks of docs/tasks.md, as they end.
  const { page } = await open("light");
  for (const [i, task] of tasks.entries()) {
    await perform(page, `${scene.relay.console}/`, task);
    await picture(page, `task-${i + 1}`);
  }

  await scene.post("/webhooks/crm/enable");
  for (const colorScheme of ["light", "dark"]) {
    const { context, page } = await open(colorScheme);
    const pages = [
      ["overview", () => page.goto(`${scene.relay.console}/`)],
      ["webhook", () => page.goto(`${scene.relay.console}/webhooks/chat`)],
      ["feedback", async () => {
        await page.goto(`${scene.relay.console}/events`);
        await page.getByRole("link", { name: "The export button" }).click();
      }],
      ["event", () => page.locator(".deliveries").getByRole("link", { name: "chat" }).click()],
    ];
    for (const [name, go] of pages) {
      await go();
      await live(page);
      await picture(page, `console-${name}-${colorScheme}`);
    }
    if (context.wrong.length > 0) throw new Error(context.wrong.join("\n"));
  }
} finally {
  await browser.close();
  await scene.stop();
}
