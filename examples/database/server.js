// Keeps feedback in a database of your own: Express and SQLite.
//
//   npm ci
//   USERHERO_WEBHOOK_SECRET=demo-secret PORT=3000 node server.js
//
// Updates change what is there, and what comes twice is stored once.
import { createHmac, timingSafeEqual } from 'node:crypto';
import Database from 'better-sqlite3';
import express from 'express';

const secret = process.env.USERHERO_WEBHOOK_SECRET;
if (!secret) {
  console.error('Set USERHERO_WEBHOOK_SECRET to the secret of your webhook.');
  process.exit(1);
}

const db = new Database(process.env.DATABASE || 'feedback.db');
db.pragma('journal_mode = WAL'); // readers do not wait for writers
db.pragma('synchronous = FULL'); // a 2xx is on disk: the relay will not send it again
db.exec(`
  CREATE TABLE IF NOT EXISTS deliveries (id TEXT PRIMARY KEY) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS feedback (
    project    TEXT NOT NULL, -- an id belongs to its project
    id         TEXT NOT NULL,
    status     TEXT NOT NULL,
    category   TEXT,
    rating     INTEGER,
    message    TEXT NOT NULL,
    created_at TEXT NOT NULL, -- RFC 3339
    updated_at TEXT NOT NULL, -- of the event: UTC to the second, so they compare as text
    data       TEXT NOT NULL, -- everything, as JSON: SELECT data->>'$.metadata.plan' …
    PRIMARY KEY (project, id)
  )`);

const remember = db.prepare('INSERT INTO deliveries VALUES (?) ON CONFLICT DO NOTHING');
// An update may overtake an older one. Each event holds the whole feedback, so the
// newest wins; a creation never replaces an update.
const keep = db.prepare(`
  INSERT INTO feedback VALUES (:project, :id, :status, :category, :rating, :message, :createdAt, :timestamp, :data)
  ON CONFLICT DO UPDATE SET status = excluded.status, category = excluded.category, rating = excluded.rating,
    message = excluded.message, updated_at = excluded.updated_at, data = excluded.data
  WHERE :event = 'feedback.updated' AND excluded.updated_at >= feedback.updated_at`);

// One transaction: the delivery is remembered if and only if its feedback is kept.
const store = db.transaction((delivery, { event, timestamp, data }) => {
  if (remember.run(delivery).changes === 0) return; // another attempt has stored it
  const { projectId: project = '', id, status, category = null, rating = null, message, createdAt } = data;
  keep.run({ event, timestamp, project, id, status, category, rating, message, createdAt, data: JSON.stringify(data) });
  console.log('Received:', event, id, message);
});

function isSigned(body, signature = '') {
  const expected = Buffer.from('sha256=' + createHmac('sha256', secret).update(body).digest('hex'));
  const given = Buffer.from(signature);
  return given.length === expected.length && timingSafeEqual(given, expected);
}

const app = express();
// The signature is over the bytes as they came, so they are read as bytes.
app.post('/webhook/userhero', express.raw({ type: 'application/json', limit: '1mb' }), (req, res) => {
  if (!Buffer.isBuffer(req.body)) return res.sendStatus(415);
  if (!isSigned(req.body, req.get('X-UserHero-Signature'))) return res.sendStatus(401);
  const document = JSON.parse(req.body);
  // A test send brings a sample. Other events are not about feedback.
  if (document.event.startsWith('feedback.') && !req.get('X-UserHero-Test')) store(req.get('X-UserHero-Delivery'), document);
  res.sendStatus(204);
});

const server = app.listen(process.env.PORT || 3000, '127.0.0.1', () => {
  console.log(`Listening on http://127.0.0.1:${server.address().port}/webhook/userhero`);
});
