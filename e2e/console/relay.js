// A relay with its console, a receiver, and a browser for the tests. Nothing
// here waits for a time: a relay is ready when it says so, a receiver hands out
// what arrives.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import http from "node:http";
import { createRequire } from "node:module";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { launch as launchFirefox } from "./firefox.js";

const BINARY = process.env.RELAY_CADDY || fileURLToPath(new URL("../../caddy", import.meta.url));

const listen = (server) => new Promise((done) => server.listen(0, "127.0.0.1", () => done(server.address().port)));

// Ports below those that systems give to outgoing connections and e2e/caddyproc gives to
// Caddys. Each file of tests is a process, and begins somewhere of its own.
const FIRST_PORT = 12_000;
const PORTS = 8_000;
let nextPort = process.pid * 101;

const freePort = async () => {
  for (;;) {
    const port = FIRST_PORT + (nextPort++ % PORTS);
    const server = net.createServer();
    const free = await new Promise((done) => server.once("error", () => done(false)).listen(port, "127.0.0.1", () => done(true)));
    if (free) {
      await new Promise((done) => server.close(done));
      return port;
    }
  }
};

// Receiver takes webhooks and answers with what `status` says at that moment.
export class Receiver {
  status = 204;
  hangs = false; // it takes the request and answers nothing
  arrivals = [];
  #waiting = [];
  #gone;

  async start() {
    this.server = http.createServer(async (request, response) => {
      let body = "";
      for await (const chunk of request.setEncoding("utf8")) body += chunk;
      if (this.hangs) {
        this.#gone = new Promise((done) => response.on("close", done));
        this.#note(request, body);
        return;
      }
      response.writeHead(this.status, { "Content-Type": "text/plain" });
      response.end(this.status === 204 ? undefined : `this is status ${this.status}`);
      this.#note(request, body);
    });
    this.url = `http://127.0.0.1:${await listen(this.server)}/hook`;
    return this;
  }

  #note({ url, headers }, body) {
    this.arrivals.push({ url, headers, body });
    for (const look of this.#waiting.splice(0)) look();
  }

  // gone resolves when the relay has given up a request that hangs.
  gone() {
    return this.#gone;
  }

  // arrived resolves with an arrival that holds the text.
  async arrived(text) {
    for (;;) {
      const found = this.arrivals.find(({ body }) => body.includes(text));
      if (found) return found;
      await new Promise((done) => this.#waiting.push(done));
    }
  }

  stop() {
    this.server.closeAllConnections();
    this.server.close();
  }
}

// Relay is the built Caddy with the console below /relay/.
export class Relay {
  async start({ app = "", intake = "", console: options = "no_auth", caddyfile } = {}) {
    this.dir = await mkdtemp(join(tmpdir(), "userhero-console-"));
    const [site, admin] = [await freePort(), await freePort()];
    this.site = `http://127.0.0.1:${site}`;
    this.console = `${this.site}/relay`;
    // The same, where the browser sees no secure context: plain HTTP from another machine.
    this.plain = `http://relay.test:${site}/relay`;
    await writeFile(
      join(this.dir, "Caddyfile"),
      caddyfile?.(site, admin) ?? `{
	admin 127.0.0.1:${admin}
	default_bind 127.0.0.1
	auto_https off
	persist_config off
	userhero {
		queue badger {
			path ${this.dir}/store
		}
		egress {
			allow 127.0.0.1
		}
		${app}
	}
}
http://127.0.0.1:${site}, http://relay.test:${site} {
	@feedback path /feedback /feedback/*
	userhero @feedback {
		project proj_e2e
		${intake}
	}
	redir /relay /relay/
	handle_path /relay/* {
		userhero_console {
			${options}
		}
	}
}
`,
    );
    await this.#run();
    return this;
  }

  async #run() {
    const env = { ...process.env, HOME: this.dir, XDG_DATA_HOME: this.dir, XDG_CONFIG_HOME: this.dir };
    this.process = spawn(BINARY, ["run", "--config", "Caddyfile"], { cwd: this.dir, env, stdio: ["ignore", "ignore", "pipe"] });
    this.ended = new Promise((done) => this.process.on("close", done));
    this.log = "";
    await new Promise((ready, failed) => {
      createInterface(this.process.stderr).on("line", (line) => {
        this.log += line + "\n";
        if (line.includes("serving initial configuration")) ready();
      });
      this.ended.then(() => failed(new Error(`caddy ended:\n${this.log}`)));
    });
  }

  // kill ends it as a crash does; again starts it anew, on the same store.
  async kill() {
    this.process.kill("SIGKILL");
    await this.ended;
  }

  again() {
    return this.#run();
  }

  // submit posts feedback and returns its id.
  async submit(feedback) {
    const body = JSON.stringify(typeof feedback === "string" ? { message: feedback } : feedback);
    const answer = await fetch(`${this.site}/feedback`, { method: "POST", headers: { "Content-Type": "application/json" }, body });
    assert.equal(answer.status, 202, await answer.clone().text());
    return (await answer.json()).id;
  }

  async stop() {
    this.process.kill("SIGTERM");
    await this.ended;
    await rm(this.dir, { recursive: true, force: true });
  }
}

// inFirefox: the tests run in Firefox, not in Chromium.
export const inFirefox = process.env.BROWSER === "firefox";

// launch starts the browser that BROWSER names: Chromium, or Firefox by WebDriver BiDi.
// Both are driven by the same calls.
export const launch = () =>
  inFirefox
    ? launchFirefox()
    : chromium.launch({
        executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
        args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP relay.test 127.0.0.1"],
      });

// watched is a context that notes everything a page must not do: break the
// policy, fail, complain, or run what somebody has written.
export const watched = async (browser, options = {}) => {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, reducedMotion: "reduce", ...options });
  context.setDefaultTimeout(30_000);
  context.wrong = [];
  // Firefox asks for the icon of a page that names none, which the policy may refuse.
  const note = (text) => text.includes("/favicon.ico") || context.wrong.push(text);
  if (options.javaScriptEnabled === false) {
    // Firefox's driver has no such option. Pages have no script but these files.
    if (inFirefox) await context.route(/\.js(\?|$)/, (route) => route.abort());
  } else {
    await context.exposeFunction("reportWrong", note);
    await context.addInitScript(() => {
      document.addEventListener("securitypolicyviolation", (event) => window.reportWrong(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
      window.alert = () => window.reportWrong("alert");
    });
  }
  context.on("weberror", (error) => note(`error: ${error.error()}`));
  context.on("dialog", (dialog) => dialog.dismiss().then(() => context.wrong.push("dialog")));
  context.on("console", (message) => {
    // Over plain HTTP a browser says that it ignores this header, which is right.
    if (message.text().startsWith("The Cross-Origin-Opener-Policy header has been ignored")) return;
    if (["error", "warning"].includes(message.type())) context.wrong.push(`${message.type()}: ${message.text()}`);
  });
  return context;
};

// until asks again and again until something holds.
export const until = async (what, holds) => {
  for (const end = Date.now() + 30_000; !(await holds()); await new Promise(setImmediate)) assert.ok(Date.now() < end, `${what}: not within 30 s`);
};

// live waits until a page hears the relay.
export const live = (page) => page.locator("#live-state", { hasText: "Live" }).waitFor();

const axeSource = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

// axe returns what a page has against the rules for screen readers. The rules do not
// depend on the browser, so Chromium alone is asked.
export const axe = async (page) => {
  if (inFirefox) return [];
  if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(axeSource);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html.slice(0, 200) + " " + node.any.map((check) => check.message)).join("\n  ")}`);
};
