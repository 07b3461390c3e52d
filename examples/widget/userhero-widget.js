/*!
 * UserHero feedback widget: a button, a small form, and an outbox that keeps
 * what was written until the relay has it. No dependencies.
 *
 *   <script src="userhero-widget.js" defer data-endpoint="/feedback"></script>
 */
(() => {
  // Short names for what is used often: the minified file has at most 4 KiB.
  const page = document;
  const on = addEventListener;
  const now = Date.now; // ms since 1970, like every time below
  const { min, max, random } = Math;

  const script = page.currentScript;
  if (!script || window.UserHero) return;
  const option = script.dataset;
  const endpoint = new URL(option.endpoint || "/feedback", page.baseURI).href;

  // What visitors read, in the order that userhero-words.js documents: the page's
  // own words, else those of its language, else English.
  const native = option.words || window.UserHeroWords?.[page.documentElement.lang.split("-")[0]];
  const words = (
    native ||
    "Feedback|Message|Category|Bug|Idea|Question|Rating|Send|Close|Thank you!|" +
      "Not accepted. Change it, then send it again.|Kept here, sent later.|Sending|No room. Try later."
  ).split("|");

  // One storage entry per feedback, so that tabs never overwrite each other's:
  // [body, tries, due, hold], that is the exact text every attempt sends, the
  // failed attempts so far, when the next may be made, and until when the relay
  // has asked for patience (Retry-After).
  const prefix = "userhero " + endpoint + " ";
  const MOST = 50; // feedback kept
  const LONGEST = 2e4; // UTF-16 units of a body: at most 60 kB of UTF-8, where beacons and the intake take 64 KiB
  const PATIENCE = 3e4; // ms for one attempt
  const SLOWEST = 3e5; // ms between two attempts
  const SETTLING = 99; // ms in which other tabs, processes of their own, see what this one has stored
  const DAY = 864e5; // ms; the longest Retry-After that is honoured
  const NEVER = 864e13; // the last time there is: when a feedback is due that was refused as it is

  let storage = {}; // lasts as long as the page, where the browser gives none
  try {
    storage = localStorage;
  } catch {}
  const keys = () => Object.keys(storage).filter((key) => key.startsWith(prefix));
  const load = (key) => JSON.parse(storage[key] || "[]");
  const save = (key, entry) => {
    try {
      return (storage[key] = JSON.stringify(entry)); // throws where storage is full
    } catch {}
  };

  // Storage keys of this page's feedback that is neither settled nor handed to a
  // beacon, with whom to tell.
  const own = {};
  let timer;
  let turn = Promise.resolve();

  // One attempt; answers when the next is due. What has happened is stored first
  // and told after.
  const attempt = async (key, [body, tries]) => {
    const tell = own[key]; // a beacon may take it off meanwhile
    let answer;
    try {
      answer = await fetch(endpoint, {
        method: "POST",
        headers: { "Content-Type": "application/json", "Idempotency-Key": key.slice(prefix.length) },
        body,
        credentials: "omit",
        redirect: "error", // else a login page's 200 would count as ours
        signal: AbortSignal.timeout(PATIENCE),
      });
    } catch {}
    if (answer?.ok) {
      delete storage[key];
      delete own[key];
      tell?.(words[9], 1);
      return Infinity;
    }
    // Refused as it is: it waits for the visitor to change it. Any other answer may
    // be another one tomorrow, also a 404.
    if ([400, 410, 413, 415, 422].includes(answer?.status)) {
      if (storage[key]) save(key, [body, 0, NEVER, NEVER]);
      delete own[key];
      tell?.(words[10]);
      return Infinity;
    }
    const after = answer?.headers.get("Retry-After"); // seconds or a date
    const hold = now() + min(after * 1e3 || Date.parse(after) - now() || 0, DAY);
    // Half of each delay is chance, so that a relay that comes back is not met by all at once.
    const due = max(hold, now() + (min(1e3 * 2 ** tries, SLOWEST) * (1 + random())) / 2);
    if (storage[key]) save(key, [body, tries + 1, due, hold]); // else another tab has settled it
    tell?.(words[11], 1);
    return due;
  };

  // Everything that is due, one after the other; then sets the timer.
  // An eager pass ignores our own back-off, never the relay's Retry-After.
  const pass = async (eager) => {
    let next = Infinity;
    for (const key of keys()) {
      const entry = load(key);
      const due = entry[eager ? 3 : 2];
      next = min(next, due > now() ? due : entry[0] ? await attempt(key, entry) : Infinity);
    }
    clearTimeout(timer);
    if (next < NEVER) timer = setTimeout(run, max(next - now(), 1e3));
    await new Promise((done) => setTimeout(done, SETTLING));
  };

  // One pass at a time on this page, and where the browser has Web Locks, among
  // all tabs: each reads storage only when its turn has come.
  const run = (eager) => {
    const work = () => pass(eager);
    turn = turn.then(() => navigator.locks?.request(prefix, work) || work()).catch(() => {});
  };

  // Addresses without query and fragment: these may hold what is nobody's business.
  const bare = (url) => url.split(/[?#]/)[0] || undefined;

  // Keeps a feedback and sends it when it can; answers its id, or undefined where
  // it is too long or there is no room. tell gets a sentence for the visitor after each
  // attempt, and whether the form has done its part.
  const send = (fields, tell) => {
    // Pages without TLS have no randomUUID.
    const id = crypto.randomUUID?.() || crypto.getRandomValues(new Uint32Array(4)).join("-");
    const body = JSON.stringify({
      id,
      projectId: option.project,
      widgetId: option.widget,
      createdAt: new Date(),
      metadata: api.metadata,
      ...fields,
      context: {
        pageUrl: bare(location.href),
        referrer: bare(page.referrer),
        viewport: { width: innerWidth, height: innerHeight },
        timezone: Intl.DateTimeFormat().resolvedOptions().timeZone,
        locale: navigator.language,
      },
    });
    const key = prefix + id;
    if (body.length < LONGEST && keys().length < MOST && save(key, [body, 0, 0, 0])) {
      own[key] = tell;
      run();
      return id;
    }
  };

  // A page that is hidden, as each is before it closes, may not come back. A beacon cannot carry an Idempotency-Key and its
  // answer is not seen: the id in the body marks the repeat, the entry stays.
  const leave = () => {
    for (const key in own) {
      const [body, , , hold] = load(key);
      if (hold <= now() && navigator.sendBeacon(endpoint, body)) delete own[key];
    }
  };

  const api = (window.UserHero = { send });
  on("online", () => run(1));
  on("visibilitychange", () => page.hidden && leave());
  run(1);

  // The form, in a shadow tree: the page's style stays out, ours stays in, and
  // the page's keyboard shortcuts do not see what is typed. The sheet is made by
  // script because a strict style-src refuses style elements and attributes.
  const host = page.createElement("div");
  const root = host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(
    ":host{all:initial;color-scheme:light dark}" +
      "*{font:medium/1.5 system-ui;box-sizing:border-box}" + // as large as the visitor's browser writes
      "dialog,button,textarea,select{color:CanvasText;background:Canvas;border:1px solid;padding:8px}" +
      "#o{position:fixed;right:16px;bottom:16px;z-index:9999}" +
      "form,label{display:grid;gap:8px}" +
      "textarea{width:100%}" + // narrower where a scroll bar takes room
      "fieldset{border:0;margin:0;padding:0}" +
      // A star is filled if it is chosen or stands before the one that is.
      "input{appearance:none;margin:0;width:40px;height:40px}" +
      "input::after{content:'\\2606';font-size:32px;line-height:1}" +
      "input:checked::after{content:'\\2605'}" +
      "input:has(~:checked)::after{content:'\\2605'}",
  );
  root.adoptedStyleSheets = [sheet];
  root.innerHTML =
    "<button id=o></button><dialog aria-labelledby=o><form>" +
    "<label><i></i><textarea name=message required maxlength=4000></textarea></label>" +
    "<label><i></i><select name=category><option><option value=bug><option value=feature><option value=question></select></label>" +
    "<fieldset><legend></legend>" +
    [1, 2, 3, 4, 5].map((stars) => `<input type=radio name=rating value=${stars} aria-label=${stars}>`).join("") +
    "</fieldset><p role=status></p><button></button><button type=button>";
  let next = 0;
  for (const element of root.querySelectorAll("button,i,option+option,legend")) element.textContent = words[next++];
  if (!native) host.lang = "en"; // the page may be in another language
  const [button, dialog] = root.children;
  const form = dialog.firstChild;
  const said = form.children[3];
  if (option.label) button.textContent = option.label;
  let refused; // the key of the feedback that the form shows again
  let busy; // the form waits for an answer
  button.onclick = api.open = () => {
    refused = keys().find((key) => load(key)[3] === NEVER);
    const [body] = (refused && load(refused)) || [];
    const before = body && JSON.parse(body);
    for (const name of ["message", "category", "rating"]) form[name].value ||= before?.[name] ?? "";
    dialog.showModal();
  };
  form.lastChild.onclick = () => dialog.close();
  host.onkeydown = (event) => event.stopPropagation();
  form.onsubmit = (event) => {
    event.preventDefault();
    const { message, category, rating } = form;
    const written = message.value;
    if (busy) return;
    busy = send(
      { message: written, category: category.value || undefined, rating: +rating.value || undefined },
      (outcome, done) => {
        said.textContent = outcome;
        busy = 0;
        if (done && message.value === written) form.reset(); // else something else is being written
      },
    );
    said.textContent = words[busy ? 12 : 13];
    if (busy) delete storage[refused]; // the form has sent what became of it
  };
  page.documentElement.append(host); // there even where the body is not yet
})();
