/** Sampling text from a language model, one token at a time. */

/**
 * Yield the ids that continue a prompt, without end.
 *
 * `model` is what `openModel` gives, `prompt` a list of ids that may be empty, and `random` a function that draws
 * numbers from 0 to 1. The unknown token is never drawn.
 */
export async function* generate(model, tokenizer, prompt, { temperature, random }) {
  const { ort, fields } = model;
  const [tokens, ...states] = fields.inputs;
  const [logits, ...nextStates] = fields.outputs.map((output) => output.name);
  let state = states.map(({ shape }) => {
    const size = shape.reduce((product, side) => product * side, 1);
    return new ort.Tensor("float32", new Float32Array(size), shape);
  });

  async function step(token) {
    const inputs = { [tokens.name]: new ort.Tensor("int64", BigInt64Array.of(BigInt(token)), tokens.shape) };
    states.forEach(({ name }, i) => (inputs[name] = state[i]));
    const outputs = await model.run(inputs);
    state = nextStates.map((name) => outputs[name]);
    return outputs[logits].data;
  }

  // What a line starts with is learned from the end of the line before it.
  let scores = await step(tokenizer.eos);
  for (const token of prompt) scores = await step(token);
  while (true) {
    const token = sample(scores, tokenizer.unknown, temperature, random);
    yield token;
    scores = await step(token);
  }
}

/** Draw a token: the softmax of `scores / temperature` tells how likely each is; at 0 it is the likeliest. */
export function sample(scores, banned, temperature, random) {
  let best = -1;
  for (let id = 0; id < scores.length; id++) {
    if (!Number.isFinite(scores[id])) throw new Error("The model's outputs are not finite: its file may be damaged.");
    if (id !== banned && (best < 0 || scores[id] > scores[best])) best = id;
  }
  if (temperature === 0) return best;
  const weights = new Float64Array(scores.length);
  let sum = 0;
  for (let id = 0; id < scores.length; id++) {
    if (id !== banned) sum += weights[id] = Math.exp((scores[id] - scores[best]) / temperature);
  }
  let left = random() * sum;
  for (let id = 0; id < scores.length; id++) {
    left -= weights[id];
    if (left < 0) return id;
  }
  return best; // Rounding can leave a little over after the last one.
}

/** Numbers from 0 to 1 that look random and are the same for the same seed (the generator Mulberry32). */
export function seeded(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
