// The page: one session at a time, from the microphone or a recording.

import * as audio from "./audio.js";
import { Connection } from "./connection.js";
import { Timeline } from "./timeline.js";
import { Transcript, save } from "./transcript.js";

const $ = (id) => document.getElementById(id);
const transcript = new Transcript($("sentences"));
const timeline = new Timeline($("timeline"));
let session = null; // {connection, source, spoken, lags}

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
    session?.lags.push(heard - record.source_ms / 1000);
  } else if (record.kind === "speech" && samples.length) {
    audio.play(samples, record.sample_rate);
    const seconds = samples.length / record.sample_rate;
    const begin = Math.max(heard, session ? session.speaksUntil : 0);
    if (session) session.speaksUntil = begin + seconds;
    timeline.spoken(begin, seconds);
    $("lag").value = `${(begin - record.source_ms / 1000).toFixed(1)} s`;
  } else if (record.kind === "end") {
    transcript.finish(heard);
    audio.flush();
    if (session && !session.connection.ended) say("The server ended the session; what was heard is translated below.", true);
    else say("Done.");
  }
  if (record.kind === "target_text" && !$("speak").checked) {
    $("lag").value = `${(heard - record.source_ms / 1000).toFixed(1)} s`;
  }
  downloads();
}

// open(push, done) -> a source with stop() and lost(then)
async function begin(open, label) {
  await stop();
  transcript.clear();
  timeline.clear();
  audio.silence();
  for (const id of ["lag", "heard", "spoken"]) $(id).value = id === "lag" ? "–" : "0.0 s";
  session = { connection: null, source: null, speaksUntil: 0, lags: [] };
  const mine = session;
  const push = (samples) => {
    meter(timeline.heard(samples, audio.rate()));
    mine.connection?.push(samples);
  };
  const done = () => {
    if (session !== mine) return;
    mine.connection.end();
    say("Finishing…");
  };
  try {
    await audio.ready();
    mine.connection = new Connection({ sample_rate: audio.rate(), audio_out: $("speak").checked }, {
      event: (record, samples) => session === mine && onEvent(record, samples),
      status: (text, isError) => session === mine && say(text, isError),
      closed: () => session === mine && stopped(),
    });
    mine.source = await open(push, done);
    mine.source.lost(() => {
      say("The microphone is gone.", true);
      done();
    });
    say(label);
    $("start").textContent = "Stop";
    $("start").classList.add("running");
  } catch (error) {
    mine.connection?.close();
    stopped();
    say(error.name === "NotAllowedError" ? "The browser was not allowed to use the microphone." : error.message, true);
  }
}

function stopped() {
  session?.source?.stop();
  session = null;
  meter(0);
  $("start").textContent = "Start microphone";
  $("start").classList.remove("running");
  downloads();
}

// Stop hearing; what was said is still translated.
async function stop() {
  if (!session) return;
  session.source?.stop();
  session.connection?.close();
  stopped();
}

function startOrStop() {
  if (!session) {
    return begin((push) => audio.microphone($("device").value, push), "Listening. Speak now.").then(listDevices);
  }
  session.source?.stop();
  session.connection?.end();
  $("start").textContent = "Start microphone";
  $("start").classList.remove("running");
  say("Finishing…");
}

function playFile(content, name) {
  return begin((push, done) => audio.recording(content, $("monitor").checked, push, done), `Playing ${name}.`);
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
  $("about").textContent = info.card.name ? `${info.card.name}. Speak; the translation follows while you speak.` :
    $("about").textContent;
  $("card").textContent = [info.card.task, info.card.data, info.card.limits].filter(Boolean).join(". ");
  $("speak").disabled = !info.speaks;
  $("speak").checked = info.speaks;
  for (const one of info.recordings) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `▶ ${one.source}`;
    button.title = one.speaker || one.wav;
    button.onclick = async () => playFile(await (await fetch(`samples/${one.wav}`)).arrayBuffer(), one.wav);
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
$("drop").onkeydown = (event) => (event.key === "Enter" || event.key === " ") && $("file").click();
$("file").onchange = async ({ target }) => target.files[0] &&
  playFile(await target.files[0].arrayBuffer(), target.files[0].name);
$("drop").ondragover = (event) => { event.preventDefault(); $("drop").classList.add("over"); };
$("drop").ondragleave = () => $("drop").classList.remove("over");
$("drop").ondrop = async (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) playFile(await file.arrayBuffer(), file.name);
};
navigator.mediaDevices?.addEventListener?.("devicechange", listDevices);
addEventListener("pagehide", () => session?.connection?.close());
setInterval(() => {
  timeline.draw();
  $("spoken").value = `${audio.playing().played.toFixed(1)} s`;
}, 100);
listDevices();
about().catch(() => say("The server does not answer. Is it running?", true));
