// The statistics page: whatever GET /api/stats answers, as plain tables. No section is needed by name, so none can be missing.

import { appendSigns, BAD_TOKEN, find, make, NO_TOKEN, oneLine, request, session, setUpTheme, takeToken } from "./common.js";

const MOST_ROWS = 500;
const MEANINGS = {
  alpha: "Krippendorff's alpha with its 95 % interval (low, high). 1: all agree, 0: chance; below 0.67 labels are noisy.",
  people:
    "Reliability: share right by Dawid and Skene, with its interval; 0.5 is guessing. Repeats: share answered otherwise the second time. Agreement: share of the others' votes that say the same. Preference for what is shown first: log odds, 0 is none. Too fast: share answered faster than one can read.",
  disputed: "Most disputed first. Dispute: what is not known of the better one, in bits; of ratings the mean difference of two people as a share of the scale.",
};
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const isPlain = (value) => value === null || typeof value !== "object" || (Array.isArray(value) && value.every((one) => one === null || typeof one !== "object"));
// Of the figures' names in GET /api/stats; others are shown with blanks for their underscores.
const WORDS = {
  overview: "Overview", progress: "Progress", modes: "Kinds of questions", alpha: "Alpha", people: "People", skips: "Skips",
  disputed: "Disputed items", groups: "Groups", reliability_within: "Reliability is told within",
  items: "Items", gold_items: "Items with a known answer", answered: "Items answered", answers: "Answers", repeats: "Repeats",
  unknown: "Answers to unknown items", answers_per_item: "Answers per item", hours: "Hours of work", median_seconds: "Median seconds",
  kendall_w: "Kendall's W", kendall_w_items: "Items of Kendall's W",
  by: "By", name: "Name", what: "What is judged", level: "Scale", low: "Low", high: "High", group: "Group", source: "Source", mode: "Kind", item: "Item",
  gold: "Right on known answers", reliability: "Reliability", reliability_thumbs: "Reliability of thumbs", agreement: "Agreement with the others",
  ratings: "Ratings against the others'", position: "Preference for what is shown first", too_fast: "Too fast", flags: "Flags",
  dispute: "Dispute", votes: "Votes", completions: "Answers compared", rows: "Differences", advice: "Advice", first: "Share for the first",
  within: "Within groups", between: "Between groups", correlation: "Correlation", difference: "Difference", p: "p", smallest_p: "Smallest p possible", differs: "Differ",
};
// Objects whose keys are people's own words: groups, reasons, names.
const OWN_KEYS = ["skips", "modes", "people"];
const words = (name) => oneLine(Object.hasOwn(WORDS, name) ? WORDS[name] : String(name).replaceAll("_", " "), 120);
const plainly = (name) => oneLine(name, 120);

function shown(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return Number.isInteger(value) ? value.toLocaleString("en") : String(Math.abs(value) < 1e-9 ? 0 : Number(value.toPrecision(3)));
  if (Array.isArray(value)) return value.length ? value.map(shown).join(", ") : "none";
  return String(value);
}

// One line of a small object: {value: 0.91, low: 0.86, high: 0.95, n: 412} is "0.91 (0.86 to 0.95), n 412".
function inLine(value) {
  if (Array.isArray(value)) return value.map(inLine).join("; ");
  if (!isObject(value)) return shown(value);
  const { value: main, low, high, ...rest } = value;
  const first = main === undefined ? [] : [low === undefined || low === null ? shown(main) : `${shown(main)} (${shown(low)} to ${shown(high)})`];
  const others = main === undefined ? Object.entries(value) : Object.entries(rest);
  return [...first, ...others.map(([name, one]) => `${plainly(name.replaceAll("_", " "))} ${isObject(one) ? `(${inLine(one)})` : shown(one)}`)].join(", ") || "none";
}

function cell(value) {
  const made = make("td", { class: typeof value === "number" ? "number" : "" });
  const signs = [...(isPlain(value) ? shown(value) : inLine(value))];
  appendSigns(made, signs);
  return made;
}

const heading = (name, scope, isOwn = false) => make("th", { scope }, isOwn ? plainly(name) : words(name));

function table(caption, label, head, body) {
  const name = words(caption || label);
  const rest = body.length > MOST_ROWS ? make("p", { class: "quiet" }, `and ${body.length - MOST_ROWS} more: rlvr feedback stats shows all`) : "";
  const made = make("table", { "aria-label": name }, caption ? make("caption", {}, name) : "", head.length ? make("thead", {}, make("tr", {}, ...head.map((name) => heading(name, "col")))) : "", make("tbody", {}, ...body.slice(0, MOST_ROWS)));
  return make("div", { class: "wide", tabIndex: 0, role: "group", "aria-label": name }, made, rest);
}

// Columns in which nothing is told of anybody are left out.
const isTold = (value) => value !== null && value !== undefined && value !== "" && (typeof value !== "object" || Object.keys(value).length > 0);
const columnsOf = (rows) => [...new Set(rows.flatMap((row) => Object.keys(row).filter((name) => isTold(row[name]))))];

// A table, or several, of any value; the label names them where no caption does.
function blocks(value, label, caption = "") {
  if (isPlain(value)) return [make("p", { class: "quiet" }, shown(value))];
  if (Array.isArray(value)) {
    const rows = value.map((row) => (isObject(row) ? row : { value: row }));
    const columns = columnsOf(rows);
    return [table(caption, label, columns, rows.map((row) => make("tr", {}, ...columns.map((name) => cell(row[name])))))];
  }
  const entries = Object.entries(value);
  if (!entries.length) return [make("p", { class: "quiet" }, caption ? `${words(caption)}: none` : "none")];
  const plain = entries.filter(([, one]) => isPlain(one));
  const parts = entries.filter(([, one]) => !isPlain(one));
  const made = [];
  const isOwn = OWN_KEYS.includes(caption || label);
  if (plain.length) made.push(table(caption, label, [], plain.map(([name, one]) => make("tr", {}, heading(name, "row", isOwn), cell(one)))));
  // Objects that are alike are rows of one table: people, attributes, sources.
  if (parts.length && parts.every(([, one]) => isObject(one) && Object.values(one).every(isPlain)) && !plain.length) {
    const columns = columnsOf(parts.map(([, one]) => one));
    made.push(table(caption, label, ["", ...columns], parts.map(([name, one]) => make("tr", {}, heading(name, "row", isOwn), ...columns.map((column) => cell(one[column]))))));
  } else for (const [name, one] of parts) made.push(...blocks(one, label, name));
  return made;
}

function section(name, value) {
  const id = `section-${name.replace(/\W/g, "-")}`;
  return make("section", { "aria-labelledby": id }, make("h2", { id }, name === "alpha" ? "Agreement" : words(name)), ...(Object.hasOwn(MEANINGS, name) ? [make("p", { class: "quiet" }, MEANINGS[name])] : []), ...blocks(value, name));
}

async function show() {
  find("message").textContent = "";
  const { status, body } = await request("/api/stats");
  if (status !== 200) {
    find("status").textContent = "";
    const why = status === 401 ? (session.get("token") ? BAD_TOKEN : NO_TOKEN) : (body.error ?? "The server does not answer; press Read again once it does.");
    find("message").textContent = oneLine(why, 400);
    return;
  }
  const entries = Object.entries(body).filter(([name]) => name !== "schema");
  const plain = Object.fromEntries(entries.filter(([, value]) => isPlain(value)));
  const parts = entries.filter(([, value]) => !isPlain(value));
  find("sections").replaceChildren(...(Object.keys(plain).length ? [section("overview", plain)] : []), ...parts.map(([name, value]) => section(name, value)));
  find("status").textContent = `As of ${new Date().toLocaleTimeString()}`;
}

takeToken();
setUpTheme(find("theme"));
find("again").addEventListener("click", show);
window.addEventListener("hashchange", () => takeToken() && show());
show();
