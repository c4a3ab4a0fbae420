"use strict";
// Lays tokens along the text of an answer as both arrive. The text is the truth: a token alone may
// be half a character, or begin with a space that the whole drops. Where one does not fit, the text
// up to the next that does is its own.
class TokenText {
  #text = "";
  #tokens = [];

  // Pieces [{text, token}] that are certain by now, in order. Every token comes once; its text may
  // be empty.
  add(text, tokens) {
    this.#text += text;
    this.#tokens.push(...tokens);
    const pieces = [];
    while (this.#tokens.length) {
      const length = this.#lengthOfFirst();
      if (length === null) break;
      pieces.push(this.#take(length));
    }
    return pieces;
  }

  // What is left at the end.
  end() {
    const pieces = [];
    while (this.#tokens.length > 1) pieces.push(this.#take(this.#lengthOfFirst() ?? 0));
    if (this.#tokens.length || this.#text) pieces.push(this.#take(this.#text.length));
    return pieces;
  }

  #take(length) {
    const text = this.#text.slice(0, length);
    this.#text = this.#text.slice(length);
    return { text, token: this.#tokens.shift() ?? null };
  }

  #lengthOfFirst() {
    const own = this.#tokens[0].text;
    if (own === "") return 0;
    if (this.#text.startsWith(own)) return own.length;
    const bare = own.replace(/^ +/, "");
    if (bare && this.#text.startsWith(bare)) return bare.length;
    if (own.startsWith(this.#text)) return null;  // more of it is to come
    for (const { text } of this.#tokens.slice(1)) {
      const place = text && !text.includes("\ufffd") ? this.#text.indexOf(text) : -1;
      if (place >= 0) return place;
    }
    return null;
  }
}
