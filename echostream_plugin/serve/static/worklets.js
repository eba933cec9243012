// Runs on the audio thread: a recorder that hands out the microphone's samples, and a player without gaps.

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(2048);
    this.filled = 0;
  }

  process(inputs) {
    const channels = inputs[0];
    if (!channels.length) return true;
    for (let i = 0; i < channels[0].length; i++) {
      let sum = 0;
      for (const channel of channels) sum += channel[i];
      this.block[this.filled++] = sum / channels.length;
      if (this.filled === this.block.length) {
        this.port.postMessage(this.block.slice());
        this.filled = 0;
      }
    }
    return true;
  }
}

// Speech comes in pieces that are longer or shorter than the time until the next one. A short buffer is kept before a
// piece begins to play; when it runs dry there is silence, and it fills up again. Rates are matched by interpolation.
class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.pieces = [];
    this.place = 0;
    this.waiting = 0; // samples of the context's rate that are queued
    this.playing = false;
    this.played = 0;
    this.blocks = 0;
    this.port.onmessage = ({ data }) => {
      if (data === "clear") {
        this.pieces = [];
        this.place = this.waiting = this.played = 0;
        this.playing = false;
        return;
      }
      if (data === "flush") {
        this.playing = this.pieces.length > 0;
        return;
      }
      this.pieces.push(data);
      this.waiting += data.samples.length * sampleRate / data.rate;
    };
  }

  process(_, outputs) {
    const out = outputs[0][0];
    if (!this.playing && this.waiting > 0.06 * sampleRate) this.playing = true;
    let count = 0;
    while (this.playing && count < out.length) {
      const piece = this.pieces[0];
      if (!piece) {
        this.playing = false;
        break;
      }
      const index = Math.floor(this.place);
      const next = index + 1 < piece.samples.length ? piece.samples[index + 1]
        : this.pieces[1] ? this.pieces[1].samples[0] : piece.samples[index];
      out[count++] = piece.samples[index] + (next - piece.samples[index]) * (this.place - index);
      this.place += piece.rate / sampleRate;
      this.waiting -= 1;
      if (this.place >= piece.samples.length) {
        this.place -= piece.samples.length;
        this.pieces.shift();
      }
    }
    if (!this.pieces.length) this.waiting = 0;
    for (let channel = 1; channel < outputs[0].length; channel++) outputs[0][channel].set(out);
    this.played += count;
    if (!(this.blocks++ % 16)) this.port.postMessage({ played: this.played / sampleRate, waiting: this.waiting / sampleRate });
    return true;
  }
}

registerProcessor("recorder", Recorder);
registerProcessor("player", Player);
