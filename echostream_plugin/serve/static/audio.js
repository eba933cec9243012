// Sound in and out: the microphone or a recording as pieces of samples, and the player.

let context = null;
let player = null;

export async function ready() {
  if (!context) {
    context = new AudioContext();
    await context.audioWorklet.addModule("static/worklets.js");
    player = new AudioWorkletNode(context, "player", { numberOfInputs: 0, outputChannelCount: [2] });
    player.connect(context.destination);
    player.state = { played: 0, waiting: 0 };
    player.port.onmessage = ({ data }) => { player.state = data; };
  }
  await context.resume();
  return context;
}

export const rate = () => context.sampleRate;
export const playing = () => (player ? player.state : { played: 0, waiting: 0 });
export const play = (samples, sampleRate) => player.port.postMessage({ samples, rate: sampleRate });
export const flush = () => player && player.port.postMessage("flush");
export const silence = () => player && player.port.postMessage("clear");

export async function devices() {
  if (!navigator.mediaDevices) return [];
  return (await navigator.mediaDevices.enumerateDevices()).filter((one) => one.kind === "audioinput");
}

// The microphone: calls push(samples) until stop().
export async function microphone(deviceId, push) {
  if (!navigator.mediaDevices) {
    throw new Error("The browser gives the microphone to pages over https or from this machine only.");
  }
  const audio = { deviceId: deviceId ? { exact: deviceId } : undefined, echoCancellation: true, channelCount: 1 };
  const stream = await navigator.mediaDevices.getUserMedia({ audio });
  const source = context.createMediaStreamSource(stream);
  const recorder = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
  recorder.port.onmessage = ({ data }) => push(data);
  source.connect(recorder);
  const stop = () => {
    source.disconnect();
    recorder.port.onmessage = null;
    stream.getTracks().forEach((track) => track.stop());
  };
  return { stop, lost: (then) => stream.getTracks().forEach((track) => { track.onended = then; }) };
}

// A recording at the speed of speech: push(samples), then done(); heard too where it is wanted.
export async function recording(content, name, monitor, push, done) {
  if (!content.byteLength) throw new Error(`${name} is empty.`);
  const decoded = await context.decodeAudioData(content).catch(() => {
    throw new Error(`${name} is no audio that this browser can read.`);
  });
  const mono = new Float32Array(decoded.length);
  for (let channel = 0; channel < decoded.numberOfChannels; channel++) {
    const samples = decoded.getChannelData(channel);
    for (let i = 0; i < mono.length; i++) mono[i] += samples[i] / decoded.numberOfChannels;
  }
  let source = null;
  if (monitor) {
    source = new AudioBufferSourceNode(context, { buffer: decoded });
    const quiet = new GainNode(context, { gain: 0.25 });
    source.connect(quiet).connect(context.destination);
    source.start();
  }
  const began = performance.now();
  let place = 0;
  const timer = setInterval(() => {
    const until = Math.min(mono.length, Math.floor(((performance.now() - began) / 1000) * context.sampleRate));
    if (until > place) push(mono.slice(place, until));
    place = until;
    if (place >= mono.length) {
      clearInterval(timer);
      done();
    }
  }, 40);
  return {
    stop: () => {
      clearInterval(timer);
      source?.stop();
      source = null;
    },
    lost: () => {},
  };
}
