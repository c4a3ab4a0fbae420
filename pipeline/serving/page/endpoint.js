"use strict";
// What is asked of the endpoint, and its refusals in words.
class EndpointError extends Error {}

function headers(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

// The first model: {id, draft_model}.
async function servedModel(key, signal) {
  const response = await reached(() => fetch("v1/models", { headers: headers(key), signal }));
  if (!response.ok) throw new EndpointError(await refusal(response));
  const model = (await response.json()).data?.[0];
  if (!model) throw new EndpointError("The endpoint serves no model.");
  return model;
}

// The chunks of a streamed answer, parsed; the generator ends at [DONE].
async function* askEndpoint(model, url, question, isExact, key, signal) {
  const content = [{ type: "video_url", video_url: { url } }, { type: "text", text: question }];
  const response = await reached(() => fetch("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers(key) },
    body: JSON.stringify({
      model,
      messages: [{ role: "user", content }],
      stream: true,
      stream_options: { include_usage: true },
      lvspec: { exact: isExact, return_tokens: true },
    }),
    signal,
  }));
  if (!response.ok) throw new EndpointError(await refusal(response));
  const events = serverSentEvents(response.body);
  for (;;) {
    const { done, value } = await reached(() => events.next());
    if (done) throw new EndpointError("The connection broke off before the answer was complete.");
    if (value === "[DONE]") return;
    const chunk = parsed(value);
    if (chunk === null) throw new EndpointError("The endpoint sent something that is no answer.");
    if (chunk.error) throw new EndpointError(words(chunk.error) || "The answer ended with an error.");
    yield chunk;
  }
}

// A network that fails, in words; giving up is passed on.
async function reached(attempt) {
  try {
    return await attempt();
  } catch (error) {
    if (error instanceof EndpointError || error.name === "AbortError") throw error;
    throw new EndpointError("The endpoint can't be reached, or the connection broke off.");
  }
}

const STATUS_WORDS = {
  401: "The endpoint asks for an API key, or does not know this one.",
  403: "The endpoint refuses this video.",
  408: "The request took too long to arrive.",
  413: "The video is too large for this endpoint.",
  429: "The endpoint is busy.",
  503: "The endpoint can't answer now.",
  504: "The answer took too long.",
};

async function refusal(response) {
  const body = parsed(await response.text().catch(() => ""));
  const known = STATUS_WORDS[response.status] ?? `The endpoint answered with status ${response.status}.`;
  const told = words(body?.error);
  return [known, told, retryWords(response.headers.get("Retry-After"))].filter(Boolean).join(" ");
}

// Retry-After is seconds or a date.
function retryWords(value) {
  if (!value) return "";
  const seconds = /^\d+$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return seconds > 0 ? `Try again in ${Math.ceil(seconds)} s.` : "Try again.";
}

function words(error) {
  const message = typeof error === "string" ? error : error?.message;
  if (typeof message !== "string" || !message) return "";
  return /[.!?]$/.test(message) ? message : `${message}.`;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
