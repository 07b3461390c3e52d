// One connection to the relay for all console pages of a browser, because a browser
// opens at most six connections to a server over plain HTTP. It runs as a shared
// worker, which needs no secure context. In a browser without them it runs in the pages,
// of which one has the connection.
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

  // listen opens the connection and tells what comes.
  const listen = (stream, tell) => {
    const source = new EventSource(stream.address);
    source.onopen = () => tell("open");
    source.onerror = () => {
      tell("closed");
      if (source.readyState !== EventSource.CLOSED) return; // the browser tries again
      close(stream);
      setTimeout(() => settle(stream), RETRY);
    };
    for (const kind of KINDS) source.addEventListener(kind, () => tell(kind));
    return source;
  };

  // lead is listen for one of the pages of a browser without shared workers: the one
  // that holds the lock. It tells the others what comes.
  const lead = (stream) => {
    const channel = new BroadcastChannel(`userhero ${stream.address}`);
    const end = new AbortController();
    let source, release;
    channel.onmessage = ({ data }) => {
      if (data !== "hello") send(stream, data);
      else if (source?.readyState === 1) channel.postMessage("open");
    };
    channel.postMessage("hello");
    const held = () =>
      new Promise((done) => {
        release = done;
        source = listen(stream, (kind) => {
          send(stream, kind);
          channel.postMessage(kind);
        });
      });
    navigator.locks.request(channel.name, { signal: end.signal }, held).catch(() => {});
    return {
      get readyState() {
        return source?.readyState;
      },
      close() {
        end.abort();
        source?.close();
        release?.();
        channel.close();
      },
    };
  };

  const alone = !self.document || !navigator.locks || !self.BroadcastChannel;
  const open = (stream) => (stream.source = alone ? listen(stream, (kind) => send(stream, kind)) : lead(stream));
  const close = (stream) => {
    stream.source?.close();
    stream.source = undefined;
  };

  // settle opens the connection if a page is visible, else closes it.
  const settle = (stream) => {
    const wanted = [...stream.pages.values()].includes(true);
    if (wanted && !stream.source) open(stream);
    if (!wanted) close(stream);
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
