/**
 * Text to token ids and back, as in Python: lines without their newlines are encoded, and the id `eos` ends a line.
 *
 * Every tokenizer has `unknown`, `eos`, `encode(line)`, `decode(ids)` and `lacking(line)`, the parts of a line that
 * the vocabulary lacks.
 */

import { SentencePieces } from "./sentencepiece.js";

/** Make the tokenizer that a tokenizer.json describes. */
export function makeTokenizer(fields) {
  if (fields.kind === "word") return new Vocabulary(fields, words, " ");
  if (fields.kind === "char") return new Vocabulary(fields, (line) => [...line], "");
  if (fields.kind === "sentencepiece") return new SentencePieces(fields);
  throw new Error(`The tokenizer is of the kind ${fields.kind}, which this page does not know.`);
}

/** The ids of a prompt of one or more lines. */
export function encodePrompt(tokenizer, prompt) {
  return promptLines(prompt).flatMap((line, i) => [...(i ? [tokenizer.eos] : []), ...tokenizer.encode(line)]);
}

/** The parts of a prompt that the vocabulary lacks, each once. */
export function lackingParts(tokenizer, prompt) {
  return [...new Set(promptLines(prompt).flatMap((line) => tokenizer.lacking(line)))];
}

function promptLines(prompt) {
  return prompt.split(/\r\n|\r|\n/);
}

/** Units of text with an id each: words between white space, or characters. */
class Vocabulary {
  constructor({ types, unknown, eos }, units, separator) {
    this.types = types;
    this.ids = new Map(types.map((unit, id) => [unit, id]));
    this.unknown = unknown;
    this.eos = eos;
    this.units = units;
    this.separator = separator;
  }

  encode(line) {
    return this.units(line).map((unit) => this.ids.get(unit) ?? this.unknown);
  }

  lacking(line) {
    return this.units(line).filter((unit) => !this.ids.has(unit));
  }

  decode(ids) {
    const parts = [];
    let lineIsEmpty = true;
    for (const id of ids) {
      if (id === this.eos) {
        parts.push("\n");
      } else {
        parts.push(lineIsEmpty ? "" : this.separator, this.types[id]);
      }
      lineIsEmpty = id === this.eos;
    }
    return parts.join("");
  }
}

/** The words of a line, between what Python takes as white space, which JavaScript's `\s` is not quite. */
function words(line) {
  const space = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/;
  return line.split(space).filter((word) => word !== "");
}
