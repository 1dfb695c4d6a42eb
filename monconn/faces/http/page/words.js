/** What monconn's words mean, as the server explains them: reasons, refusals, alarms, actions. */
import { Problem, get, path } from "./api.js";

/** @type {Map<string, Promise<string>>} */
const known = new Map();

/**
 * What a word means, in one line.
 *
 * @param {string} word
 * @returns {Promise<string>} Empty if it is no such word, or the server says nothing now.
 */
export function meaningOf(word) {
  let meaning = known.get(word);
  if (meaning === undefined) {
    meaning = ask(word);
    known.set(word, meaning);
  }
  return meaning;
}

/** @param {string} word */
async function ask(word) {
  try {
    const answer = await get(path("words", word));
    return String(answer.explanations?.[0]?.short ?? "");
  } catch (error) {
    if (!(error instanceof Problem)) {
      throw error;
    }
    if (error.status !== 404) {
      known.delete(word); // another time
    }
    return "";
  }
}
