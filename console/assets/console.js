// What script adds to pages that work without: they keep themselves up to date
// without moving what is read, say when they cannot, and text can be copied.
"use strict";
(() => {
  const OFTEN = 800; // ms between two updates, however much happens
  const SELDOM = 20_000; // ms: what a page says of times grows old
  const RETRY = 3000; // ms between two updates while the relay does not answer
  const PATIENCE = 10_000; // ms for one update

  const find = (selector, within = document) => within.querySelector(selector);
  const page = find("#page[data-again]");
  const say = (element, text) => {
    if (element.textContent !== text) element.textContent = text; // a screen reader reads what changes
    element.hidden = !text;
  };

  // Buttons that need script appear with it.
  const copy = async (button) => {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.value ?? source.textContent);
      button.textContent = "Copied";
    } catch {
      // Pages without TLS have no clipboard; they can copy what is selected.
      if (source.select) source.select();
      else getSelection().selectAllChildren(source);
      button.textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
    }
  };
  for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (button) copy(button);
  });

  // merge makes the rows of a list that was fetched anew those that are shown, each
  // as it is now: what is new above them is held back and counted, and what has left
  // the list stays where it is, marked.
  const merge = (shown, fetched) => {
    const now = new Map([...fetched.children].map((row) => [row.id, row]));
    const was = new Set([...shown.children].map((row) => row.id));
    const known = [...fetched.children].filter((row) => was.has(row.id));
    const last = known.at(-1);
    let above = known.length > 0;
    const heldBack = [];
    const below = [];
    for (const row of [...fetched.children]) {
      if (!was.has(row.id)) (above ? heldBack : below).push(row);
      if (row === last) above = false;
    }
    const rows = [...shown.children].map((row) => {
      if (now.has(row.id)) return now.get(row.id);
      const past = row.cloneNode(true);
      past.classList.add("past");
      past.title = "No longer in this list";
      return past;
    });
    fetched.replaceChildren(...rows, ...below);
    return heldBack.length;
  };

  // keep is what an update leaves alone: what somebody opened, and buttons that
  // script has shown.
  const keep = {
    beforeAttributeUpdated: (name, node) => !(name === "open" && node.localName === "details") && !(name === "hidden" && node.dataset.copy),
  };

  const show = (fetched) => {
    for (const list of fetched.querySelectorAll("[data-rows]")) {
      const shown = document.getElementById(list.id);
      if (!shown) continue;
      const more = merge(shown, list);
      const news = list.previousElementSibling;
      const count = Number(news.dataset.count) + more;
      if (count > 0) {
        news.hidden = false;
        find("a", news).textContent = count > Number(news.dataset.most) ? `More than ${news.dataset.most} new` : `${count} new`;
      }
    }
    Idiomorph.morph(page, fetched, { ignoreActiveValue: true, callbacks: keep });
  };

  if (page) {
    const state = find("#live-state");
    const lost = find("#lost");
    const wanted = new Set(page.dataset.live.split(" ").concat("lost", "open", "closed"));
    let asOf = new Date();
    let began = Date.now();
    let timer;
    let under = false; // an update is under way
    let dirty = false; // something happened meanwhile

    const plan = (delay) => {
      clearTimeout(timer);
      timer = setTimeout(update, delay);
    };

    const update = async () => {
      if (document.hidden) return;
      if (under) return void (dirty = true);
      under = true;
      dirty = false;
      began = Date.now();
      let fetched;
      try {
        const answer = await fetch(new URL(page.dataset.again, document.baseURI), { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
        if (answer.ok) fetched = find("#page[data-again]", new DOMParser().parseFromString(await answer.text(), "text/html"));
      } catch {}
      under = false;
      if (fetched) {
        asOf = new Date();
        say(lost, "");
        document.body.classList.remove("stale");
        show(fetched);
      } else {
        say(lost, `Connection lost, as of ${asOf.toLocaleTimeString()}. What you see may have changed since; this page goes on when the relay answers.`);
        document.body.classList.add("stale");
        for (const text of page.querySelectorAll("[data-lost]")) text.textContent = text.dataset.lost;
      }
      plan(dirty ? OFTEN : fetched ? SELDOM : RETRY);
    };

    const hear = ({ data: { kind } }) => {
      if (kind === "open") state.hidden = false;
      if (kind === "closed") state.hidden = true;
      if (!wanted.has(kind)) return;
      if (under) dirty = true;
      else plan(Math.max(began + OFTEN - Date.now(), 0));
    };

    const stream = new URL(page.dataset.stream, document.baseURI).href;
    let port;
    const tell = (visible) => port.postMessage({ stream, visible });
    const connect = (to) => {
      port = to;
      port.onmessage = hear;
      tell(!document.hidden);
    };
    const alone = () => {
      const { port1, port2 } = new MessageChannel();
      self.listenLive(port2);
      connect(port1);
    };
    try {
      const worker = new SharedWorker(page.dataset.worker, { name: "userhero" });
      worker.onerror = alone;
      connect(worker.port);
    } catch {
      alone();
    }
    document.addEventListener("visibilitychange", () => {
      tell(!document.hidden);
      if (!document.hidden) plan(0);
    });
    addEventListener("pagehide", () => tell(undefined));
    addEventListener("pageshow", (event) => event.persisted && (tell(!document.hidden), plan(0)));
    plan(SELDOM);
  }
})();
