"use strict";
// One answer on the page. Text of the endpoint is put there as text, never as markup.
const FINAL_FIGURES = [
  ["target steps", "target_steps", 0],
  ["drafted", "drafted_tokens", 0],
  ["accepted", "accepted_tokens", 0],
  ["relaxed", "relaxed_tokens", 0],
  ["shifted", "shifted_tokens", 0],
  ["waited", "queue_s", 2, " s"],
  ["prefill", "prefill_s", 2, " s"],
  ["decoding", "decode_s", 2, " s"],
];

class AnswerView {
  #element;
  #caption;
  #counts = {};
  #text = new TokenText();
  #askedMs = performance.now();
  #firstMs = null;

  constructor(template, question, about) {
    this.#element = template.content.firstElementChild.cloneNode(true);
    this.#caption = this.#element.querySelector(".caption");
    this.#put(".asked", question);
    this.#put(".about", about);
    this.#element.classList.add("is-running");
    this.#pickKinds();
  }

  get element() { return this.#element; }

  // A chunk of the stream.
  add(chunk) {
    const content = chunk.choices?.[0]?.delta?.content ?? "";
    const tokens = chunk.speculation?.tokens ?? [];
    if (content || tokens.length) this.#firstMs ??= performance.now();
    this.#append(this.#text.add(content, tokens));
    for (const token of tokens) this.#count(token);
    if (tokens.length) this.#showLive();
    if (chunk.speculation?.target_steps !== undefined) this.#showFinal(chunk.speculation, chunk.usage);
    if (chunk.choices?.[0]?.finish_reason === "length") {
      this.#put(".about", `${this.#element.querySelector(".about").textContent} · cut at the most tokens`);
    }
  }

  // However it ended; `problem` says what went wrong.
  end(problem = "") {
    this.#append(this.#text.end());
    this.#element.classList.remove("is-running");
    const shown = this.#element.querySelector(".problem");
    shown.hidden = !problem;
    shown.textContent = problem;
    if (problem && this.#firstMs === null) {
      this.#caption.hidden = true;
      this.#element.querySelector(".tiles").hidden = true;
    }
  }

  get numTokens() {
    return KINDS_OF_DRAFT.concat(KINDS_OF_TARGET).reduce((sum, kind) => sum + this.#of(kind), 0);
  }

  #append(pieces) {
    for (const { text, token } of pieces) {
      if (!text) continue;
      const span = document.createElement("span");
      span.textContent = text;
      if (token && KINDS_OF_DRAFT.concat(KINDS_OF_TARGET).includes(token.kind)) {
        span.className = `token ${token.kind}`;
        span.title = tokenTitle(token);
      }
      if (token?.is_anchor === true) underline(span, text);
      this.#caption.append(span);
    }
  }

  #count(token) {
    this.#counts[token.kind] = this.#of(token.kind) + 1;
    if (token.is_anchor === true) this.#counts.anchor = this.#of("anchor") + 1;
  }

  #of(kind) { return this.#counts[kind] ?? 0; }

  #showLive() {
    this.#element.querySelector(".legend").hidden = false;
    for (const button of this.#element.querySelectorAll("[data-kind]")) {
      button.querySelector(".count").textContent = String(this.#of(button.dataset.kind));
    }
    const drafted = KINDS_OF_DRAFT.reduce((sum, kind) => sum + this.#of(kind), 0);
    // Each step ends with one token of the target's own; the first of all is the prefill's.
    const steps = KINDS_OF_TARGET.reduce((sum, kind) => sum + this.#of(kind), 0) - 1;
    const seconds = (performance.now() - this.#firstMs) / 1000;
    this.#put(".tokens", String(this.numTokens));
    this.#put(".first", ((this.#firstMs - this.#askedMs) / 1000).toFixed(2));
    if (steps > 0) this.#put(".accepted", (drafted / steps).toFixed(2));
    if (seconds > 0.05) this.#put(".speed", (this.numTokens / seconds).toFixed(0));
  }

  #showFinal(figures, usage) {
    const put = (selector, value, digits) => {
      if (Number.isFinite(value)) this.#put(selector, value.toFixed(digits));
    };
    put(".speed", figures.tokens_per_s, 0);
    put(".accepted", figures.mean_accepted_length, 2);
    put(".first", figures.first_token_s, 2);
    put(".tokens", usage?.completion_tokens, 0);
    const list = this.#element.querySelector(".final");
    list.replaceChildren();
    for (const [name, key, digits, unit = ""] of FINAL_FIGURES) {
      if (!Number.isFinite(figures[key])) continue;
      const row = document.createElement("div");
      const [term, value] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name;
      value.textContent = figures[key].toFixed(digits) + unit;
      row.append(term, value);
      list.append(row);
    }
    list.hidden = false;
  }

  #put(selector, text) { this.#element.querySelector(selector).textContent = text; }

  // The legend's buttons pick out one kind.
  #pickKinds() {
    const buttons = [...this.#element.querySelectorAll("[data-kind]")];
    for (const button of buttons) {
      button.addEventListener("click", () => {
        const only = button.getAttribute("aria-pressed") === "true" ? null : button.dataset.kind;
        for (const other of buttons) {
          other.setAttribute("aria-pressed", String(other.dataset.kind === only));
        }
        if (only) this.#caption.parentElement.dataset.only = only;
        else delete this.#caption.parentElement.dataset.only;
      });
    }
  }
}

const KINDS_OF_DRAFT = ["exact", "relaxed", "shifted"];
const KINDS_OF_TARGET = ["correction", "bonus"];

// The word alone, without the space that it begins with.
function underline(span, text) {
  const word = document.createElement("u");
  word.className = "anchor";
  word.textContent = text.trimStart();
  span.replaceChildren(text.slice(0, text.length - word.textContent.length), word);
}

function tokenTitle(token) {
  const parts = [token.kind];
  if (token.is_anchor === true) parts.push("anchor");
  if (Number.isFinite(token.anchor_rank)) {
    parts.push(`more visual than ${(token.anchor_rank * 100).toFixed(0)}% of tokens`);
  }
  return parts.join(" · ");
}
