// What a file of tests has: one browser, and for each test a receiver, the relay
// that it starts and the context of its pages. They end with the test.
import { after, afterEach, before, beforeEach } from "node:test";
import { Receiver, Relay, launch, watched } from "./relay.js";

export let receiver, relay, context;
let browser;

before(async () => {
  browser = await launch();
});
after(() => browser?.close());
beforeEach(async () => {
  receiver = await new Receiver().start();
});
afterEach(async () => {
  await context?.close();
  await relay?.stop();
  receiver.stop();
});

export const startRelay = async (options) => {
  relay = await new Relay().start(options);
};

export const openContext = async (options) => {
  context = await watched(browser, options);
};
