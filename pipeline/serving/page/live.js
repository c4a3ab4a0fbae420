"use strict";
// The page: a video, questions about it, answers as they are made.
const DEFAULT_QUESTION = "Describe this video in detail.";
const field = (id) => document.getElementById(id);

let chosen = null; // {file, dataUrl}: the data URL is made once, at the first question
let drawing = new AbortController();
let running = null;

function chooseVideo(file) {
  drawing.abort();
  drawing = new AbortController();
  chosen = { file, dataUrl: null };
  field("url").value = "";
  field("chosen").hidden = false;
  field("drop").classList.add("has-video");
  field("drop-label").querySelector("strong").textContent = "Choose another";
  field("video-name").textContent = file.name;
  field("video-facts").textContent = megabytes(file.size);
  field("frames").replaceChildren();
  field("frames-note").hidden = true;
  showFormProblem("");
  showKeyFrames(file, drawing.signal);
}

async function showKeyFrames(file, signal) {
  const into = document.createDocumentFragment();
  try {
    const { duration_s: duration, width, height } = await drawKeyFrames(file, into, signal);
    if (signal.aborted) return;
    const length = duration === null ? "" : `${duration.toFixed(1)} s, `;
    field("video-facts").textContent = `${length}${width} × ${height}, ${megabytes(file.size)}`;
    field("frames").replaceChildren(into);
  } catch (error) {
    if (signal.aborted) return;
    field("frames-note").textContent = `No key frames: ${error.message}. The endpoint may still be able to.`;
    field("frames-note").hidden = false;
  }
}

function forgetVideo() {
  drawing.abort();
  chosen = null;
  field("file").value = "";
  field("chosen").hidden = true;
  field("drop").classList.remove("has-video");
  field("drop-label").querySelector("strong").textContent = "Choose a video";
}

// What the request names the video by.
async function videoUrl() {
  if (!chosen) return field("url").value.trim();
  chosen.dataUrl ??= await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new EndpointError("The file can't be read any more."));
    reader.readAsDataURL(asVideo(chosen.file));
  });
  return chosen.dataUrl;
}

// Browsers don't know the types of all containers.
function asVideo(file) {
  return file.type.startsWith("video/") ? file : new Blob([file], { type: "video/mp4" });
}

async function ask() {
  if (running) return;
  if (!chosen && !field("url").value.trim()) {
    showFormProblem("Choose a video first, or give its URL.");
    return;
  }
  showFormProblem("");
  const question = field("question").value.trim() || DEFAULT_QUESTION;
  const about = chosen ? chosen.file.name : field("url").value.trim();
  const key = field("key").value.trim();
  const isExact = field("exact").checked;
  const answer = new AnswerView(field("answer"), question, isExact ? `${about} · exact` : about);
  field("empty").hidden = true;
  field("answers").prepend(answer.element);
  running = new AbortController();
  setRunning(true);
  const { signal } = running;
  let problem = "";
  try {
    const url = await videoUrl();
    const model = await servedModel(key, signal);
    field("models").textContent = model.draft_model
      ? `${model.draft_model} drafts, ${model.id} decides.` : `${model.id} answers.`;
    for await (const chunk of askEndpoint(model.id, url, question, isExact, key, signal)) {
      answer.add(chunk);
    }
  } catch (error) {
    if (error.name === "AbortError") problem = "Cancelled.";
    else if (error instanceof EndpointError) problem = error.message;
    else {
      problem = "Something in this page went wrong.";
      throw error;
    }
  } finally {
    answer.end(problem);
    running = null;
    setRunning(false);
    field("status").textContent = problem || `The answer is complete: ${answer.numTokens} tokens.`;
  }
}

function setRunning(isRunning) {
  field("ask").disabled = isRunning;
  field("ask").textContent = isRunning ? "Answering" : "Ask";
  field("cancel").hidden = !isRunning;
  if (isRunning) field("status").textContent = "The answer is being made.";
}

function showFormProblem(text) {
  field("form-problem").textContent = text;
  field("form-problem").hidden = !text;
}

function megabytes(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

field("form").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
field("cancel").addEventListener("click", () => { running?.abort(); field("ask").focus(); });
field("file").addEventListener("change", () => {
  if (field("file").files[0]) chooseVideo(field("file").files[0]);
});
field("url").addEventListener("input", () => { if (field("url").value.trim()) forgetVideo(); });
field("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask();
});
// A file that misses the field must not replace the page.
for (const name of ["dragover", "drop"]) {
  document.addEventListener(name, (event) => event.preventDefault());
}
field("drop").addEventListener("dragover", () => field("drop").classList.add("over"));
field("drop").addEventListener("dragleave", () => field("drop").classList.remove("over"));
field("drop").addEventListener("drop", (event) => {
  field("drop").classList.remove("over");
  if (event.dataTransfer.files[0]) chooseVideo(event.dataTransfer.files[0]);
});
