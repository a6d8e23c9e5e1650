// A text in which spans can be marked with the keyboard alone: the browser's own cursor and selection, and no way to change it.
// Places are counted in code points, as Python counts them; a mark counts as what it stands for.

import { appendSigns, make } from "./common.js";

const control = (node) => (node.nodeType === Node.ELEMENT_NODE ? node : node.parentElement)?.closest(".control");

// Code points before a place of the document.
function countBefore(root, node, offset) {
  const inside = control(node);
  if (inside) [node, offset] = [inside.parentNode, [...inside.parentNode.childNodes].indexOf(inside) + (offset ? 1 : 0)];
  const range = document.createRange();
  range.setStart(root, 0);
  range.setEnd(node, offset);
  const before = range.cloneContents();
  const marks = before.querySelectorAll(".control");
  for (const one of marks) one.replaceChildren("\u0000".repeat(Number(one.dataset.signs)));
  return [...before.textContent].length;
}

// The place of the document before which that many code points stand.
function placeAt(root, count) {
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  let last = [root, 0];
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const inside = control(node);
    const signs = inside ? Number(inside.dataset.signs) : [...node.data].length;
    if (count < signs || (count === signs && !inside)) {
      return inside ? [inside.parentNode, [...inside.parentNode.childNodes].indexOf(inside)] : [node, [...node.data].slice(0, count).join("").length];
    }
    count -= signs;
    last = inside ? [inside.parentNode, [...inside.parentNode.childNodes].indexOf(inside) + 1] : [node, node.data.length];
  }
  return last;
}

// {first, end} of what is selected in it, in code points; null where the selection is elsewhere.
export function selected(root) {
  const selection = document.getSelection();
  if (!selection?.rangeCount) return null;
  const range = selection.getRangeAt(0);
  if (!root.contains(range.startContainer) || !root.contains(range.endContainer)) return null;
  return {
    first: countBefore(root, range.startContainer, range.startOffset),
    end: countBefore(root, range.endContainer, range.endOffset),
  };
}

export function select(root, first, end = first) {
  document.getSelection().setBaseAndExtent(...placeAt(root, first), ...placeAt(root, end));
}

// {first, end} of the word at that place; null where there is none.
export function wordAt(signs, place) {
  const isWord = (sign) => sign !== undefined && /[\p{L}\p{M}\p{N}_'’-]/u.test(sign);
  let [first, end] = [place, place];
  while (isWord(signs[first - 1])) first--;
  while (isWord(signs[end])) end++;
  return end > first ? { first, end } : null;
}

// An empty text that takes the cursor.
export function makeMarkable(properties) {
  return make("div", {
    class: "text", contentEditable: "true", role: "textbox", "aria-readonly": "true", "aria-multiline": "true", spellcheck: false,
    inputMode: "none", dir: "auto", translate: false, onbeforeinput: (event) => event.preventDefault(), ondrop: (event) => event.preventDefault(), ...properties,
  });
}

// Shows the text with its marks, again where they changed.
export function showMarks(root, signs, spans) {
  const edges = [...new Set([0, signs.length, ...spans.flatMap((span) => [span.first, span.end])])].sort((a, b) => a - b);
  root.replaceChildren();
  for (let k = 0; k + 1 < edges.length; k++) {
    const labels = spans.filter((span) => span.first <= edges[k] && span.end >= edges[k + 1]).map((span) => span.label);
    const into = labels.length ? root.appendChild(make("mark", { title: [...new Set(labels)].join(", ") })) : root;
    appendSigns(into, signs, edges[k], edges[k + 1]);
  }
}
