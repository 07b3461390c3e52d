// A webhook receiver for Express 4 and 5, with the verification code of the
// UserHero documentation.
//
//   npm ci
//   USERHERO_WEBHOOK_SECRET=demo-secret PORT=3000 node server.js
//
// The documented code signs JSON.stringify(req.body), a body that was parsed
// and written again. That holds because the relay sends every event in exactly
// the form in which JavaScript would write it.
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

// timingSafeEqual throws where the lengths differ, or where there is no
// signature at all: both are a wrong signature too.
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

// Deliveries come at least once: the same id again is the same event. A real
// receiver keeps the ids where it keeps the feedback, in one transaction.
const seen = new Set();

app.post('/webhook/userhero', (req, res) => {
  if (!isSigned(req)) {
    return res.status(401).send('Invalid signature');
  }
  const delivery = req.headers['x-userhero-delivery'];
  if (!seen.has(delivery)) {
    seen.add(delivery);
    const { event, data } = req.body;
    console.log('Received:', event, data.id, data.message);
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
