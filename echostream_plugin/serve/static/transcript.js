// What was said and translated, sentence by sentence, and the files made of it.

const MOST_SHOWN = 200; // sentences on the page; all of them are in the downloads

export class Transcript {
  constructor(list) {
    this.list = list;
    this.languages = { source: "", target: "" };
    this.clear();
  }

  clear() {
    this.list.replaceChildren();
    this.sentences = [];
    this.log = [];
    this.speech = []; // {samples, rate}
    this.open = null;
  }

  event(record, samples) {
    this.log.push(record);
    if (record.kind === "source_text") this.show(this.current().source, record.text);
    if (record.kind === "target_text") this.show(this.current().target, record.text);
    if (record.kind === "unsure") this.unsure(record);
    if (record.kind === "speech" && samples.length) {
      this.speech.push({ samples: Int16Array.from(samples, (x) => Math.round(x * 32767)), rate: record.sample_rate });
    }
    if (record.kind === "sentence") this.settle(record);
    if (record.kind === "revision") this.revise(record);
  }

  current() {
    if (!this.open) {
      const item = document.createElement("li");
      const source = document.createElement("div");
      const target = document.createElement("div");
      item.className = "open";
      source.className = "source";
      source.lang = this.languages.source;
      target.className = "target";
      target.lang = this.languages.target;
      target.setAttribute("aria-live", "polite");
      item.append(source, target);
      this.append(item);
      this.open = { item, source, target };
    }
    return this.open;
  }

  append(item) {
    this.list.append(item);
    while (this.list.children.length > MOST_SHOWN) this.list.firstChild.remove();
    this.list.scrollTop = this.list.scrollHeight;
  }

  show(element, text) {
    element.textContent = text;
    this.list.scrollTop = this.list.scrollHeight;
  }

  settle(record) {
    const { item, source, target } = this.current();
    item.className = "";
    this.show(source, record.source_text);
    this.show(target, record.target_text);
    this.sentences[record.index] = { ...record, item, target, source };
    this.open = null;
  }

  // A better version of a sentence; of the open one where it is the next that ends.
  revise(record) {
    if (!this.sentences[record.index] && this.open && record.index === this.sentences.length) this.settle(record);
    const sentence = this.sentences[record.index];
    if (!sentence) return;
    const { source_text, target_text, start_ms, end_ms } = record;
    Object.assign(sentence, { source_text, target_text, start_ms, end_ms });
    sentence.item.className = "revised";
    this.show(sentence.source, source_text);
    this.show(sentence.target, target_text);
  }

  unsure(record) {
    const note = document.createElement("div");
    const second = (ms) => (ms / 1000).toFixed(1);
    note.className = "unsure";
    note.textContent = `(not understood, ${second(record.start_ms)} to ${second(record.end_ms)} s)`;
    if (this.open) return this.open.item.append(note);
    const item = document.createElement("li");
    item.append(note);
    this.append(item);
  }

  // The last sentence of a stream without sentence ends.
  finish(seconds) {
    if (!this.open) return;
    const { source, target } = this.open;
    const start = this.sentences.length ? this.sentences.at(-1).end_ms : 0;
    const record = { index: this.sentences.length, source_text: source.textContent, target_text: target.textContent,
      start_ms: start, end_ms: 1000 * seconds };
    this.settle(record);
  }

  srt() {
    const stamp = (ms) => new Date(ms).toISOString().slice(11, 23).replace(".", ",");
    return this.sentences.filter((one) => one && one.target_text).map((one, index) =>
      `${index + 1}\n${stamp(one.start_ms)} --> ${stamp(Math.max(one.end_ms, one.start_ms + 1000))}\n${one.target_text}\n`
    ).join("\n");
  }

  jsonl() {
    return this.log.map((record) => JSON.stringify(record)).join("\n") + "\n";
  }

  wav() {
    const length = this.speech.reduce((sum, { samples }) => sum + samples.length, 0);
    const rate = this.speech.length ? this.speech[0].rate : 16000;
    const view = new DataView(new ArrayBuffer(44 + 2 * length));
    const text = (place, letters) => [...letters].forEach((c, i) => view.setUint8(place + i, c.charCodeAt(0)));
    text(0, "RIFF");
    view.setUint32(4, 36 + 2 * length, true);
    text(8, "WAVEfmt ");
    view.setUint32(16, 16, true);
    view.setUint16(20, 1, true);
    view.setUint16(22, 1, true);
    view.setUint32(24, rate, true);
    view.setUint32(28, 2 * rate, true);
    view.setUint16(32, 2, true);
    view.setUint16(34, 16, true);
    text(36, "data");
    view.setUint32(40, 2 * length, true);
    let place = 44;
    for (const { samples } of this.speech) {
      for (const sample of samples) {
        view.setInt16(place, sample, true);
        place += 2;
      }
    }
    return new Blob([view.buffer], { type: "audio/wav" });
  }
}

export function save(name, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type: "text/plain" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
