// Opens an issue in GitHub or GitLab for each bug. It needs Node 20 and nothing else.
//
//   USERHERO_WEBHOOK_SECRET=demo-secret PORT=3000 TOKEN=… \
//   ISSUES=https://api.github.com/repos/acme/shop/issues node server.js
//   ISSUES=https://gitlab.com/api/v4/projects/acme%2Fshop/issues for GitLab
import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';

const { USERHERO_WEBHOOK_SECRET: secret, ISSUES: issues, TOKEN: token, PORT: port = 3000 } = process.env;
if (!secret || !issues || !token) {
  console.error('Set USERHERO_WEBHOOK_SECRET, ISSUES and TOKEN.');
  process.exit(1);
}
const gitlab = issues.includes('/api/v4/');
const credentials = gitlab
  ? { 'PRIVATE-TOKEN': token }
  : { Authorization: `Bearer ${token}`, Accept: 'application/vnd.github+json', 'X-GitHub-Api-Version': '2022-11-28' };
const LABEL = 'userhero'; // on every issue made here; the search for earlier ones relies on it
const LARGEST_EVENT = 1024 * 1024; // bytes
const LONGEST = 50_000; // characters of a text; GitHub takes 65,536 in all
const SKEW = 5 * 60_000; // ms by which the tracker's clock may be behind the relay's

// secondsToWait returns for how long the tracker takes no requests, if it refused one for its rate.
function secondsToWait({ status, headers }) {
  const after = headers.get('retry-after');
  const spent = headers.get('x-ratelimit-remaining') === '0';
  if (status !== 429 && !(status === 403 && (after || spent))) return undefined;
  const reset = spent ? headers.get('x-ratelimit-reset') - Date.now() / 1000 : 60;
  return Math.max(1, Math.ceil(after ?? reset));
}

async function call(url, options = {}) {
  const response = await fetch(url, {
    ...options,
    headers: { 'User-Agent': 'userhero-tickets', 'Content-Type': 'application/json', ...credentials },
    signal: AbortSignal.timeout(10_000),
  });
  const text = await response.text();
  if (!response.ok) {
    const error = new Error(`The tracker answered ${response.status}: ${text.slice(0, 500)}`);
    throw Object.assign(error, { retryAfter: secondsToWait(response) });
  }
  const [, next] = /<([^>]+)>;\s*rel="next"/.exec(response.headers.get('link') ?? '') ?? [];
  return { answer: JSON.parse(text), next };
}

// Reports whether an earlier attempt has opened the issue. Neither tracker has
// idempotency keys, and an answer can get lost; so the mark in the issue is what counts.
async function isOpened(mark, since) {
  let page = `${issues}?${new URLSearchParams({ state: 'all', labels: LABEL, per_page: 100, [gitlab ? 'created_after' : 'since']: since })}`;
  while (page) {
    const { answer, next } = await call(page);
    if (answer.some((issue) => (gitlab ? issue.description : issue.body)?.startsWith(mark))) return true;
    page = next;
  }
  return false;
}

const priority = (rating) => (rating <= 2 ? 'priority::high' : rating >= 4 ? 'priority::low' : 'priority::medium');

// What visitors wrote stands in a block of code: no mention notifies anybody, no
// link is made, and no quick action of GitLab runs.
function ticket(mark, { id, projectId, message, rating, screenshotUrl, context = {} }) {
  const facts = {
    feedback: id,
    project: projectId,
    rating,
    page: context.pageUrl,
    browser: [context.browser, context.browserVersion, context.os].filter(Boolean).join(' '),
    screenshot: screenshotUrl,
  };
  const lines = Object.entries(facts).filter(([, value]) => value).map(([name, value]) => `${name}: ${value}`);
  const text = [message.slice(0, LONGEST), '', ...lines.map((line) => line.slice(0, 1000))].join('\n').toWellFormed();
  const fence = '`'.repeat(Math.max(3, ...(text.match(/`+/g) ?? []).map((run) => run.length + 1)));
  const body = `${mark}\n${fence}text\n${text}\n${fence}\n`;
  const title = [...message.trim().split(/[\r\n]/)[0]].slice(0, 200).join('');
  const labels = [LABEL, 'bug', priority(rating)];
  return gitlab ? { title, description: body, labels: labels.join(',') } : { title, body, labels };
}

async function open(mark, { timestamp, data }) {
  if (await isOpened(mark, new Date(Date.parse(timestamp) - SKEW).toISOString())) return;
  const { answer } = await call(issues, { method: 'POST', body: JSON.stringify(ticket(mark, data)) });
  console.log('Received:', data.id, answer.html_url ?? answer.web_url);
}

// What is being opened, by mark: an attempt that comes meanwhile gets the same answer.
const running = new Map();
function openOnce(document) {
  const { projectId, id } = document.data;
  const mark = `<!-- userhero ${createHash('sha256').update(JSON.stringify([projectId, id])).digest('hex')} -->`;
  if (!running.has(mark)) running.set(mark, open(mark, document).finally(() => running.delete(mark)));
  return running.get(mark);
}

function isSigned(body, signature = '') {
  const expected = Buffer.from('sha256=' + createHmac('sha256', secret).update(body).digest('hex'));
  const given = Buffer.from(signature);
  return given.length === expected.length && timingSafeEqual(given, expected);
}

async function receive(request) {
  if (request.method !== 'POST' || request.url !== '/webhook/userhero') return 404;
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    if ((size += chunk.length) > LARGEST_EVENT) return 413;
    chunks.push(chunk);
  }
  const body = Buffer.concat(chunks);
  if (!isSigned(body, request.headers['x-userhero-signature'])) return 401;
  const document = JSON.parse(body);
  const bug = document.event === 'feedback.created' && document.data.category === 'bug';
  if (bug && !request.headers['x-userhero-test']) await openOnce(document);
  return 204;
}

const server = createServer(async (request, response) => {
  try {
    const status = await receive(request);
    response.writeHead(status).end();
  } catch (error) {
    console.error(error.message);
    // Never the tracker's own status: a 410 would disable the webhook.
    if (error.retryAfter) response.setHeader('Retry-After', error.retryAfter);
    response.writeHead(error.retryAfter ? 503 : 502).end(`${error.message}\n`);
  }
});
server.listen(port, '127.0.0.1', () => console.log(`Listening on http://127.0.0.1:${server.address().port}/webhook/userhero`));
