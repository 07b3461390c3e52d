// Firefox, driven by WebDriver BiDi with the calls that drive Chromium. FIREFOX names it, if
// it is not Debian's firefox-esr.
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { firefox } from "playwright-core";

// Debian's Firefox refuses this command, which Playwright sends for each page. It would set
// the colour scheme, and no test in Firefox needs another one.
const REFUSED = "emulation.setMediaFeaturesOverride";

const require = createRequire(import.meta.url);
const { ws } = require(join(dirname(require.resolve("playwright-core/package.json")), "lib/utilsBundle.js"));
const { send } = ws.prototype;
ws.prototype.send = function (text, ...rest) {
  const { id, method } = JSON.parse(text);
  if (method !== REFUSED) return send.call(this, text, ...rest);
  this.emit("message", JSON.stringify({ type: "success", id, result: {} }), false);
};

export const launch = () =>
  firefox.launch({
    channel: "moz-firefox", // Playwright drives these by WebDriver BiDi
    executablePath: process.env.FIREFOX || "/usr/bin/firefox-esr",
    firefoxUserPrefs: { "network.dns.localDomains": "relay.test" },
  });
