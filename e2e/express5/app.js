// An application that takes feedback itself, as a sidecar's tests need one: what it
// answers is chosen by the path's first part after /feedback.
const crypto = require("node:crypto");
const zlib = require("node:zlib");
const express = require("express");

const app = express();
app.disable("x-powered-by");
let next = 1234567890123456789n; // ids beyond what a double holds

// What the application got, told in a header: how many bytes, and their hash.
app.use(async (req, res, next) => {
  const pieces = [];
  for await (const piece of req) pieces.push(piece);
  const body = Buffer.concat(pieces);
  res.set("X-Got", `${body.length} ${crypto.createHash("sha256").update(body).digest("hex")}`);
  req.text = (req.get("Content-Encoding") === "gzip" ? zlib.gunzipSync(body) : body).toString();
  next();
});

const answers = {
  success: (req, res) => res.json({ success: true, message: "Thank you for your feedback!", status: "success" }),
  number: (req, res) => res.status(201).type("json").send(`{"id":${next++},"status":"open","message":"Saved"}`),
  resource: (req, res) => res.status(201).json({ data: { id: 42, status: "open", message: "Saved", metadata: {} } }),
  sent: (req, res) => res.send(`{"id":"sent-1"}`), // text/html, as Express does with strings
  nothing: (req, res) => res.sendStatus(204),
  location: (req, res) => res.status(201).location("/feedback/location/43").end(),
  page: (req, res) => res.send("<!doctype html><title>Thank you</title>"),
  redirect: (req, res) => res.redirect(303, "/thanks"),
  gzip: (req, res) => res.type("json").set("Content-Encoding", "gzip").send(zlib.gzipSync(`{"id":"gzip-1"}`)),
  br: (req, res) => res.type("json").set("Content-Encoding", "br").send(zlib.brotliCompressSync(`{"id":"br-1"}`)),
  large: (req, res) => res.json({ id: "large-1", log: "x".repeat(4 << 20) }),
  refused: (req, res) => res.status(422).json({ id: "refused-1", message: "Too short" }),
  broken: (req, res) => {
    res.type("json").set("Content-Length", "100").write(`{"id":"broken-1","status":"o`, () => res.destroy());
  },
  pieces: (req, res) => {
    res.status(201).type("json");
    const pieces = [`{"id":`, `"pieces-1"`, `,"status":"open"}`];
    const timer = setInterval(() => (pieces.length ? res.write(pieces.shift()) : (clearInterval(timer), res.end())), 20);
  },
  stream: (req, res) => {
    res.type("text/event-stream").flushHeaders();
    res.write("data: first\n\n");
    app.once("go on", () => res.end("data: last\n\n"));
  },
};
app.post("/feedback/:answer", (req, res) => answers[req.params.answer](req, res));
app.patch("/feedback/:answer/:id/status", (req, res) => {
  const { status } = JSON.parse(req.text);
  if (req.params.answer === "resource") res.json({ data: { id: Number(req.params.id), status: status + "-by-app" } });
  else res.json({ success: true, message: "Updated", status: "success" });
});
app.get("/feedback/go-on", (req, res) => res.end(String(app.emit("go on"))));

const server = app.listen(Number(process.env.PORT), "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
server.on("upgrade", (req, socket, head) => {
  socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
  socket.write(head);
  socket.pipe(socket);
});
