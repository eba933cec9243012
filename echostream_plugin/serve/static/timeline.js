// Source level above, translated speech below, on one time line of the last seconds; dots where text was decided.

const SECONDS = 20;

export class Timeline {
  constructor(canvas) {
    this.canvas = canvas;
    this.clear();
  }

  clear() {
    this.levels = []; // [second, peak]
    this.speech = []; // [begin second, end second]
    this.words = []; // [second, is source]
    this.now = 0;
    this.draw();
  }

  heard(samples, rate) {
    let peak = 0;
    for (const sample of samples) peak = Math.max(peak, Math.abs(sample));
    this.now += samples.length / rate;
    this.levels.push([this.now, peak]);
    while (this.levels.length && this.levels[0][0] < this.now - SECONDS) this.levels.shift();
    return peak;
  }

  // A piece of speech that begins to play at a second of the session.
  spoken(begin, seconds) {
    this.speech.push([begin, begin + seconds]);
    while (this.speech.length && this.speech[0][1] < this.now - SECONDS) this.speech.shift();
  }

  text(second, isSource) {
    this.words.push([second, isSource]);
    while (this.words.length && this.words[0][0] < this.now - SECONDS) this.words.shift();
  }

  draw() {
    const { canvas } = this;
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = 110;
    canvas.width = Math.max(1, width * ratio);
    canvas.height = height * ratio;
    const paint = canvas.getContext("2d");
    paint.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const x = (second) => width * (1 - (Math.max(this.now, SECONDS) - second) / SECONDS);
    paint.fillStyle = color("--line");
    paint.fillRect(0, 54, width, 1);
    paint.fillStyle = color("--source");
    for (const [second, peak] of this.levels) {
      const size = Math.max(1, 44 * Math.sqrt(peak));
      paint.fillRect(x(second), 50 - size, Math.max(1, width / 500), size);
    }
    paint.fillStyle = color("--speech");
    for (const [begin, end] of this.speech) paint.fillRect(x(begin), 70, Math.max(1, x(end) - x(begin) - 1), 18);
    for (const [second, isSource] of this.words) {
      paint.fillStyle = color(isSource ? "--source" : "--accent");
      paint.beginPath();
      paint.arc(x(second), 61, 3, 0, 7);
      paint.fill();
    }
    paint.fillStyle = color("--soft");
    paint.font = "11px system-ui, sans-serif";
    for (let second = Math.ceil(Math.max(0, this.now - SECONDS) / 5) * 5; second <= Math.max(this.now, SECONDS); second += 5) {
      paint.fillText(`${second} s`, x(second) + 2, 106);
      paint.fillRect(x(second), 96, 1, 12);
    }
  }
}
