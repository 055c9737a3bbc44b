// The page: what is chosen and asked, and what is shown of both looks.

import { Client, Trouble } from "./client.js";
import { Unreadable, openFile, openFrame } from "./picture.js";
import { TooSlender, place, target } from "./view.js";

const KEY = "secondlook-key";
const SHOWN = 1400; // pixels of the longer side on screen
const DECISIONS = {
  sure: "Sure at first sight: no second look was needed.",
  no_detail_to_gain: "Unsure, but a closer look would show nothing new.",
  disabled: "One look only, as the settings say.",
  unsure: "Unsure, and there was no second look: the first answer stands.",
  took_second: "Unsure at first. The second look was surer, so its answer stands.",
  kept_first: "The second look was no surer, so the first answer stands.",
};
const CAMERA = {
  NotAllowedError: "The camera was not allowed. Allow it for this page in the browser’s settings, or choose a file.",
  NotFoundError: "No camera was found on this device. Choose a file instead.",
  NotReadableError: "The camera cannot be used now; perhaps another program has it. Close that, or choose a file.",
};
const INSECURE =
  "Browsers lend the camera to secure pages only: https, or http://localhost. Choose a file instead; " +
  "on a phone that can be a new photograph.";

const $ = (id) => document.getElementById(id);
const client = new Client(() => sessionStorage.getItem(KEY) ?? "");
let card = null;
let picture = null;
let opening = null; // a promise of the next one
let asking = null; // the AbortController of the question in progress

const size = (bytes) =>
  bytes < 1e6 ? `${(bytes / 1e3).toFixed(bytes < 1e4 ? 1 : 0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
const pixels = ({ width, height }) => `${width} × ${height}`;

function tell(error) {
  const known = error instanceof Trouble || error instanceof Unreadable || error instanceof TooSlender;
  if (!known) console.error(error);
  $("trouble").textContent = known ? error.message : `Something failed on this page: ${error.message}`;
  $("trouble").hidden = false;
}

function status(text) {
  $("status").textContent = text;
}

const waiting = (seconds, trouble) => {
  const why = trouble.status === 429 ? "The server is busy" : trouble.status ? "The server is not ready" : "No reply";
  status(`${why}; asking again in ${Math.max(1, Math.round(seconds))} s …`);
};

async function loadCard(signal) {
  card = await client.card(signal, waiting);
  $("model").textContent = `Ask ${card.name} about a picture by sending little of it.`;
  if (card.limits) $("question").maxLength = card.limits.max_question_characters;
}

// The picture

function clear() {
  asking?.abort();
  for (const id of ["trouble", "answer", "box"]) $(id).hidden = true;
  $("heat").width = 0;
  status("");
}

function show(opened, name) {
  clear();
  picture?.close();
  picture = opened;
  const scale = SHOWN / Math.max(picture.width, picture.height);
  const shown = $("shown");
  shown.width = Math.max(1, Math.round(picture.width * scale));
  shown.height = Math.max(1, Math.round(picture.height * scale));
  const context = shown.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture.bitmap, 0, 0, shown.width, shown.height);
  shown.setAttribute("aria-label", `The picture, ${pixels(picture)} pixels`);
  $("picture").textContent = `${name}: ${pixels(picture)} pixels, ${size(picture.bytes)}`;
  $("view").hidden = false;
  $("empty").hidden = $("video").hidden = true;
}

function choose(file) {
  if (!file) return;
  stopCamera();
  clear();
  opening = openFile(file).then((opened) => show(opened, file.name), tell);
}

// The camera

async function startCamera() {
  clear();
  if (!navigator.mediaDevices) return tell(new Trouble(INSECURE));
  try {
    const wanted = { facingMode: { ideal: "environment" }, width: { ideal: 4096 }, height: { ideal: 3072 } };
    $("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: wanted });
    await $("video").play();
  } catch (error) {
    stopCamera();
    return tell(CAMERA[error.name] ? new Trouble(CAMERA[error.name]) : error);
  }
  $("camera").textContent = "Stop camera";
  $("picture").textContent = "Asking takes the picture.";
  $("video").hidden = false;
  $("view").hidden = $("empty").hidden = true;
}

function stopCamera() {
  const stream = $("video").srcObject;
  if (!stream) return;
  for (const track of stream.getTracks()) track.stop();
  $("video").srcObject = null;
  $("video").hidden = true;
  $("camera").textContent = "Use camera";
  $("picture").textContent = "";
  $("view").hidden = !picture;
  $("empty").hidden = Boolean(picture);
}

async function takeFrame() {
  const frame = await openFrame($("video"));
  stopCamera();
  show(frame, "Camera");
}

// The answer

/** The second look is shown as the first is. */
function makeSecond() {
  const look = $("first").cloneNode(true);
  look.id = "second";
  look.hidden = true;
  look.querySelector("b").textContent = "Second look";
  look.querySelector("img").alt = "The marked part, as it was sent";
  look.querySelector(".meter").ariaLabel = "Doubt of the second answer";
  $("looks").append(look);
}

const part = (look, selector) => $(look).querySelector(selector);

function showSent(look, image, sent) {
  URL.revokeObjectURL(part(look, "img").src);
  part(look, "img").src = URL.createObjectURL(image.jpeg);
  part(look, "figcaption").textContent = `${pixels(image)}, ${size(sent)}`;
  part(look, ".said").textContent = "…";
  part(look, ".doubt").textContent = "";
  part(look, "i").style.width = 0;
  $(look).classList.remove("stands");
  $(look).hidden = $("answer").hidden = false;
  $("how").hidden = true;
}

function showLook(look, { text, uncertainty, complete }) {
  const { threshold, gated } = card;
  const share = uncertainty && uncertainty / (uncertainty + (gated ? 0.5 : threshold)); // the threshold is in the middle
  const told = `Doubt ${uncertainty.toFixed(3)}`;
  part(look, ".said").textContent = complete ? text : `${text} …`;
  part(look, ".doubt").textContent = told;
  part(look, "i").style.width = `${100 * share}%`;
  const meter = part(look, ".meter");
  meter.ariaValueNow = share.toFixed(3);
  meter.ariaValueText = gated ? told : `${told}, unsure from ${threshold.toFixed(3)}`;
  $("mark").textContent = gated ? "" : `From the mark on, a doubt of ${threshold.toFixed(3)}, the model is unsure.`;
  meter.className = gated ? "meter gated" : uncertainty < threshold ? "meter" : "meter unsure";
}

/** Put an element over a part of the picture, of this size in the same units. */
function lay({ style }, box, size) {
  for (const side of ["left", "width"]) style[side] = `${(100 * box[side]) / size.width}%`;
  for (const side of ["top", "height"]) style[side] = `${(100 * box[side]) / size.height}%`;
}

function showRegion({ left, top, right, bottom }) {
  lay($("box"), { left, top, width: right - left, height: bottom - top }, picture);
  $("box").classList.toggle("high", top < picture.height / 8);
  $("box").classList.toggle("right", left > picture.width / 2);
  $("box").hidden = false;
}

/** Draw the cells; with the fit `pad` they cover the padding outside the picture. */
function showHeat({ width, height, data }) {
  const canvas = $("heat");
  canvas.hidden = !$("mapped").checked;
  canvas.width = width;
  canvas.height = height;
  const cells = new ImageData(width, height);
  const values = atob(data);
  for (let i = 0; i < values.length; i++) {
    const value = values.charCodeAt(i);
    cells.data.set([255, 60 + 0.7 * value, 0, 0.6 * value], 4 * i);
  }
  canvas.getContext("2d").putImageData(cells, 0, 0);
  const into = target(card.global_view, picture);
  const placed = place(picture, into, card.global_view.fit);
  lay(canvas, { left: -placed.left, top: -placed.top, ...into }, placed);
}

function showAnswer(text) {
  $("text").textContent = text;
  $("text").classList.toggle("long", text.length > 40);
}

function showBytes(each) {
  const sent = each.reduce((sum, one) => sum + one, 0);
  const times = picture.bytes / sent;
  const more = times >= 1.5 ? `, ${times < 10 ? times.toFixed(1) : Math.round(times)} times as much` : "";
  const sum = each.length > 1 ? `${each.map(size).join(" + ")} = ${size(sent)}` : size(sent);
  $("bytes").textContent = `Sent: ${sum}. The original has ${size(picture.bytes)}${more}.`;
}

function showDone({ reply, failure }) {
  const second = reply.decision === "took_second";
  showLook("first", reply.first);
  $("second").hidden = !reply.second;
  if (reply.second) showLook("second", reply.second);
  $("first").classList.toggle("stands", !second);
  $("second").classList.toggle("stands", second);
  if (reply.relevance) showHeat(reply.relevance);
  if (failure) tell(new Trouble(`${failure} The first answer stands.`));
  $("decision").textContent = DECISIONS[reply.decision];
  showAnswer(reply.answer.text);
  status("");
}

async function ask(question) {
  const { signal } = (asking = new AbortController());
  $("ask").textContent = "Stop";
  try {
    if (!card) await loadCard(signal);
    status("Making the first picture …");
    const options = { second_look: $("twice").value, relevance: $("mapped").checked };
    const sent = [];
    for await (const step of client.ask(card, picture, question, options, { signal, onWait: waiting })) {
      const { stage, reply } = step;
      if (step.image) {
        const first = stage === "global";
        sent.push(step.sent);
        showSent(first ? "first" : "second", step.image, step.sent);
        showBytes(sent);
        status(first ? "The first look …" : "Unsure: looking closer at the marked part …");
      } else if (stage === "first") {
        showLook("first", reply.first);
        showAnswer(reply.answer.text);
        if (reply.relevance) showHeat(reply.relevance);
        if (reply.region) showRegion(reply.region);
      } else showDone(step);
    }
  } catch (error) {
    if (signal.aborted) return;
    card = null; // perhaps another server by now: the next question asks it
    clear();
    tell(error);
  } finally {
    if (asking?.signal === signal) {
      asking = null;
      $("ask").textContent = "Ask";
      status("");
    }
  }
}

async function submitted() {
  if (asking) return asking.abort();
  await opening;
  clear();
  $("second").hidden = true;
  $("decision").textContent = "";
  showAnswer("");
  try {
    if ($("video").srcObject) await takeFrame();
  } catch (error) {
    return tell(error);
  }
  if (picture) await ask($("question").value);
  else tell(new Trouble("Choose a picture first, or use the camera."));
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  submitted();
});
$("settings").addEventListener("submit", (event) => event.preventDefault());
$("file").addEventListener("change", (event) => choose(event.target.files[0]));
$("camera").addEventListener("click", () => ($("video").srcObject ? stopCamera() : startCamera()));
$("mapped").addEventListener("change", (event) => ($("heat").hidden = !event.target.checked));
$("key").addEventListener("input", (event) => sessionStorage.setItem(KEY, event.target.value));
document.addEventListener("paste", (event) => choose(event.clipboardData.files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("stage").addEventListener(kind, (event) => {
    event.preventDefault();
    $("stage").classList.toggle("over", kind === "dragover");
    if (kind === "drop") choose(event.dataTransfer.files[0]);
  });
}
makeSecond();
$("key").value = sessionStorage.getItem(KEY) ?? "";
loadCard().catch(tell).finally(() => status(""));
