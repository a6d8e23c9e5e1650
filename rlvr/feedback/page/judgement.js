// What somebody thinks of the item on the page, as plain data, and what each key does to it. Knows nothing of the document.

import { letter, PLACES } from "./common.js";

// places: [[position, ...], ...], best first. tied: the next one that is chosen joins the last place.
export function blank(item) {
  return { places: [], tied: false, ratings: {}, thumbs: {}, text: item.draft ?? "", spans: [], comment: "" };
}

// A judgement as the server sent it back after an undo.
export function restored(item, previous) {
  const state = blank(item);
  if (!previous) return state;
  if (previous.ranking) state.places = previous.ranking.map((place) => [...place]);
  for (const [position, given] of Object.entries(previous.ratings ?? {})) state.ratings[position] = { ...given };
  Object.assign(state.thumbs, previous.thumbs ?? {});
  if (typeof previous.text === "string") state.text = previous.text;
  if (previous.spans) state.spans = previous.spans.map((span) => ({ ...span }));
  state.comment = previous.comment ?? "";
  return state;
}

export const ranks = (item) => item.mode === "compare" || item.mode === "rank";
const positions = (item) => item.completions.map((_, position) => position);
const left = (item, state) => positions(item).filter((position) => !state.places.flat().includes(position));

// The position becomes the next best; the only one that is then left takes the last place by itself.
export function choose(item, state, position) {
  if (state.places.flat().includes(position)) return `Answer ${letter(position)} has its place already; u takes the last choice back.`;
  if (state.tied && state.places.length) state.places.at(-1).push(position);
  else state.places.push([position]);
  state.tied = false;
  const rest = left(item, state);
  if (rest.length === 1) state.places.push(rest);
  return "";
}

// With nothing chosen all tie; while some are left the next one joins the last place; then the last two places become one.
export function tie(item, state) {
  if (!state.places.length) state.places = [positions(item)];
  else if (left(item, state).length) state.tied = !state.tied;
  else if (state.places.length > 1) state.places.push([...state.places.pop(), ...state.places.pop()].sort((a, b) => a - b));
}

export function placeOf(state, position) {
  return state.places.findIndex((place) => place.includes(position));
}

const list = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);
const answers = (place) => `Answer${place.length > 1 ? "s" : ""} ${list([...place].sort((a, b) => a - b).map(letter))}`;

// "Answer B is first. Answers A and C tie for second."
export function describeRanking(item, state) {
  if (!state.places.length) return "Nothing is chosen yet.";
  if (state.places.length === 1 && !left(item, state).length) return "All answers tie.";
  const said = state.places.map((place, k) => `${answers(place)} ${place.length > 1 ? "tie for" : "is"} ${PLACES[k]}.`);
  if (state.tied) said.push(`The next one ties with ${list(state.places.at(-1).map(letter))}.`);
  return said.join(" ");
}

// Rows of ratings in order: [[position, attribute], ...].
export const rows = (item) => positions(item).flatMap((position) => item.attributes.map((attribute) => [position, attribute]));
export const isRated = (state, [position, attribute]) => state.ratings[position]?.[attribute] !== undefined;

export function rate(state, [position, attribute], value) {
  state.ratings[position] = { ...state.ratings[position], [attribute]: value };
}

// Marks first..end-1 (code points) with the label; what it touches of the same label becomes one span.
export function mark(state, completion, first, end, label) {
  const same = (span) => span.completion === completion && span.label === label && span.first <= end && span.end >= first;
  const touched = state.spans.filter(same);
  const joined = { completion, first: Math.min(first, ...touched.map((span) => span.first)), end: Math.max(end, ...touched.map((span) => span.end)), label };
  state.spans = [...state.spans.filter((span) => !same(span)), joined].sort((a, b) => a.completion - b.completion || a.first - b.first || a.end - b.end);
}

// What is still missing before it can be submitted, as one line; "" where nothing is.
export function missing(item, state) {
  if (ranks(item) && left(item, state).length) {
    return `${answers(left(item, state))} ${left(item, state).length > 1 ? "have" : "has"} no place yet: press ${list(left(item, state).map((position) => String(position + 1)))}, or s to skip.`;
  }
  const unrated = rows(item).find((row) => !isRated(state, row));
  if (unrated) return `Answer ${letter(unrated[0])} is not rated for ${unrated[1]} yet.`;
  const without = item.mode === "thumbs" ? positions(item).find((position) => state.thumbs[position] === undefined) : undefined;
  if (without !== undefined) return `Answer ${letter(without)} has no thumb yet: y for up, n for down, or s to skip.`;
  if (item.mode === "write" && !state.text.trim()) return "The answer is empty: write one, or skip.";
  return "";
}

// The fields of the event that is sent.
export function body(item, state) {
  const sent = {};
  if (ranks(item)) sent.ranking = state.places;
  if (item.attributes.length) sent.ratings = state.ratings;
  if (item.mode === "thumbs") sent.thumbs = state.thumbs;
  if (item.mode === "write") sent.text = state.text;
  if (item.mode === "spans") sent.spans = state.spans;
  return sent;
}
