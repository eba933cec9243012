// The websocket of one session, in the protocol "events": settings, audio out, numbered events in, and resuming.

const RETRY_MS = [300, 1000, 2000, 4000, 8000];
const MOST_SAMPLES = 48000; // of a message: a page in the background brings its audio in large pieces

export class Connection {
  // on: {event(record, samples), status(text, isError), closed()}
  constructor(settings, on) {
    this.settings = settings;
    this.on = on;
    this.key = null;
    this.received = 0;
    this.sent = []; // pieces that the server may not have heard yet: [first sample, Int16Array]
    this.samples = 0; // sent so far
    this.ended = this.over = false;
    this.tries = 0;
    this.open();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(`${scheme}//${location.host}/ws${location.search}`);
    this.socket.binaryType = "arraybuffer";
    this.ready = false;
    this.expected = null; // the speech record whose samples come next
    this.socket.onopen = () => {
      const resume = this.key ? { resume: this.key, received: this.received } : {};
      this.socket.send(JSON.stringify({ protocol: "events", format: "int16", ...this.settings, ...resume }));
    };
    this.socket.onmessage = ({ data }) => this.receive(data);
    this.socket.onclose = (event) => this.closed(event);
  }

  receive(data) {
    if (data instanceof ArrayBuffer) {
      const record = this.expected;
      this.expected = null;
      if (record) this.on.event(record, Float32Array.from(new Int16Array(data), (x) => x / 32767));
      return;
    }
    const record = JSON.parse(data);
    if (record.n) this.received = record.n;
    if (record.kind === "session") {
      this.key = record.key;
      this.begin(0);
    } else if (record.kind === "resumed") {
      this.on.status("Connected again.");
      this.begin(record.samples);
    } else if (record.kind === "speech") {
      this.expected = record;
    } else if (record.kind === "error") {
      this.over = true;
      this.on.status(record.error, true);
    } else if (record.kind === "note") {
      this.on.status(record.note);
    } else if (record.kind === "backlog") {
      this.on.status(`The server is ${record.seconds} s behind; it goes on as fast as it can.`);
    } else if (record.kind === "heard") {
      this.forget(record.seconds * this.settings.sample_rate);
      this.on.event(record);
    } else {
      if (record.kind === "end") this.over = true;
      this.on.event(record);
    }
  }

  // Send from a sample on: what was waiting, or what the server lost.
  begin(from) {
    this.ready = true;
    this.tries = 0;
    for (const [first, piece] of this.sent) {
      if (first + piece.length > from) this.socket.send(first < from ? piece.slice(from - first) : piece);
    }
    if (this.ended) this.socket.send(JSON.stringify({ end_of_stream: true }));
  }

  forget(heard) {
    while (this.sent.length && this.sent[0][0] + this.sent[0][1].length < heard) this.sent.shift();
  }

  // samples: Float32Array of the settings' rate
  push(samples) {
    for (let start = 0; start < samples.length; start += MOST_SAMPLES) {
      this.pushPiece(samples.subarray(start, start + MOST_SAMPLES));
    }
  }

  pushPiece(samples) {
    const piece = Int16Array.from(samples, (x) => Math.max(-32768, Math.min(32767, Math.round(x * 32767))));
    this.sent.push([this.samples, piece]);
    this.samples += piece.length;
    if (this.ready && this.socket.readyState === WebSocket.OPEN) this.socket.send(piece);
  }

  end() {
    this.ended = true;
    if (this.ready && this.socket.readyState === WebSocket.OPEN) {
      this.socket.send(JSON.stringify({ end_of_stream: true }));
    }
  }

  close() {
    this.over = true;
    this.socket.close();
  }

  closed(event) {
    this.ready = false;
    if (this.over) return this.on.closed();
    const wait = RETRY_MS[this.tries++];
    if (wait === undefined || !(this.key || this.tries < 2)) {
      this.over = true;
      this.on.status(this.key ? "The server was lost. What was translated is below." :
        "The server does not answer. Is it running?", true);
      return this.on.closed();
    }
    this.on.status(`The connection was lost${event.reason ? ` (${event.reason})` : ""}; trying again…`, true);
    setTimeout(() => this.open(), wait);
  }
}
