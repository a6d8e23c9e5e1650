// The label page: one item at a time from the server, keys and clicks to a judgement, the judgement back. Everything that
// came from elsewhere is put on the page as text.

import { appendSigns, BAD_TOKEN, find, letter, local, make, NO_TOKEN, oneLine, session, setUpTheme, takeToken } from "./common.js";
import { blank, body, choose, isRated, mark, missing, placeOf, ranks, rate, restored, rows, tie } from "./judgement.js";
import { insist, pending, send, tryNow } from "./sending.js";
import { select, selected, wordAt } from "./spans.js";
import { describe, refresh, refreshMarks, showItem, showKeys } from "./view.js";

const MOST_UNDONE = 100;
const LOOK_AGAIN_MS = 15000;

// turn: what was asked before it changed is answered to nobody (another link was opened meanwhile).
const page = { me: null, item: null, state: null, history: [], current: 0, row: 0, label: 0, signs: [], turn: 0, isBusy: false, hasWaited: false, canUndo: false, done: 0, total: 0, act: {} };

// --- what is said ---------------------------------------------------------------------------------------------------

function say(text) {
  // The same words again would not be read out.
  find("status").textContent = find("status").textContent === text ? `${text}\u00a0` : text;
}

function tell(text, isCalm = false) {
  find("message").classList.toggle("calm", isCalm);
  find("message").textContent = oneLine(text, 400);
}

function sayHow() {
  const number = page.item ? `${Math.min(page.done + 1, page.total)} of ${page.total}; ` : "";
  say(number + describe(page));
}

function showProgress() {
  const left = Math.max(page.total - page.done, 0);
  find("bar").max = Math.max(page.total, 1);
  find("bar").value = page.done;
  find("count").textContent = `${page.done} of ${page.total} done, ${left} left`;
  document.title = `${page.done} of ${page.total} · Label`;
}

function waiting(seconds, why) {
  page.hasWaited = true;
  tell(`The server did not take it (${why}): nothing is lost, the next try is in ${seconds} s, or with Enter.`);
}

// --- seconds that the item was looked at ------------------------------------------------------------------------------

const watch = { seconds: 0, since: null };
const seconds = () => watch.seconds + (watch.since === null ? 0 : (performance.now() - watch.since) / 1000);

function turnWatch() {
  watch.seconds = seconds();
  watch.since = page.item && document.visibilityState === "visible" ? performance.now() : null;
}

// --- what a reload must find again ------------------------------------------------------------------------------------

const draftKey = (id, showing) => `draft:${page.me.annotator}:${showing}:${id}`;

function keep() {
  if (!page.item || page.isBusy) return;
  session.set(draftKey(page.item.id, page.item.showing), JSON.stringify({ state: page.state, history: page.history, seconds: seconds() }));
}

// --- coming and going of items ----------------------------------------------------------------------------------------

let lookAgain = 0;

async function next() {
  clearTimeout(lookAgain);
  const turn = ++page.turn;
  const { status, body: answer } = await insist("/api/next", undefined, waiting);
  if (turn !== page.turn) return;
  if (status !== 200) return refused(status, answer);
  if (page.hasWaited) tell("");
  page.hasWaited = false;
  Object.assign(page, { done: answer.done, total: answer.total, canUndo: answer.can_undo, item: answer.item });
  showProgress();
  if (!page.item) return showEnd();
  page.item.attributes ??= [];
  page.item.labels = page.item.labels?.length ? page.item.labels : ["toxic"];
  const kept = JSON.parse(session.get(draftKey(page.item.id, page.item.showing)) ?? "null");
  page.state = kept ? { ...blank(page.item), ...kept.state } : restored(page.item, page.item.previous);
  page.history = kept?.history ?? (page.item.previous && ranks(page.item) ? [blankSnapshot()] : []);
  Object.assign(page, { current: 0, label: 0, signs: [], isBusy: false });
  page.row = Math.max(rows(page.item).findIndex((row) => !isRated(page.state, row)), 0);
  Object.assign(watch, { seconds: kept?.seconds ?? 0, since: null });
  find("done").hidden = true;
  find("task").hidden = false;
  showItem(page);
  turnWatch();
  window.scrollTo(0, 0);
  if (page.item.mode === "write") find("text").focus({ preventScroll: true });
  else if (page.item.mode === "spans") find("text-0").focus({ preventScroll: true });
  else find("task").focus({ preventScroll: true });
  sayHow();
}

function showEnd() {
  page.isBusy = false;
  find("task").hidden = true;
  find("done").hidden = false;
  find("thanks").textContent = page.done >= page.total ? `All ${page.total} are done. Thank you.` : `${page.done} of ${page.total} are done; others have the rest. This page looks again by itself.`;
  find("undo-last").hidden = !page.canUndo;
  turnWatch();
  if (!find("done").contains(document.activeElement)) find("done").focus();
  lookAgain = setTimeout(() => (document.visibilityState === "visible" ? next() : showEnd()), LOOK_AGAIN_MS);
}

function refused(status, answer) {
  page.isBusy = false;
  for (const id of ["task", "done"]) find(id).hidden = true;
  find("count").textContent = "";
  if (status !== 401) return tell(answer.error ?? `The server answered ${status}.`);
  tell(session.get("token") ? BAD_TOKEN : NO_TOKEN);
}

async function deliver(event) {
  if (page.isBusy) return tryNow();
  keep();
  page.isBusy = true;
  turnWatch();
  const turn = ++page.turn;
  const { status, body: answer, sent, isForeign } = await send(event, waiting);
  if (turn !== page.turn) return;
  if (isForeign) {
    tell("An answer given under an earlier link was not sent: the server does not know its token any more.");
    return next();
  }
  if (status === 200 || status === 409) {
    if (sent.kind === "answer") session.remove(draftKey(sent.item, sent.showing));
    page.hasWaited = false;
    if (status === 200) tell("");
    else tell(answer.error ?? "Others filled this item meanwhile; your answer is kept beside theirs.", true);
    return next();
  }
  page.isBusy = false;
  if (status === 401) return refused(status, answer);
  tell(answer.error ?? `The server answered ${status} to that ${sent.kind}.`);
  if (!page.item) return next();
  turnWatch();
}

function submit() {
  if (page.isBusy) return tryNow();
  if (!page.item) return;
  const lacking = missing(page.item, page.state);
  if (lacking) {
    tell(lacking, true);
    return;
  }
  deliver({ ...ofItem("answer"), ...body(page.item, page.state) });
}

function ofItem(kind) {
  const { item, state } = page;
  return { kind, item: item.id, showing: item.showing, lease: item.lease, seconds: Math.round(seconds() * 1000) / 1000, comment: state.comment };
}

function skip(reason) {
  find("skip-box").close();
  if (reason.trim()) deliver({ ...ofItem("answer"), skipped: reason.trim() });
}

// --- choices ----------------------------------------------------------------------------------------------------------

const snapshot = () => JSON.stringify({ ...page.state, text: undefined, comment: undefined });
const blankSnapshot = () => JSON.stringify({ ...blank(page.item), text: undefined, comment: undefined });

// Runs a change of the judgement that u can take back.
function change(act) {
  if (page.isBusy || !page.item) return;
  const before = snapshot();
  const problem = act() ?? "";
  if (snapshot() !== before) {
    page.history.push(before);
    page.history.splice(0, page.history.length - MOST_UNDONE);
  }
  afterChange();
  tell(problem, true);
}

function afterChange() {
  refresh(page);
  sayHow();
  keep();
}

function undo() {
  if (page.isBusy) return;
  if (page.item && page.history.length) {
    Object.assign(page.state, JSON.parse(page.history.pop()));
    if (page.item.mode === "spans") for (const position of page.item.completions.keys()) refreshMarks(page, position);
    afterChange();
    tell("");
  } else if (page.canUndo) deliver({ kind: "undo" });
  else tell("There is nothing to take back.", true);
}

const focusRow = (k) => {
  const [position, attribute] = rows(page.item)[k];
  const row = find(`rate-${position}-${page.item.attributes.indexOf(attribute)}`);
  (row.querySelector(":checked") ?? row.querySelector("input")).focus();
  row.scrollIntoView({ block: "nearest" });
};

Object.assign(page.act, {
  choose(position, isByMouse) {
    change(() => choose(page.item, page.state, position));
    page.act.toAnswer(position, isByMouse);
  },
  toAnswer(position, isFocused = true) {
    page.current = position;
    refresh(page);
    if (isFocused) find(`${page.item.mode === "spans" ? "text" : "answer"}-${position}`).focus();
  },
  toRow(k, isFocused = true) {
    page.row = k;
    refresh(page);
    if (isFocused) focusRow(k);
  },
  rate(row, value, isNext = true) {
    const all = rows(page.item);
    const k = all.findIndex(([position, attribute]) => position === row[0] && attribute === row[1]);
    change(() => rate(page.state, row, value));
    page.act.toRow(isNext ? Math.min(k + 1, all.length - 1) : k, isNext);
  },
  thumb(position, value) {
    change(() => void (page.state.thumbs[position] = value));
    if (position + 1 < page.item.completions.length) page.act.toAnswer(position + 1);
    else page.act.toAnswer(position, false);
  },
  label(k) {
    page.label = k;
    refresh(page);
    sayHow();
  },
  mark() {
    const position = page.current;
    const range = selected(find(`text-${position}`));
    const found = range && range.end > range.first ? range : range && wordAt(page.signs[position], range.first);
    if (!found) return tell("Nothing is selected: put the cursor into a word, or select with Shift and the arrows.", true);
    change(() => mark(page.state, position, found.first, found.end, page.item.labels[page.label]));
    refreshMarks(page, position);
    find(`text-${position}`).focus();
    select(find(`text-${position}`), found.end);
  },
  unmark(span) {
    const position = span?.completion ?? page.current;
    const range = selected(find(`text-${position}`));
    if (!span && !range) return;
    const isMeant = (one) => (span ? one === span : one.completion === position && one.first <= range.end && one.end >= range.first);
    if (!page.state.spans.some(isMeant)) return tell("No mark is at the cursor.", true);
    change(() => void (page.state.spans = page.state.spans.filter((one) => !isMeant(one))));
    refreshMarks(page, position);
    find(`text-${position}`).focus();
    select(find(`text-${position}`), range?.first ?? 0);
  },
});

// --- keys -------------------------------------------------------------------------------------------------------------

const isTyping = (target) => target.matches("textarea, select, input:not([type=radio]):not([type=checkbox])");
const rowOf = (target) => target.closest("fieldset");

function pressDigit(digit, event) {
  const { item } = page;
  if (item.attributes.length && (item.mode === "rate" || rowOf(event.target))) {
    if (digit >= item.rating.low && digit <= item.rating.high) page.act.rate(rows(item)[page.row], digit);
    return;
  }
  if (item.mode === "spans") {
    if (digit <= item.labels.length) page.act.label(digit - 1);
  } else if (digit >= 1 && digit <= item.completions.length) {
    if (ranks(item)) page.act.choose(digit - 1);
    else if (item.mode === "thumbs") page.act.toAnswer(digit - 1);
  }
}

// Whether the arrow did something.
function pressArrow(key, event) {
  const { item } = page;
  if (event.target.isContentEditable || event.shiftKey) return false;
  const isBack = key === "ArrowUp" || key === "ArrowLeft";
  const move = (at, num) => Math.min(Math.max(at + (isBack ? -1 : 1), 0), num - 1);
  if (item.attributes.length && (rowOf(event.target) || item.mode === "rate")) {
    if (key === "ArrowLeft" || key === "ArrowRight") return false;
    page.act.toRow(rowOf(event.target) ? move(page.row, rows(item).length) : page.row);
    return true;
  }
  if (item.mode === "write" || !item.completions.length) return false;
  const isOn = event.target.closest(".answer");
  page.act.toAnswer(isOn ? move(page.current, item.completions.length) : page.current);
  return true;
}

const KEYS = {
  t: () => ranks(page.item) && change(() => tie(page.item, page.state)),
  s: () => openSkip(),
  c: () => find("comment").focus(),
  w: () => page.item.mode === "write" && find("text").focus(),
  r: () => page.item.attributes.length && page.act.toRow(Math.max(rows(page.item).findIndex((row) => !isRated(page.state, row)), 0)),
  y: () => page.item.mode === "thumbs" && page.act.thumb(page.current, true),
  n: () => page.item.mode === "thumbs" && page.act.thumb(page.current, false),
  m: () => page.item.mode === "spans" && page.act.mark(),
  x: () => page.item.mode === "spans" && page.act.unmark(),
  e: () => [...document.querySelectorAll(".more")].forEach((button) => button.click()),
};

function onKey(event) {
  const { key, target } = event;
  if (event.isComposing || event.defaultPrevented || !page.me || document.querySelector("dialog[open]")) return;
  const isCommand = event.ctrlKey || event.metaKey;
  if (key === "Enter" && isCommand && !event.repeat) {
    event.preventDefault();
    return submit();
  }
  if (isTyping(target)) {
    if (key === "Escape") find("task").focus();
    return;
  }
  if (isCommand || event.altKey) return;
  const isForButton = target.matches("button, a");
  const done = () => event.preventDefault();
  if (key === "Enter" && (!isForButton || page.isBusy)) return done(), event.repeat ? undefined : submit();
  if (key === " " && page.item && ranks(page.item) && target.matches(".answer")) return done(), page.act.choose(page.current);
  if (key === "?") return done(), find("help-box").showModal();
  if (key === "g") return done(), openGuideline();
  if (key === "u") return done(), event.repeat ? undefined : undo();
  if (!page.item || page.isBusy) return;
  if (key.startsWith("Arrow")) return pressArrow(key, event) ? done() : undefined;
  if (/^[0-9]$/.test(key)) return done(), event.repeat ? undefined : pressDigit(Number(key), event);
  if (Object.hasOwn(KEYS, key) && !event.repeat) return done(), KEYS[key]();
}

// --- boxes ------------------------------------------------------------------------------------------------------------

function openSkip() {
  if (!page.item || page.isBusy) return;
  const reasons = page.item.reasons ?? [];
  find("reasons").replaceChildren(...reasons.map((reason, k) => make("button", { type: "button", onclick: () => skip(reason) }, make("kbd", {}, String(k + 1)), ` ${oneLine(reason, 200)}`)));
  find("reason").value = "";
  find("skip-box").showModal();
  (find("reasons").querySelector("button") ?? find("reason")).focus();
}

function openGuideline() {
  if (!page.me.guideline) return tell("There is no guideline for these items.", true);
  find("guideline-text").replaceChildren();
  appendSigns(find("guideline-text"), [...page.me.guideline]);
  find("guideline-box").showModal();
}

function askName(problem = "") {
  find("name-field").value = session.get("name") ?? local.get("name") ?? "";
  find("name-problem").textContent = problem;
  find("name-box").showModal();
  find("name-field").focus();
}

function takeName(event) {
  event.preventDefault();
  const name = find("name-field").value.trim();
  if (!name) return void (find("name-problem").textContent = "Give a name, so that your answers stay together.");
  session.set("name", name);
  local.set("name", name);
  find("name-box").close();
  begin();
}

// --- start ------------------------------------------------------------------------------------------------------------

async function begin() {
  const turn = ++page.turn;
  // What is on the page was given to whoever was here before.
  page.item = null;
  find("task").hidden = true;
  tell("");
  if (!session.get("token")) return refused(401, {});
  // Each tab keeps its own: a name that another tab changes is not that of who answers here.
  if (!session.get("name") && local.get("name")) session.set("name", local.get("name"));
  const { status, body: me } = await insist("/api/me", undefined, waiting);
  if (turn !== page.turn) return;
  if (status === 400 && session.get("name")) {
    session.remove("name");
    return askName(oneLine(me.error ?? "This name cannot be used.", 300));
  }
  if (status !== 200) return refused(status, me);
  tell("");
  page.me = me;
  Object.assign(page, { total: me.total, done: me.done, item: null, isBusy: false });
  find("guideline").hidden = !me.guideline;
  find("name").hidden = find("stats").hidden = !me.is_shared;
  find("name").textContent = `Name: ${oneLine(me.annotator, 30)}`;
  if (me.is_shared && !session.get("name")) return askName();
  showProgress();
  // What a reload or a lost server interrupted goes first.
  if (pending()) return deliver(null);
  await next();
}

function connect() {
  const press = (id, act) => find(id).addEventListener("click", act);
  press("submit", submit);
  press("tie", () => KEYS.t());
  press("undo", undo);
  press("undo-last", undo);
  press("skip", openSkip);
  press("again", () => next());
  press("help", () => find("help-box").showModal());
  press("guideline", openGuideline);
  press("name", () => askName());
  for (const box of ["help", "guideline", "skip"]) press(`${box}-close`, () => find(`${box}-box`).close());
  find("name-form").addEventListener("submit", takeName);
  find("name-box").addEventListener("cancel", (event) => !session.get("name") && event.preventDefault());
  find("skip-form").addEventListener("submit", (event) => (event.preventDefault(), skip(find("reason").value)));
  find("skip-box").addEventListener("keydown", (event) => {
    const button = find("reasons").children[Number(event.key) - 1];
    if (button && !isTyping(event.target)) event.preventDefault(), button.click();
  });
  for (const id of ["text", "comment"]) {
    find(id).addEventListener("input", () => {
      if (!page.item) return;
      page.state[id] = find(id).value;
      refresh(page);
      if (id === "text") find("status").textContent = describe(page);
      keep();
    });
  }
  // No key acts in a text field, so the line of keys says which do while one is there.
  for (const kind of ["focusin", "focusout"]) find("task").addEventListener(kind, () => setTimeout(() => page.item && showKeys(page, document.activeElement.matches("#text, #comment"))));
  document.addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", () => (turnWatch(), keep()));
  window.addEventListener("pagehide", keep);
  window.addEventListener("hashchange", () => takeToken() && begin());
  setUpTheme(find("theme"));
}

takeToken();
connect();
begin();
