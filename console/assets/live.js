// One connection to the relay for all pages of the console that this browser
// shows: a browser opens at most six to a server over plain HTTP. It runs as a
// shared worker, which has no need of a secure context, or, where a browser has
// none, in the page itself.
//
// A page sends { stream, visible } when it is shown or hidden, and gets
// { kind } for each happening, "open" or "closed". While no page is visible there
// is no connection.
"use strict";
(() => {
  const KINDS = ["accepted", "attempt", "state", "activity", "lost"];
  const PATIENCE = 3000; // ms before another try, where the browser makes none by itself
  const streams = new Map(); // by address: one for each console

  const tell = (stream, kind) => stream.pages.forEach((visible, page) => visible && page.postMessage({ kind }));

  const open = (stream) => {
    const source = (stream.source = new EventSource(stream.address));
    source.onopen = () => tell(stream, "open");
    source.onerror = () => {
      tell(stream, "closed");
      if (source.readyState !== EventSource.CLOSED) return; // it tries again by itself
      stream.source = undefined;
      setTimeout(() => settle(stream), PATIENCE);
    };
    for (const kind of KINDS) source.addEventListener(kind, () => tell(stream, kind));
  };

  // settle opens or closes a connection, as there is a page to hear it or not.
  const settle = (stream) => {
    const wanted = [...stream.pages.values()].includes(true);
    if (wanted && !stream.source) open(stream);
    if (!wanted && stream.source) {
      stream.source.close();
      stream.source = undefined;
    }
  };

  self.listenLive = (page) => {
    page.onmessage = ({ data: { stream: address, visible } }) => {
      if (!streams.has(address)) streams.set(address, { address, pages: new Map() });
      const stream = streams.get(address);
      if (visible === undefined) stream.pages.delete(page); // the page is left
      else stream.pages.set(page, visible);
      if (visible && stream.source?.readyState === 1) page.postMessage({ kind: "open" });
      settle(stream);
    };
  };
  self.onconnect = (event) => self.listenLive(event.ports[0]);
})();
