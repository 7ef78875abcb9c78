"use strict";
// Words and numbers as people read them. Tokens are only ever text: they enter the page by textContent.

const UNSEEN = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/gu;

/** A text in which what cannot be seen (control characters, marks that turn the writing round) has a visible stand-in. */
function visible(text) {
  if (text === "") return "∅";
  if (/^ +$/.test(text)) return "␣".repeat(text.length);
  return text.replace(UNSEEN, (char) => {
    const code = char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    return { "\n": "↵", "\t": "⇥" }[char] ?? `⟨U+${code}⟩`;
  });
}

/** GPT-2 writes each byte as a character of its own, a space as Ġ: from those characters back to the bytes. */
const BYTE_OF = new Map();
for (let byte = 0, next = 256; byte < 256; byte++) {
  const itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  BYTE_OF.set(String.fromCodePoint(itself ? byte : next++), byte);
}

/** A token as bytes make it, "Ã©" as "é"; unchanged where its bytes are no whole characters. */
function fromBytes(token) {
  const bytes = Array.from(token, (char) => BYTE_OF.get(char));
  if (bytes.includes(undefined)) return token;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
  } catch {
    return token;
  }
}

/** Tokens without their tokenizer's marks (Ġ, ▁, ##), or raw. The tokens of `text` tell whether they are made of bytes. */
function shownTokens(tokens, raw, text = tokens) {
  if (raw) return tokens.map(visible);
  const inBytes = text.some((token) => /^[ĠĊ]/.test(token));
  return tokens.map((token) => {
    const bare = (inBytes ? fromBytes(token) : token).replace(/^(?: |▁|##)(?=.)/su, "").replace(/(?<=.)<\/w>$/su, "");
    return visible(bare.replaceAll("▁", " "));
  });
}

/** A token in a sentence, kept apart from it, whichever way it is written. */
const quoted = (token) => `“\u2068${token}\u2069”`;

/** A number with so many decimals, and a true minus. */
function decimals(value, places = 2) {
  if (Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const text = value.toFixed(places);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
}

/** A number to about three digits, however large or small. */
function digits(value) {
  const size = Math.abs(value);
  if (!Number.isFinite(value) || size === 0) return decimals(value, 0);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(1).replaceAll("-", "−");
  return decimals(value, size >= 100 ? 1 : size >= 1 ? 2 : 3);
}

const percent = (share) => `${decimals(100 * share, 1)} %`;
