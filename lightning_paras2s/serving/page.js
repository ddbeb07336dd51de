"use strict";
const RATE = 16000; // Hz, what the systems hear
const KEPT = 20; // turns on the page
const WHOLE = 0.95; // of an answer that must have been played
const CHOICES = [["a", "A is better"], ["b", "B is better"], ["both_good", "Both are good"], ["both_bad", "Both are bad"]];
const READ_AS_THEY_ARE = ["RIFF", "fLaC", "OggS"]; // how files start that the server reads itself
// How loud and how clear one speaks is part of how one speaks: nothing is evened out. Nothing plays meanwhile.
const AS_IT_IS = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
const byId = (id) => document.getElementById(id);
let settings = null, recorder = null, said = null, busy = false;

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function tell(text, wrong = false) {
  byId("status").textContent = text;
  byId("status").className = wrong ? "wrong" : "soft";
}

const mode = () => document.querySelector("input[name=mode]:checked").value;
const key = () => sessionStorage.getItem("key") || "";

/* The server's answer; a refusal is thrown with what the server says of it. */
async function fetched(path, sent) {
  const headers = { "Content-Type": "application/json" };
  if (key()) headers.Authorization = `Bearer ${key()}`;
  const options = sent ? { method: "POST", headers, body: JSON.stringify(sent) } : { headers };
  let answer;
  try { answer = await fetch(path, options); } catch { throw new Error("The server did not answer; is it still running?"); }
  const found = await answer.json().catch(() => null);
  if (answer.ok && found) return found;
  const error = new Error(found && found.error ? found.error.message : `The server answered ${answer.status}.`);
  error.status = answer.status;
  throw error;
}

async function begin() {
  try {
    settings = await fetched("talk/settings");
  } catch (error) {
    byId("unlock").hidden = error.status !== 401;
    byId("desk").hidden = true;
    if (error.status !== 401) byId("turns").replaceChildren(element("p", { class: "wrong" }, error.message));
    else if (key()) byId("unlock").append(element("p", { class: "wrong", role: "alert" }, "That is not the key."));
    return;
  }
  byId("unlock").hidden = true;
  byId("desk").hidden = false;
  for (const id of ["first", "second"]) byId(id).replaceChildren(...settings.models.map((name) => element("option", {}, name)));
  byId("second").selectedIndex = Math.min(1, settings.models.length - 1);
  byId("two").hidden = settings.models.length < 2;
  byId("blind").hidden = !settings.votes;
  byId("rater").value = localStorage.getItem("rater") || "";
  show();
  if (!navigator.mediaDevices || !window.MediaRecorder) {
    byId("record").disabled = true;
    tell("A browser records only on https or on this machine itself (localhost): upload a recording instead.");
  }
}

function show() {
  for (const part of document.querySelectorAll(".pick")) part.hidden = !part.dataset.for.split(" ").includes(mode());
}

/* Speech as a 16-bit WAV of one channel, whatever the browser recorded it as. */
async function asWav(blob) {
  const context = new OfflineAudioContext(1, 1, RATE);
  const sound = await context.decodeAudioData(await blob.arrayBuffer());
  const mixed = new Float32Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel++) {
    const samples = sound.getChannelData(channel);
    for (let i = 0; i < mixed.length; i++) mixed[i] += samples[i] / sound.numberOfChannels;
  }
  const view = new DataView(new ArrayBuffer(44 + 2 * mixed.length));
  const text = (place, word) => [...word].forEach((letter, i) => view.setUint8(place + i, letter.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + 2 * mixed.length, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, RATE, true); view.setUint32(28, 2 * RATE, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, 2 * mixed.length, true);
  mixed.forEach((sample, i) => view.setInt16(44 + 2 * i, Math.max(-32768, Math.min(32767, Math.round(32768 * sample))), true));
  return new Blob([view.buffer], { type: "audio/wav" });
}

const asBase64 = (blob) => new Promise((done, failed) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
  reader.onerror = () => failed(reader.error);
  reader.readAsDataURL(blob);
});

function take(blob) {
  said = blob;
  const player = byId("said");
  URL.revokeObjectURL(player.src);
  player.src = URL.createObjectURL(blob);
  byId("mine").hidden = false;
}

async function record() {
  let stream;
  byId("record").disabled = true; // until the browser has asked
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: AS_IT_IS });
  } catch (error) {
    tell(`The browser gave no microphone (${error.name}): allow it for this page, or upload a recording.`, true);
    return;
  } finally {
    byId("record").disabled = false;
  }
  const pieces = [], started = performance.now();
  recorder = new MediaRecorder(stream);
  document.querySelectorAll("audio").forEach((player) => player.pause());
  recorder.ondataavailable = (event) => pieces.push(event.data);
  recorder.onstop = async () => {
    recorder = null;
    stream.getTracks().forEach((track) => track.stop());
    recording(false);
    try {
      take(await asWav(new Blob(pieces)));
      tell("Listen to it if you like, then ask.");
    } catch {
      tell("Nothing was recorded; try once more.", true);
    }
  };
  recorder.start();
  recording(true);
  tell(`Speak now, up to ${settings.query_seconds} s.`);
  watch(stream, started);
}

function recording(on) {
  byId("record").classList.toggle("recording", on);
  byId("record-word").textContent = on ? "Stop" : "Record";
  byId("timer").hidden = byId("level").hidden = !on;
  byId("file").disabled = on;
}

/* The level and the time while it records; stops it at the server's limit. */
function watch(stream, started) {
  const context = new AudioContext(), ear = context.createAnalyser(), samples = new Float32Array(1024);
  ear.fftSize = 1024;
  context.createMediaStreamSource(stream).connect(ear);
  const timer = setInterval(() => {
    const seconds = (performance.now() - started) / 1000;
    if (!recorder || recorder.state !== "recording") { clearInterval(timer); context.close(); return; }
    ear.getFloatTimeDomainData(samples);
    byId("level").value = Math.min(1, 3 * Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length));
    byId("timer").textContent = `${seconds.toFixed(1)} s`;
    if (seconds > settings.query_seconds - 0.3) recorder.stop();
  }, 100);
}

async function upload(file) {
  if (!file) return;
  try {
    const start = new TextDecoder("latin1").decode(await file.slice(0, 4).arrayBuffer());
    take(READ_AS_THEY_ARE.includes(start) ? file : await asWav(file));
    tell("Listen to it if you like, then ask.");
  } catch {
    tell(`${file.name} holds no sound that this browser can read; try WAV, MP3 or OGG.`, true);
  }
}

async function ask() {
  const blind = mode() === "blind", rater = byId("rater").value.trim();
  if (busy || !said) return;
  if (blind && !rater) { tell("A vote needs your name.", true); byId("rater").focus(); return; }
  if (blind) localStorage.setItem("rater", rater);
  const models = mode() === "two" ? [byId("first").value, byId("second").value] : [byId("first").value];
  busy = byId("ask").disabled = true;
  tell(blind || models.length > 1 ? "They are thinking …" : "It is thinking …");
  try {
    const spoken = said;
    const found = await fetched("talk/ask", { data: await asBase64(spoken), ...(blind ? { blind, rater } : { models }) });
    byId("turns").prepend(turnCard(found, spoken));
    while (byId("turns").children.length > KEPT) forget(byId("turns").lastElementChild);
    tell(blind ? "Hear both to the end, then choose." : "");
    byId("turns").firstElementChild.scrollIntoView({ block: "nearest", behavior: "smooth" });
  } catch (error) {
    tell(error.message, true);
  }
  busy = byId("ask").disabled = false;
}

function forget(card) {
  card.querySelectorAll("audio").forEach((player) => URL.revokeObjectURL(player.src));
  card.remove();
}

function player(blob, label) {
  return element("audio", { controls: "", preload: "metadata", src: URL.createObjectURL(blob), "aria-label": label });
}

function tags(style) {
  return element("div", { class: "tags" }, ...Object.entries(style || {}).map(([name, value]) => element("span", { class: "tag" }, `${name}: ${value}`)));
}

/* What the page's ears heard in a recording. */
function heardWords(found, whose) {
  const words = [];
  if (found.text) words.push(element("p", { class: "words" }, `“${found.text}”`));
  if (found.transcript) words.push(element("p", { class: found.text ? "soft" : "words" }, `${found.text ? "heard as " : ""}“${found.transcript}”`));
  if (found.transcript === "") words.push(element("p", { class: "soft" }, "no words were heard"));
  if (found.unsure) words.push(element("p", { class: "soft" }, `This page's ear is not made for ${whose} speech: the words may be wrong.`));
  if (found.style) words.push(tags(found.style));
  return words;
}

function sideCard(answer, title) {
  const card = element("section", { class: "side", "aria-label": title }, element("h3", {}, title));
  if (answer.error) { card.append(element("p", { class: "wrong" }, answer.error)); return card; }
  const bytes = Uint8Array.from(atob(answer.audio), (letter) => letter.charCodeAt(0));
  card.append(player(new Blob([bytes], { type: "audio/wav" }), `Answer of ${title}`), ...heardWords(answer, "such"));
  return card;
}

function turnCard(found, spoken) {
  const titles = found.answers.map((answer, i) => (found.turn ? `Answer ${"AB"[i]}` : answer.model.split("@")[0]));
  const cards = found.answers.map((answer, i) => sideCard(answer, titles[i]));
  const you = element("div", {}, element("h2", {}, "You"), player(spoken, "What you said"), ...heardWords(found.query, "your"));
  const card = element("article", { class: "card turn" }, you, element("div", { class: "sides" }, ...cards));
  if (found.turn) card.append(voteForm(found.turn, cards));
  return card;
}

function voteForm(turn, cards) {
  const told = element("p", { class: "soft", role: "status" }, "Hear both to the end to vote (0 of 2).");
  const buttons = CHOICES.map(([verdict, words]) => element("button", { type: "button", disabled: "", "data-verdict": verdict }, words));
  cards.forEach((card, side) => {
    const sound = card.querySelector("audio");
    sound.addEventListener("ended", async () => {
      let played = 0;
      for (let i = 0; i < sound.played.length; i++) played += sound.played.end(i) - sound.played.start(i);
      if (played < WHOLE * sound.duration) { told.textContent = "Part of that answer was skipped; hear it whole."; return; }
      try {
        const { heard } = await fetched("talk/heard", { turn, side });
        card.classList.add("heard");
        if (buttons.some((button) => button.classList.contains("chosen"))) return;
        told.textContent = heard < 2 ? `Hear both to the end to vote (${heard} of 2).` : "Which answers better what was said, and how?";
        buttons.forEach((button) => { button.disabled = heard < 2; });
      } catch (error) { told.textContent = error.message; }
    });
  });
  for (const button of buttons) {
    button.addEventListener("click", async () => {
      buttons.forEach((other) => { other.disabled = true; });
      try {
        const found = await fetched("talk/vote", { turn, verdict: button.dataset.verdict });
        button.classList.add("chosen");
        told.textContent = "Saved. These were the two:";
        tell("");
        found.answers.forEach((answer, i) => {
          cards[i].querySelector("h3").textContent = `Answer ${"AB"[i]} was ${answer.model}`;
          cards[i].append(...heardWords(answer, "such"));
        });
      } catch (error) {
        told.textContent = error.message;
        if (![409, 410].includes(error.status)) buttons.forEach((other) => { other.disabled = false; });
      }
    });
  }
  return element("div", { class: "vote" }, told, element("div", { class: "row" }, ...buttons));
}

byId("record").addEventListener("click", () => (recorder ? recorder.state === "recording" && recorder.stop() : record()));
byId("file").addEventListener("change", (event) => { upload(event.target.files[0]); event.target.value = ""; });
byId("ask").addEventListener("click", ask);
byId("modes").addEventListener("change", show);
byId("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", byId("key").value);
  byId("unlock").querySelectorAll("[role=alert]").forEach((old) => old.remove());
  begin();
});
document.addEventListener("play", (event) => {
  document.querySelectorAll("audio").forEach((other) => { if (other !== event.target) other.pause(); });
}, true);
begin();
