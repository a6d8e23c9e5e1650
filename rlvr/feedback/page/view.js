// The item on the page: made once when it comes, then only what changes is touched, so that the focus stays where it is.

import { appendSigns, find, letter, make, oneLine, PLACES } from "./common.js";
import { describeRanking, isRated, missing, placeOf, ranks, rows } from "./judgement.js";
import { makeMarkable, showMarks } from "./spans.js";

const FOLDED = 8000;
// More than this many code points wait behind a button: nine texts of 200,000 would make each key slow.
const TITLES = {
  compare: "Which answer is better?",
  rank: "Rank the answers, best first",
  rate: "Rate each answer",
  thumbs: "Is the answer good?",
  write: "Write the best answer",
  spans: "Mark what does not belong there",
};
const ROLES = { user: "User", assistant: "Assistant", system: "System", tool: "Tool", developer: "Developer" };

function textBlock(text) {
  const signs = [...text];
  const block = make("div", { class: "text", dir: "auto", translate: false });
  if (signs.length <= FOLDED) {
    appendSigns(block, signs);
    return block;
  }
  appendSigns(block, signs, 0, FOLDED);
  const more = make("button", { type: "button", class: "more", onclick: () => (more.remove(), appendSigns(block, signs, FOLDED)) });
  more.append(`Show the other ${(signs.length - FOLDED).toLocaleString("en")} characters `, make("kbd", {}, "e"));
  return make("div", {}, block, more);
}

// Nothing, or blanks alone: said beside the text, so that nobody takes the words for the model's.
const emptyNote = (text) => (text.trim() ? null : make("p", { class: "empty", role: "note" }, text ? "(blanks alone: the model wrote no words)" : "(empty: the model wrote nothing)"));

function showPrompt(prompt) {
  // A text may stand alone, without a prompt.
  const turns = typeof prompt !== "string" ? prompt : prompt ? [{ role: "user", content: prompt }] : [];
  find("prompt").replaceChildren(
    ...turns.map((turn) => make("div", { class: "turn" }, make("h3", {}, ROLES[turn.role] ?? oneLine(turn.role, 40)), textBlock(String(turn.content ?? "")))),
  );
}

function ratingRow(page, position, attribute) {
  const { low, high } = page.item.rating;
  const group = `rate-${position}-${page.item.attributes.indexOf(attribute)}`;
  const scale = make("div", { class: "scale" });
  for (let value = low; value <= high; value++) {
    const radio = make("input", { type: "radio", name: group, value: String(value), onchange: () => page.act.rate([position, attribute], value, false) });
    const extreme = value === low ? " (lowest)" : value === high ? " (highest)" : "";
    radio.setAttribute("aria-label", `${value}${extreme}`);
    scale.append(make("label", {}, radio, String(value)));
  }
  const row = make("fieldset", { id: group }, make("legend", {}, oneLine(attribute, 100), make("span", { class: "quiet" }, ` of answer ${letter(position)}`)), scale);
  row.addEventListener("focusin", () => page.act.toRow(rows(page.item).findIndex(([p, a]) => p === position && a === attribute), false));
  return row;
}

function thumbButtons(page, position) {
  const button = (value, name, key) =>
    make("button", { type: "button", class: "thumb", "data-thumb": String(value), "aria-pressed": "false", "aria-label": `${name}: answer ${letter(position)}`, onclick: () => page.act.thumb(position, value) },
      `${name} `, make("kbd", {}, key));
  return make("div", { class: "tools" }, button(true, "Good", "y"), button(false, "Bad", "n"));
}

function answerCard(page, text, position) {
  const { item } = page;
  const name = `Answer ${letter(position)}`;
  const place = make("span", { class: "place" });
  const head = make("div", { class: "head" }, make("h3", { id: `name-${position}` }, name), ranks(item) || (item.mode === "thumbs" && item.completions.length > 1) ? make("kbd", {}, String(position + 1)) : null);
  const card = make("div", { class: "answer", id: `answer-${position}`, role: "group", "data-position": position }, head);
  if (ranks(item)) head.append(make("button", { type: "button", class: "choose", "aria-label": `Choose answer ${letter(position)} as the next best`, onclick: (event) => page.act.choose(position, event.detail > 0) }, "Choose"));
  head.append(place);
  if (item.mode === "spans") {
    page.signs[position] = [...text];
    card.append(makeMarkable({ id: `text-${position}`, "aria-labelledby": `name-${position}` }), make("ul", { class: "marks", "aria-label": `Marks in answer ${letter(position)}` }));
  } else card.append(textBlock(text));
  const note = emptyNote(text);
  if (note) card.append(note);
  for (const attribute of item.attributes) card.append(ratingRow(page, position, attribute));
  if (item.mode === "thumbs") card.append(thumbButtons(page, position));
  card.addEventListener("focusin", () => page.act.toAnswer(position, false));
  return card;
}

function showMarking(page) {
  const { item } = page;
  find("marking").hidden = item.mode !== "spans";
  const labels = item.labels.map((label, k) =>
    make("button", { type: "button", class: "label", "aria-pressed": String(k === page.label), onclick: () => page.act.label(k) }, `${oneLine(label, 100)} `, item.labels.length > 1 ? make("kbd", {}, String(k + 1)) : null));
  find("marking").replaceChildren(
    ...(labels.length > 1 ? labels : []),
    // mousedown would take the selection away before the click.
    make("button", { type: "button", id: "mark", onmousedown: (event) => event.preventDefault(), onclick: () => page.act.mark() }, "Mark the selection ", make("kbd", {}, "m")),
    make("button", { type: "button", id: "unmark", onmousedown: (event) => event.preventDefault(), onclick: () => page.act.unmark() }, "Take the mark away ", make("kbd", {}, "x")),
  );
}

const KEYS = {
  compare: (n) => `1 ${n > 2 ? "to" : "or"} ${n} the better one, t tie`,
  rank: (n) => `1 to ${n} next best, t tie with the last`,
  rate: () => "a number rates the marked row, up and down change the row",
  thumbs: () => "y good, n bad",
  write: () => "w into the text field",
  spans: () => "arrows move, Shift selects, Ctrl by word, m mark, x take away",
};

// Those that act where the focus is.
export function showKeys({ item }, isTyping) {
  const rated = item.attributes.length && item.mode !== "rate" ? ", r rate" : "";
  find("keys").textContent = isTyping
    ? "You are in the text field: Esc leaves it, so that keys act; Ctrl Enter submits."
    : `Keys: ${KEYS[item.mode](item.completions.length)}${rated}, u undo, s skip, Enter submit, ? all keys.`;
}

// Builds the item anew; `page` is {item, state, current, row, label, signs, act}.
export function showItem(page) {
  const { item } = page;
  find("what").textContent = TITLES[item.mode];
  showPrompt(item.prompt);
  const shown = item.mode === "write" ? [] : item.completions;
  find("answers").replaceChildren(...shown.map((text, position) => answerCard(page, text, position)));
  find("answers").hidden = !shown.length;
  find("writing").hidden = item.mode !== "write";
  find("text").value = page.state.text;
  find("comment").value = page.state.comment;
  find("tie").hidden = !ranks(item);
  showMarking(page);
  showKeys(page, false);
  if (item.mode === "spans") for (const position of item.completions.keys()) refreshMarks(page, position);
  refresh(page);
}

export function refreshMarks(page, position) {
  const spans = page.state.spans.filter((span) => span.completion === position);
  showMarks(find(`text-${position}`), page.signs[position], spans);
  const said = (span) => oneLine(page.signs[position].slice(span.first, span.end).join(""), 60);
  find(`answer-${position}`).querySelector(".marks").replaceChildren(
    ...spans.map((span) => make("li", {}, `${oneLine(span.label, 100)}: “${said(span)}” `,
      make("button", { type: "button", "aria-label": `Take away the mark ${oneLine(span.label, 100)}: ${said(span)}`, onclick: () => page.act.unmark(span) }, "Take away"))));
}

function refreshCard(page, card, position) {
  const { item, state } = page;
  const at = placeOf(state, position);
  const place = at < 0 ? "" : `${state.places[at].length > 1 ? "tied " : ""}${PLACES[at]}`;
  card.querySelector(".place").textContent = place;
  card.classList.toggle("placed", at >= 0);
  card.classList.toggle("current", item.mode === "thumbs" && item.completions.length > 1 && position === page.current);
  card.tabIndex = position === page.current && item.mode !== "spans" ? 0 : -1;
  card.setAttribute("aria-label", `Answer ${letter(position)}${place ? `, ${place}` : ""}`);
  const thumb = state.thumbs[position];
  for (const button of card.querySelectorAll(".thumb")) button.setAttribute("aria-pressed", String(String(thumb) === button.dataset.thumb));
}

// Shows what changed; says nothing.
export function refresh(page) {
  const { item, state } = page;
  for (const card of find("answers").children) refreshCard(page, card, Number(card.dataset.position));
  rows(item).forEach(([position, attribute], k) => {
    const row = find(`rate-${position}-${item.attributes.indexOf(attribute)}`);
    if (!row) return;
    row.classList.toggle("current", item.mode === "rate" && k === page.row);
    for (const radio of row.querySelectorAll("input")) radio.checked = isRated(state, [position, attribute]) && Number(radio.value) === state.ratings[position][attribute];
  });
  for (const [k, button] of find("marking").querySelectorAll(".label").entries()) button.setAttribute("aria-pressed", String(k === page.label));
  find("submit").setAttribute("aria-disabled", String(Boolean(missing(item, state))));
}

// What stands chosen, as one line.
export function describe({ item, state, label }) {
  if (ranks(item)) {
    const rest = rows(item).filter((row) => !isRated(state, row)).length;
    return describeRanking(item, state) + (rest ? ` ${rest} rating${rest > 1 ? "s" : ""} left.` : "");
  }
  if (item.mode === "rate") return `${rows(item).filter((row) => isRated(state, row)).length} of ${rows(item).length} ratings given.`;
  if (item.mode === "thumbs") {
    const said = item.completions.map((_, k) => (state.thumbs[k] === undefined ? "" : `${letter(k)} ${state.thumbs[k] ? "good" : "bad"}`)).filter(Boolean);
    return said.length ? `${said.join(", ")}.` : "No thumb is given yet.";
  }
  if (item.mode === "spans") {
    const num = state.spans.length;
    return `${num ? `${num} mark${num > 1 ? "s" : ""}` : "Nothing is marked"}${item.labels.length > 1 ? `; the next mark is ${oneLine(item.labels[label], 100)}` : ""}.`;
  }
  return state.text.trim() ? `${[...state.text].length.toLocaleString("en")} characters.` : "Nothing is written yet.";
}
