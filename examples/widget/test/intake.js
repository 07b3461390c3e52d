// The intakes the widget is tested against: one in this process, as strict as
// the relay where the widget depends on it, or the real binary.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import http from "node:http";
import net from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const HOST = "127.0.0.1";

const body = async (request) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString();
};

export const listen = async (server) => {
  server.listen(0, HOST);
  await once(server, "listening");
  return server.address().port;
};

// Intake takes feedback as the relay's POST does: JSON or text/plain, one event
// for each id and each Idempotency-Key, 422 for another body under either.
export class Intake {
  requests = []; // {key, type, text, status, at}
  events = []; // the feedback taken, once each
  refusals = []; // [status, headers] of the next answers, before anything is stored
  #seen = new Map();

  async start() {
    this.server = http.createServer((request, response) => this.#serve(request, response));
    this.port = await listen(this.server);
    return this;
  }

  async #serve(request, response) {
    response.setHeader("Access-Control-Allow-Origin", "*");
    response.setHeader("Access-Control-Expose-Headers", "Idempotency-Replayed, Retry-After");
    if (request.method === "OPTIONS") {
      response.setHeader("Access-Control-Allow-Headers", "Content-Type, Idempotency-Key");
      response.setHeader("Access-Control-Allow-Methods", "POST");
      return response.writeHead(204).end();
    }
    let text;
    try {
      text = await body(request);
    } catch {
      return; // cut in the middle: nothing is stored
    }
    const key = request.headers["idempotency-key"];
    const [status, headers] = this.refusals.shift() ?? this.#take(key, text);
    this.requests.push({ key, type: request.headers["content-type"], text, status, at: Date.now() });
    response.writeHead(status, headers).end("{}");
  }

  #take(key, text) {
    const feedback = JSON.parse(text);
    const names = [`id ${feedback.id}`, ...(key ? [`key ${key}`] : [])];
    const known = names.filter((name) => this.#seen.has(name));
    if (known.some((name) => this.#seen.get(name) !== text)) return [422, {}];
    for (const name of names) this.#seen.set(name, text);
    if (known.length > 0) return [202, { "Idempotency-Replayed": "true" }];
    this.events.push(feedback);
    return [202, {}];
  }

  async stop() {
    this.server.closeAllConnections();
    this.server.close();
    await once(this.server, "close");
  }
}

// Relay is the real binary with one webhook, whose receiver counts the events, and
// the demonstration's page.
export class Relay {
  events = [];
  #log = "";

  constructor(binary) {
    this.binary = resolve(binary);
  }

  async start() {
    this.receiver = http.createServer(async (request, response) => {
      const text = await body(request);
      if (!this.events.some((event) => event.delivery === request.headers["x-userhero-delivery"]))
        this.events.push({ delivery: request.headers["x-userhero-delivery"], ...JSON.parse(text).data });
      response.writeHead(204).end();
    });
    const receiver = await listen(this.receiver);
    const probe = net.createServer();
    this.port = await listen(probe);
    probe.close();
    await once(probe, "close");
    this.folder = await mkdtemp(join(tmpdir(), "userhero-widget-"));
    await writeFile(
      join(this.folder, "Caddyfile"),
      `{
	admin off
	auto_https off
	default_bind ${HOST}
	userhero {
		queue badger {
			path ./data
		}
		webhook test {
			url http://${HOST}:${receiver}/
		}
		egress {
			allow ${HOST}
		}
	}
}
http://:${this.port} {
	userhero /feedback {
		allow_origin *
	}
	root ${fileURLToPath(new URL("..", import.meta.url))}
	file_server
}
`,
    );
    const home = join(this.folder, "home");
    this.process = spawn(this.binary, ["run"], {
      cwd: this.folder,
      env: { PATH: process.env.PATH, HOME: home, XDG_DATA_HOME: home, XDG_CONFIG_HOME: home },
      stdio: ["ignore", "ignore", "pipe"],
    });
    this.process.stderr.on("data", (chunk) => (this.#log += chunk));
    this.ended = once(this.process, "exit");
    for (let tries = 0; ; tries++) {
      try {
        await fetch(`http://${HOST}:${this.port}/`);
        return this;
      } catch (error) {
        if (this.process.exitCode !== null || tries === 200) throw new Error(`the relay does not start:\n${this.#log}`, { cause: error });
        await new Promise((done) => setTimeout(done, 50));
      }
    }
  }

  async stop() {
    this.process.kill("SIGTERM");
    await this.ended;
    this.receiver.closeAllConnections();
    this.receiver.close();
    await rm(this.folder, { recursive: true, force: true });
  }
}

// Line is the network between browser and intake, which a test can cut: "up",
// "down" (connections end at once), "silent" (nothing is passed on), "deaf"
// (requests arrive, answers are lost).
export class Line {
  #open = new Set();
  mode = "up";
  connections = 0;

  constructor(port) {
    this.server = net.createServer((near) => this.#connect(near, port));
  }

  async start() {
    this.url = `http://${HOST}:${await listen(this.server)}/feedback`;
    return this;
  }

  set(mode) {
    this.mode = mode;
    for (const socket of this.#open) socket.destroy();
  }

  #connect(near, port) {
    this.connections++;
    const mode = this.mode;
    this.#keep(near);
    if (mode === "down") return near.destroy();
    if (mode === "silent") return near.resume();
    const far = net.connect(port, HOST);
    this.#keep(far);
    near.on("close", () => far.destroy());
    far.on("close", () => near.destroy());
    near.pipe(far);
    if (mode === "up") far.pipe(near);
    // Preflights are answered, or the browser would never send what matters.
    else
      far.on("data", (answer) => {
        if (answer.toString("latin1").startsWith("HTTP/1.1 204")) near.write(answer);
        else near.destroy();
      });
  }

  #keep(socket) {
    this.#open.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => this.#open.delete(socket));
  }

  async stop() {
    this.set("down");
    this.server.close();
    await once(this.server, "close");
  }
}
