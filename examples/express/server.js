// A webhook receiver for Express 4 and 5, with the verification code of the
// UserHero documentation.
//
//   npm ci
//   USERHERO_WEBHOOK_SECRET=demo-secret PORT=3000 node server.js
//
// The documented code signs JSON.stringify(req.body), a body that was parsed
// and written again. This works because the relay sends every event exactly as
// JavaScript writes it.
const crypto = require('crypto');
const express = require('express');

const app = express();
app.use(express.json());

function verifyWebhook(payload, signature, secret) {
  const expected = 'sha256=' + crypto
    .createHmac('sha256', secret)
    .update(payload)
    .digest('hex');

  return crypto.timingSafeEqual(
    Buffer.from(signature),
    Buffer.from(expected)
  );
}

// timingSafeEqual throws if the lengths differ or the signature is missing: both
// are a wrong signature.
function isSigned(req) {
  try {
    return verifyWebhook(
      JSON.stringify(req.body),
      req.headers['x-userhero-signature'],
      process.env.USERHERO_WEBHOOK_SECRET
    );
  } catch {
    return false;
  }
}

// Your code. If it throws, the relay delivers the event again later.
function handle({ event, data }) {
  console.log('Received:', event, data.id, data.message);
}

// A delivery has the same id on every attempt. This process remembers the latest
// ids while it runs; examples/database keeps them in SQLite, with the feedback.
const seen = new Set();
const REMEMBERED = 100_000;

app.post('/webhook/userhero', (req, res) => {
  if (!isSigned(req)) {
    return res.status(401).send('Invalid signature');
  }
  const delivery = req.headers['x-userhero-delivery'];
  if (!seen.has(delivery)) {
    handle(req.body);
    seen.add(delivery);
    if (seen.size > REMEMBERED) seen.delete(seen.values().next().value);
  }
  res.status(200).send('OK');
});

if (!process.env.USERHERO_WEBHOOK_SECRET) {
  console.error('Set USERHERO_WEBHOOK_SECRET to the secret of your webhook.');
  process.exit(1);
}
const server = app.listen(process.env.PORT || 3000, '127.0.0.1', () => {
  console.log(`Listening on http://127.0.0.1:${server.address().port}/webhook/userhero`);
});
