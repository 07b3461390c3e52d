// Lists, searches and tests that take long.
import assert from "node:assert/strict";
import test from "node:test";
import { context, openContext, receiver, relay, startRelay } from "./hooks.js";

test("filters apply when they change, are in the address, and chips remove them", async () => {
  await startRelay({ app: `webhook crm {\n url ${receiver.url}\n}` });
  await openContext();
  const page = await context.newPage();
  await relay.submit({ message: "The export is broken", category: "bug", rating: 1 });
  await relay.submit({ message: "Lovely", category: "praise", rating: 5 });
  await receiver.arrived("Lovely");
  await page.goto(`${relay.console}/feedback`);
  await page.getByRole("link", { name: "Lovely" }).waitFor();
  await page.getByLabel("Rating").selectOption("1 or 2");
  await page.waitForURL(/\/feedback\?rating=1-2$/);
  await page.getByRole("link", { name: "The export is broken" }).waitFor();
  assert.equal(await page.getByRole("link", { name: "Lovely" }).count(), 0);
  await page.waitForFunction(() => document.activeElement.name === "rating"); // the focus stays at the filter
  await page.getByLabel("Since").fill("2026-01-01");
  assert.match(page.url(), /rating=1-2$/, "a date applies when it is left");
  await page.getByLabel("Until").focus();
  await page.waitForURL(/since=2026-01-01.*zone=/);
  await page.getByRole("link", { name: "rating: 1 or 2 , remove" }).click();
  await page.getByRole("link", { name: "Lovely" }).waitFor();
  assert.deepEqual(context.wrong, []);
});

test("a test that hangs shows seconds and can be stopped", async () => {
  await startRelay({ app: `webhook crm {\n url ${receiver.url}\n timeout 10m\n}` });
  await openContext();
  const page = await context.newPage();
  await page.goto(`${relay.console}/webhooks/crm`);
  receiver.hangs = true;
  // The driver cannot look at a page while it waits for an answer, so the page looks itself.
  await page.evaluate(() => {
    const busy = document.querySelector("#busy");
    const look = () => {
      if (busy.hidden || !/^Testing… [1-9] sStop$/.test(busy.textContent)) return setTimeout(look, 20);
      window.said = busy.textContent;
      busy.querySelector("button").click();
    };
    look();
  });
  await page.getByRole("button", { name: "Test", exact: true }).click({ noWaitAfter: true });
  await receiver.arrived("fb_abc123");
  await receiver.gone(); // long before the timeout
  assert.match(await page.evaluate(() => window.said), /^Testing…/);
  await page.locator("#busy").waitFor({ state: "hidden" });
  receiver.hangs = false;
  await page.getByRole("button", { name: "Test", exact: true }).click();
  await page.getByText("It works").waitFor();
  assert.deepEqual(context.wrong, []);
});

test("an action on many deliveries survives the page, and says what became of it after a crash", async () => {
  await startRelay({ app: `webhook crm {\n url ${receiver.url}\n retry 1h\n}` });
  await openContext();
  receiver.status = 503;
  for (const message of ["one", "two", "three"]) await relay.submit(message);
  const page = await context.newPage();
  await page.goto(`${relay.console}/webhooks/crm`);
  await page.getByRole("button", { name: "Pause", exact: true }).click();
  await page.getByText("3 waiting deliveries are held").waitFor();
  await page.goto(`${relay.console}/webhooks/crm/recover?span=waiting`);
  await page.getByRole("button", { name: "Send them again" }).click();
  await page.getByText("It waits: crm is paused.").waitFor();
  const address = page.url();
  await page.goto(`${relay.console}/webhooks`);
  await page.getByRole("link", { name: "Sending again: 0 of 3" }).click();
  await page.waitForURL(address);
  await relay.kill();
  await relay.again();
  await page.goto(`${relay.console}/activity`);
  await page.getByRole("link", { name: "everything that waits for a retry" }).click();
  await page.waitForURL(address);
  await page.getByRole("heading", { name: "It is not known how this action ended." }).waitFor();
  await page.getByText("The relay was restarted while it ran.").waitFor();
  await page.getByRole("link", { name: "Count what is left" }).click();
  await page.getByRole("heading", { name: "3 deliveries would be sent again." }).waitFor();
  await page.getByRole("button", { name: "Send them again" }).click();
  receiver.status = 204;
  const other = await context.newPage();
  await other.goto(`${relay.console}/webhooks/crm`);
  await other.getByRole("button", { name: "Resume" }).click();
  await page.getByRole("heading", { name: "Done: 3 deliveries were sent again. 3 delivered, 0 failed again." }).waitFor();
  assert.deepEqual(context.wrong.filter((text) => !text.includes("ERR_CONNECTION_REFUSED")), []); // while the relay is away
});
