/** Sentencepiece's unigram model: a line is cut into the pieces whose scores have the largest sum. */

const SPACE = "\u2581"; // sentencepiece's own sign for a space
const UNKNOWN_PENALTY = 10;

export class SentencePieces {
  constructor({ pieces, scores, types, unknown, eos }) {
    this.pieces = pieces;
    this.scores = scores;
    this.types = types;
    this.unknown = unknown;
    this.eos = eos;
    this.ids = new Map(); // of the normal pieces
    this.byteIds = new Map(); // of the pieces that stand for one byte each
    this.longest = 1; // piece, in characters
    let least = Infinity;
    for (const [id, piece] of pieces.entries()) {
      if (types[id] === "byte") this.byteIds.set(byteOf(piece), id);
      if (types[id] !== "normal") continue;
      this.ids.set(piece, id);
      this.longest = Math.max(this.longest, [...piece].length);
      least = Math.min(least, scores[id]);
    }
    this.unknownScore = Math.fround(least - UNKNOWN_PENALTY); // sentencepiece adds up numbers of 32 bits
  }

  /** No part of a line is lacking, since every byte has a piece. */
  lacking() {
    return [];
  }

  encode(line) {
    const characters = [...line.replaceAll(" ", SPACE)];
    const ids = [];
    for (const { id, text } of this.bestCut(characters)) {
      if (id !== this.unknown) ids.push(id);
      else ids.push(...Array.from(new TextEncoder().encode(text), (byte) => this.byteIds.get(byte)));
    }
    return ids;
  }

  /**
   * The pieces of the best cut, by Viterbi's method: the best cut up to a place is the best one up to where its last
   * piece starts, and that piece.
   */
  bestCut(characters) {
    const best = [{ score: 0 }]; // for every place: the score, and the last piece
    for (let start = 0; start < characters.length; start++) {
      let text = "";
      const stop = Math.min(start + this.longest, characters.length);
      for (let end = start + 1; end <= stop; end++) {
        text += characters[end - 1];
        const alone = end === start + 1;
        const id = this.ids.get(text) ?? (alone ? this.unknown : undefined);
        if (id === undefined) continue;
        const own = id === this.unknown ? this.unknownScore : this.scores[id];
        const score = Math.fround(best[start].score + own); // as sentencepiece adds, in 32 bits
        if (!(score <= best[end]?.score)) best[end] = { score, start, id, text };
      }
    }
    const cut = [];
    for (let end = characters.length; end > 0; end = best[end].start) cut.push(best[end]);
    return cut.reverse();
  }

  decode(ids) {
    let text = "";
    let bytes = []; // of characters that have no piece, until a piece follows
    const flush = () => {
      text += new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
      bytes = [];
    };
    for (const id of ids) {
      if (this.types[id] === "byte") {
        bytes.push(byteOf(this.pieces[id]));
        continue;
      }
      flush();
      if (id === this.eos) text += "\n";
      else if (this.types[id] === "normal") text += this.pieces[id].replaceAll(SPACE, " ");
    }
    flush();
    return text;
  }
}

/** The byte that a piece such as `<0x41>` stands for. */
function byteOf(piece) {
  return parseInt(piece.slice(1, -1), 16);
}
