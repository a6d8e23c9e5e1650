// What the label page and the statistics page share: elements made of text alone, the token, requests, the theme.

export const PLACES = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"];
const MOST_NAMED = 5;
const MOST_MARKS = 500;
export const letter = (position) => String.fromCharCode(65 + position);

// An element with properties and children; strings become text, never markup.
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "role" || name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const find = (id) => document.getElementById(id);

// Signs that show nothing or turn the direction of what follows: a reader would not see what a model reads.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0e\ufeff\uffa0\ufff9-\ufffc\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}\ud800-\udfff]/u;
const NAMES = {
  0x00: "NUL", 0x07: "BEL", 0x08: "BS", 0x0b: "VT", 0x0c: "FF", 0x0d: "CR", 0x1b: "ESC", 0x7f: "DEL", 0xad: "SHY",
  0x61c: "ALM", 0x200b: "ZWSP", 0x200c: "ZWNJ", 0x200d: "ZWJ", 0x200e: "LRM", 0x200f: "RLM", 0x2028: "LS", 0x2029: "PS",
  0x202a: "LRE", 0x202b: "RLE", 0x202c: "PDF", 0x202d: "LRO", 0x202e: "RLO", 0x2060: "WJ", 0x2066: "LRI", 0x2067: "RLI",
  0x2068: "FSI", 0x2069: "PDI", 0xfeff: "BOM",
};
const JOINED = /[\p{L}\p{M}\p{Extended_Pictographic}\p{Emoji_Modifier}\ufe0f]/u;

// Whether the sign at that place of an array of code points must be shown as a mark.
export function isHidden(signs, at) {
  const sign = signs[at];
  if (!HIDDEN.test(sign)) return false;
  if (sign === "\r") return signs[at + 1] !== "\n";
  // Joiners within a word or an emoji are spelling.
  if (sign === "\u200c" || sign === "\u200d") return !(at > 0 && at + 1 < signs.length && JOINED.test(signs[at - 1]) && JOINED.test(signs[at + 1]));
  return true;
}

const nameOf = (sign) => NAMES[sign.codePointAt(0)] ?? `U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

// data-signs: how many code points it stands for.
function markOf(signs) {
  const names = signs.slice(0, MOST_NAMED).map(nameOf).join(" ");
  const shown = signs.length > MOST_NAMED ? `${signs.length} hidden characters` : names;
  const title = `hidden: ${names}${signs.length > MOST_NAMED ? " ..." : ""}`;
  return make("span", { class: "control", title, contentEditable: "false", "data-signs": signs.length }, shown);
}

// Appends code points first..end-1 as text, hidden ones as marks; a run of many is one mark. Layout takes seconds where
// there are tens of thousands of marks, so in a text that is made of them the further ones are the replacement character.
export function appendSigns(element, signs, first = 0, end = signs.length) {
  let numMarks = element.querySelectorAll(".control").length;
  let plain = "";
  for (let at = first; at < end; ) {
    let past = at;
    while (past < end && isHidden(signs, past)) past++;
    const run = signs.slice(at, past);
    if (run.length && numMarks < MOST_MARKS) {
      element.append(plain, ...(run.length > MOST_NAMED ? [markOf(run)] : run.map((sign) => markOf([sign]))));
      plain = "";
      numMarks += 1;
    } else plain += run.length ? "\ufffd".repeat(run.length) : signs[past++];
    at = past;
  }
  element.append(plain);
}

// One line without hidden signs, for labels and names.
export function oneLine(text, most = 80) {
  const signs = [...String(text)].map((sign, at, all) => (sign === "\n" || sign === "\t" || isHidden(all, at) ? " " : sign));
  return signs.length > most ? `${signs.slice(0, most - 1).join("")}…` : signs.join("");
}

// Storage that may be full or forbidden: then what is there is kept in memory, for as long as the page is open.
function keeper(open) {
  const memory = new Map();
  const within = (act, otherwise) => {
    try {
      return act(open());
    } catch {
      return otherwise();
    }
  };
  return {
    get: (key) => (memory.has(key) ? memory.get(key) : within((store) => store.getItem(key), () => null)),
    set: (key, value) => within((store) => (store.setItem(key, value), memory.delete(key)), () => memory.set(key, value)),
    remove: (key) => (memory.delete(key), within((store) => store.removeItem(key), () => null)),
    keys: () => within((store) => Object.keys(store), () => [...memory.keys()]),
  };
}
export const session = keeper(() => window.sessionStorage);
export const local = keeper(() => window.localStorage);

// The token of the address goes into the tab's own storage, and the address is cleaned.
export function takeToken() {
  const fragment = decodeURIComponent(window.location.hash.slice(1).replace(/%(?![0-9a-f]{2})/gi, "%25"));
  if (!fragment) return false;
  session.set("token", fragment);
  window.history.replaceState(null, "", window.location.pathname + window.location.search);
  return true;
}

// Who works in this tab.
export const whoIsHere = () => ({ token: session.get("token"), name: session.get("name") });

// {status, body}; status 0: nobody answered. Never throws.
export async function request(path, body, { token, name } = whoIsHere()) {
  const headers = { accept: "application/json" };
  if (token && /^[\x21-\x7e]+$/.test(token)) headers["x-token"] = token;
  if (name) headers["x-annotator"] = encodeURIComponent(name);
  const options = { headers, cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(20000) };
  if (body !== undefined) {
    headers["content-type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  try {
    const response = await fetch(path, options);
    return { status: response.status, body: await response.json() };
  } catch {
    // Also an answer that broke off: whether it arrived is not known, so it counts as none.
    return { status: 0, body: {} };
  }
}

export const NO_TOKEN =
  "This address lacks its token: open the whole link that `rlvr label` printed (it ends with # and the token), or ask who sent it for theirs.";
export const BAD_TOKEN =
  "The server does not know this token (another database, or a new token): open the newest link that `rlvr label` printed, or ask who sent it for theirs.";

// Light, dark, or as the system has it.
export function setUpTheme(button) {
  const themes = ["system", "light", "dark"];
  const show = () => {
    const theme = themes.includes(local.get("theme")) ? local.get("theme") : "system";
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    return theme;
  };
  button.addEventListener("click", () => {
    local.set("theme", themes[(themes.indexOf(show()) + 1) % themes.length]);
    show();
  });
  window.addEventListener("storage", show);
  show();
}
