// Pages work without script. With it they update themselves without moving what
// somebody reads, say when they lose the connection, and have buttons that copy.
"use strict";
(() => {
  const MIN_INTERVAL = 800; // ms between two updates at least
  const MAX_INTERVAL = 20_000; // ms between two updates at most: a page shows times such as "3 min ago"
  const RETRY = 3000; // ms between two updates while the relay does not answer
  const TIMEOUT = 10_000; // ms for one update

  const find = (selector, within = document) => within.querySelector(selector);
  const page = find("#page[data-again]");
  const say = (element, text) => {
    if (element.textContent !== text) element.textContent = text; // screen readers read every change
    element.hidden = !text;
  };

  // Times are shown as in this place, with the zone; a tap or click on one shows all in full.
  const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });
  const localise = (within) => {
    for (const time of within.querySelectorAll("time[datetime]")) {
      const local = clock.format(new Date(time.dateTime));
      if (time.className === "clock") time.textContent = local;
      else time.title = local;
    }
  };
  localise(document);
  document.addEventListener("click", ({ target }) => target.closest?.("time") && !target.closest("a") && document.body.classList.toggle("absolute"));

  // Keys: they do nothing while somebody types, and can be turned off.
  const keys = find("#keys");
  const off = find("#keys-off");
  const step = (by) => {
    const links = [...document.querySelectorAll("#rows .what, #hooks h3 a, .deliveries .what a")];
    const at = links.findIndex((link) => link.closest("li").contains(document.activeElement));
    links[Math.min(Math.max(at + by, 0), links.length - 1)]?.focus();
  };
  const again = () => {
    const row = document.activeElement.closest?.("li");
    const choice = row && find(".choice", row);
    if (choice) choice.checked = !choice.checked;
    else (row && find("button[id^=again-]", row) ? find("button[id^=again-]", row) : find("#redeliver, #retry-now"))?.focus();
  };
  const press = { "/": () => find("input[type=search]")?.focus(), j: () => step(1), k: () => step(-1), r: again, "?": () => keys.showModal() };
  if (keys) {
    off.checked = localStorage.getItem("keys") === "off";
    off.onchange = () => localStorage.setItem("keys", off.checked ? "off" : "on");
    find("#keys-show").hidden = false;
    find("#keys-show").onclick = () => keys.showModal();
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || off.checked || keys.open) return;
      if (event.target.closest?.("input:not([type=checkbox]), textarea, select") || !Object.hasOwn(press, event.key)) return;
      event.preventDefault();
      press[event.key]();
    });
  }

  // Buttons that need script are hidden without it.
  const copy = async (button) => {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.value ?? source.textContent);
      button.textContent = "Copied";
    } catch {
      // Pages without TLS have no clipboard, but they can copy the selection.
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

  // A form whose answer may take long shows the seconds, and can be stopped: that ends
  // the request, and the relay's attempt with it.
  const busy = find("#busy");
  let ticking, sent;
  const idle = () => {
    clearInterval(ticking);
    if (busy) busy.hidden = true;
  };
  document.addEventListener("submit", ({ target, submitter }) => {
    const word = submitter?.dataset.hangs ?? target.dataset.hangs;
    if (!word) return;
    idle();
    sent = target;
    const began = Date.now();
    const tick = () => (find("span", busy).textContent = `${word}… ${Math.round((Date.now() - began) / 1000)} s`);
    ticking = setInterval(() => ((busy.hidden = Date.now() - began < 900), tick()), 250);
  });
  if (busy) {
    find("button", busy).onclick = () => {
      stop();
      idle();
      sent.elements.once.value += Date.now(); // sent again, it is another form
    };
  }
  addEventListener("pageshow", idle);

  // Filters apply when they change, and the focus stays where it was.
  const filters = find("form[data-apply]");
  if (filters) {
    const apply = ({ target, relatedTarget }) => {
      const query = new URLSearchParams(new FormData(filters));
      sessionStorage.setItem("filter", `${(relatedTarget ?? target).name ?? ""} ${query}`);
      filters.requestSubmit();
    };
    let changed = false; // a date, which is applied when it is left: it changes with each digit
    filters.addEventListener("change", (event) => (event.target.type === "date" ? (changed = true) : apply(event)));
    filters.addEventListener("focusout", (event) => changed && apply(event));
    filters.addEventListener("formdata", ({ formData }) => {
      if (formData.get("since") || formData.get("until")) {
        const minutes = -new Date().getTimezoneOffset();
        const two = (n) => String(Math.floor(n)).padStart(2, "0");
        formData.set("zone", (minutes < 0 ? "-" : "+") + two(Math.abs(minutes) / 60) + ":" + two(Math.abs(minutes) % 60));
      } else formData.delete("zone");
      for (const [name, value] of [...formData]) if (!value) formData.delete(name);
    });
    // A change also applies when somebody leaves by a link: then the focus is not moved.
    const [last, query] = (sessionStorage.getItem("filter") ?? "").split(" ");
    sessionStorage.removeItem("filter");
    if (query === location.search.slice(1)) filters.elements[last]?.focus();
  }

  // A search that is not complete goes on by itself, until somebody stops it.
  const goOn = async () => {
    const halt = document.createElement("button");
    halt.textContent = "Stop";
    halt.type = "button";
    let going = true;
    halt.onclick = () => ((going = false), find("#older")?.focus());
    for (let next; (next = find("a[data-go-on]")) && going && !(document.querySelectorAll("#rows > li").length >= 40); ) {
      next.before(halt);
      const answer = await fetch(next.href, { cache: "no-store" }).catch(() => undefined);
      if (!answer?.ok) break;
      const fetched = new DOMParser().parseFromString(await answer.text(), "text/html");
      const [rows, more, turn] = [find("#rows"), find("#rows", fetched), find(".turn", fetched)];
      if (more && rows) rows.append(...more.children);
      else if (more) find("#page").prepend(more.closest(".list"));
      find(".turn").replaceWith(turn);
      if (!more && !rows && !find("a", turn)) turn.before(...fetched.querySelectorAll("#page > .empty"));
    }
    halt.remove();
  };
  if (find("a[data-go-on]")) goOn();

  // merge changes the rows of a fetched list to the rows that are shown, with their
  // present content. New rows above them are left out; merge returns their number.
  // Rows that are no longer in the list stay and are marked.
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

  // keep says what an update does not change: what somebody opened or chose, and buttons
  // that script has shown.
  const keep = {
    beforeAttributeUpdated: (name, node) => !(name === "open" && node.localName === "details") && !(name === "hidden" && node.dataset.copy) && !(name === "checked" && node.className === "choice"),
  };

  const show = (fetched) => {
    localise(fetched);
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
    let updating = false;
    let again = false; // something happened during the update

    const plan = (delay) => {
      clearTimeout(timer);
      timer = setTimeout(update, delay);
    };

    // A page that changes by itself can be told to stand still (WCAG 2.2.2).
    const pause = find("#live-pause");
    let paused = false;
    pause.hidden = false;
    pause.onclick = () => {
      paused = !paused;
      pause.textContent = paused ? "Go on updating" : "Pause updates";
      if (!paused) plan(0);
    };

    const update = async () => {
      if (document.hidden || paused) return;
      if (updating) return void (again = true);
      updating = true;
      again = false;
      began = Date.now();
      let fetched;
      try {
        const answer = await fetch(new URL(page.dataset.again, document.baseURI), { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) });
        const whole = answer.ok && new DOMParser().parseFromString(await answer.text(), "text/html");
        fetched = whole && find("#page[data-again]", whole);
        if (fetched) {
          document.title = whole.title; // with the count of webhooks that fail, as the icon
          const [icon, fresh] = [find("link[rel=icon]"), find("link[rel=icon]", whole).getAttribute("href")];
          if (icon.getAttribute("href") !== fresh) icon.setAttribute("href", fresh);
        }
      } catch {}
      updating = false;
      if (fetched) {
        asOf = new Date();
        say(lost, "");
        document.body.classList.remove("stale");
        show(fetched);
      } else {
        say(lost, `Connection lost, as of ${asOf.toLocaleTimeString()}. What you see may be old. This page updates itself when the relay answers again.`);
        document.body.classList.add("stale");
        for (const text of page.querySelectorAll("[data-lost]")) text.textContent = text.dataset.lost;
      }
      plan(again ? MIN_INTERVAL : fetched ? Number(page.dataset.every) || MAX_INTERVAL : RETRY);
    };

    const onMessage = ({ data: { kind } }) => {
      if (kind === "open") state.hidden = false;
      if (kind === "closed") state.hidden = true;
      if (!wanted.has(kind)) return;
      if (updating) again = true;
      else plan(Math.max(began + MIN_INTERVAL - Date.now(), 0));
    };

    const stream = new URL(page.dataset.stream, document.baseURI).href;
    let port;
    const send = (visible) => port.postMessage({ stream, visible });
    const connect = (to) => {
      port = to;
      port.onmessage = onMessage;
      send(!document.hidden);
    };
    const withoutWorker = () => {
      const { port1, port2 } = new MessageChannel();
      self.listenLive(port2);
      connect(port1);
    };
    try {
      const worker = new SharedWorker(page.dataset.worker, { name: "userhero" });
      worker.onerror = withoutWorker;
      connect(worker.port);
    } catch {
      withoutWorker();
    }
    document.addEventListener("visibilitychange", () => {
      send(!document.hidden);
      if (!document.hidden) plan(0);
    });
    addEventListener("pagehide", () => send(undefined));
    addEventListener("pageshow", (event) => event.persisted && (send(!document.hidden), plan(0)));
    plan(Number(page.dataset.every) || MAX_INTERVAL);
  }
})();
