// One connection to the relay for all console pages of a browser, because a browser
// opens at most six connections to a server over plain HTTP. It runs as a shared
// worker, which needs no secure context, or in the page if the browser has none.
//
// A page sends { stream, visible } when it is shown or hidden. It gets { kind } for
// each event of the stream, and when the connection is "open" or "closed". There is
// no connection while no page is visible.
"use strict";
(() => {
  const KINDS = ["accepted", "attempt", "state", "activity", "lost"];
  const RETRY = 3000; // ms before another try, if the browser does not try by itself
  const streams = new Map(); // by address, one for each console

  const send = (stream, kind) => stream.pages.forEach((visible, page) => visible && page.postMessage({ kind }));

  const open = (stream) => {
    const source = (stream.source = new EventSource(stream.address));
    source.onopen = () => send(stream, "open");
    source.onerror = () => {
      send(stream, "closed");
      if (source.readyState !== EventSource.CLOSED) return; // the browser tries again
      stream.source = undefined;
      setTimeout(() => settle(stream), RETRY);
    };
    for (const kind of KINDS) source.addEventListener(kind, () => send(stream, kind));
  };

  // settle opens the connection if a page is visible, else closes it.
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
      if (visible === undefined) stream.pages.delete(page); // the user has left the page
      else stream.pages.set(page, visible);
      if (visible && stream.source?.readyState === 1) page.postMessage({ kind: "open" });
      settle(stream);
    };
  };
  self.onconnect = (event) => self.listenLive(event.ports[0]);
})();
