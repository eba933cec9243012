// The page: one session at a time, from the microphone or a recording.

import * as audio from "./audio.js";
import { Connection } from "./connection.js";
import { Timeline } from "./timeline.js";
import { Transcript, save } from "./transcript.js";

const $ = (id) => document.getElementById(id);
const transcript = new Transcript($("sentences"));
const timeline = new Timeline($("timeline"));
let session = null; // {connection, source, speaksUntil, began, finishing}

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").className = isError ? "error" : "";
}

function meter(level) {
  const percent = Math.round(100 * Math.sqrt(level));
  $("level").style.width = `${percent}%`;
  $("level").parentElement.setAttribute("aria-valuenow", percent);
}

function downloads() {
  $("save-wav").disabled = !transcript.speech.length;
  $("save-srt").disabled = !transcript.sentences.length;
  $("save-log").disabled = !transcript.log.length;
}

function onEvent(record, samples) {
  transcript.event(record, samples);
  const heard = timeline.now;
  if (record.kind === "heard") {
    $("heard").value = `${record.seconds.toFixed(1)} s`;
  } else if (record.kind === "source_text" || record.kind === "target_text") {
    timeline.text(heard, record.kind === "source_text");
    if (record.kind === "source_text" && record.text === record.added) session.began = record.source_ms / 1000;
    if (record.kind === "target_text" && !$("speak").checked) lag(heard);
  } else if (record.kind === "speech" && samples.length) {
    audio.play(samples, record.sample_rate);
    const seconds = samples.length / record.sample_rate;
    const begin = Math.max(heard, session ? session.speaksUntil : 0);
    if (session) session.speaksUntil = begin + seconds;
    timeline.spoken(begin, seconds);
    lag(begin);
  } else if (record.kind === "end") {
    transcript.finish(heard);
    audio.flush();
    if (session && !session.connection.ended) say("The server ended the session; what was heard is translated below.", true);
    else say("Done.");
  }
  downloads();
}

// From the first word of a sentence that was heard to the first of its translation, at a second of the session.
function lag(second) {
  if (!session || session.began === null) return;
  $("lag").value = `${Math.max(0, second - session.began).toFixed(1)} s`;
  session.began = null;
}

// open(push, done) -> a source with stop() and lost(then)
async function begin(open, label) {
  stop();
  transcript.clear();
  timeline.clear();
  audio.silence();
  for (const id of ["lag", "heard", "spoken"]) $(id).value = id === "lag" ? "–" : "0.0 s";
  session = { connection: null, source: null, speaksUntil: 0, began: null, finishing: false };
  const mine = session;
  const connect = () => new Connection({ sample_rate: audio.rate(), audio_out: $("speak").checked }, {
    event: (record, samples) => session === mine && onEvent(record, samples),
    status: (text, isError) => session === mine && say(text, isError),
    closed: () => session === mine && stopped(),
  });
  const push = (samples) => {
    if (session !== mine || mine.finishing) return;
    meter(timeline.heard(samples, audio.rate()));
    mine.connection ??= connect(); // a place at the server is taken when there is something to hear
    mine.connection.push(samples);
  };
  try {
    await audio.ready();
    const source = await open(push, () => finish(mine));
    if (session !== mine) return source.stop();
    mine.source = source;
    source.lost(() => {
      finish(mine);
      say("The microphone is gone; what was heard is still translated.", true);
    });
    say(label);
    $("start").textContent = "Stop";
    $("start").classList.add("running");
  } catch (error) {
    if (session !== mine) return;
    mine.connection?.close();
    stopped();
    say(explain(error), true);
  }
}

const REASONS = {
  NotAllowedError: "The browser was not allowed to use the microphone: allow it in the address bar, or play a recording.",
  NotFoundError: "No microphone was found. Plug one in, or play a recording.",
  OverconstrainedError: "The chosen microphone is gone. Choose another one.",
  NotReadableError: "The microphone cannot be used now; another program may have it.",
};

const explain = (error) => REASONS[error.name] || error.message;

// Hear no more; what was heard is still translated.
function finish(mine) {
  if (session !== mine || mine.finishing) return;
  mine.finishing = true;
  mine.source?.stop();
  meter(0);
  ready();
  if (!mine.connection) {
    stopped();
    return say("There was nothing to hear.");
  }
  mine.connection.end();
  say("Finishing…");
}

function ready() {
  $("start").textContent = "Start microphone";
  $("start").classList.remove("running");
}

function stopped() {
  session?.source?.stop();
  session = null;
  meter(0);
  ready();
  downloads();
}

// Give up what is going on.
function stop() {
  session?.connection?.close();
  stopped();
}

function startOrStop() {
  if (session?.source && !session.finishing) return finish(session);
  return begin((push) => audio.microphone($("device").value, push), "Listening. Speak now.").then(listDevices);
}

// content: a promise of an ArrayBuffer
function playFile(content, name) {
  const open = async (push, done) => audio.recording(await content, name, $("monitor").checked, push, done);
  return begin(open, `Playing ${name}.`);
}

async function sampleOf(wav) {
  const answer = await fetch(`samples/${wav}`).catch(() => null);
  if (!answer?.ok) throw new Error("The server does not answer. Is it running?");
  return answer.arrayBuffer();
}

async function listDevices() {
  const chosen = $("device").value;
  const options = (await audio.devices()).map((one, index) => {
    const option = new Option(one.label || `Microphone ${index + 1}`, one.deviceId);
    return option;
  });
  $("device").replaceChildren(new Option("default", ""), ...options);
  $("device").value = [...$("device").options].some((option) => option.value === chosen) ? chosen : "";
}

async function about() {
  const info = await (await fetch("info")).json();
  transcript.languages = info.languages;
  if (info.token && !new URLSearchParams(location.search).get("token")) {
    say("This server asks for a token: add ?token=… to the address of this page.", true);
  }
  $("about").textContent = info.card.name ? `${info.card.name}. Speak; the translation follows while you speak.` :
    $("about").textContent;
  const sentence = (text) => `${text.replace(/^[a-z](?=[a-z]*[ -])/, (c) => c.toUpperCase()).replace(/\.$/, "")}.`;
  $("card").textContent = [info.card.task, info.card.data, info.card.limits].filter(Boolean).map(sentence).join(" ");
  $("speak").disabled = !info.speaks;
  $("speak").checked = info.speaks;
  for (const one of info.recordings) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `▶ ${one.source}`;
    button.title = one.speaker || one.wav;
    button.onclick = () => playFile(sampleOf(one.wav), one.wav);
    $("recordings").append(button);
    const item = document.createElement("li");
    item.textContent = `${one.source} – ${one.target}`;
    $("tries").append(item);
  }
}

$("start").onclick = startOrStop;
$("save-wav").onclick = () => save("translated.wav", transcript.wav());
$("save-srt").onclick = () => save("translation.srt", transcript.srt());
$("save-log").onclick = () => save("events.jsonl", transcript.jsonl());
$("drop").onclick = () => $("file").click();
$("drop").onkeydown = (event) => {
  if (event.key !== "Enter" && event.key !== " ") return;
  event.preventDefault();
  $("file").click();
};
$("file").onchange = ({ target }) => {
  const file = target.files[0];
  if (file) playFile(file.arrayBuffer(), file.name);
  target.value = ""; // the same file may be chosen again
};
// A file may be dropped anywhere: the browser would leave the page for it.
addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
addEventListener("dragleave", (event) => event.relatedTarget || $("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) playFile(file.arrayBuffer(), file.name);
});
navigator.mediaDevices?.addEventListener?.("devicechange", listDevices);
addEventListener("pagehide", () => session?.connection?.close());
setInterval(() => {
  timeline.draw();
  $("spoken").value = `${audio.playing().played.toFixed(1)} s`;
}, 100);
listDevices();
about().catch(() => say("The server does not answer. Is it running?", true));
