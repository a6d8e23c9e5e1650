// What the tests of the page's looks measure within it; evaluated as an object of functions.
({
  // [["text" or "edge", contrast, what], ...] of all that is visible, or of the box that is open.
  // https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio
  contrasts() {
    const parse = (text) => {
      const numbers = text.match(/[\d.]+/g).map(Number);
      const scale = text.startsWith("color(") ? 255 : 1;
      return [...numbers.slice(0, 3).map((x) => x * scale), numbers[3] ?? 1];
    };
    const over = (top, below) => [0, 1, 2].map((k) => top[k] * top[3] + below[k] * (1 - top[3])).concat(1);
    const behind = (element) => {
      const layers = [];
      for (let at = element; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
      return layers.reverse().reduce((below, top) => over(top, below), [128, 128, 128, 1]);
    };
    const linear = (x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    const luminance = (colour) => [0.2126, 0.7152, 0.0722].reduce((sum, part, k) => sum + part * linear(colour[k] / 255), 0);
    const ratio = (a, b) => {
      const [most, least] = [luminance(a), luminance(b)].sort((x, y) => y - x);
      return (most + 0.05) / (least + 0.05);
    };
    const found = [];
    const scope = document.querySelector("dialog[open]") ?? document.body;
    const walker = document.createTreeWalker(scope, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const element = node.parentElement;
      if (!node.data.trim() || element.closest("script, noscript") || !element.checkVisibility()) continue;
      const ground = behind(element);
      const colour = over(parse(getComputedStyle(element).color), ground);
      found.push(["text", ratio(colour, ground), node.data.trim().slice(0, 30)]);
    }
    for (const element of scope.querySelectorAll("button, textarea, input[type=text], .scale label, .answer")) {
      if (!element.checkVisibility()) continue;
      const around = behind(element.parentElement);
      const border = over(parse(getComputedStyle(element).borderTopColor), around);
      found.push(["edge", Math.max(ratio(border, around), ratio(behind(element), around)), element.id || element.className]);
    }
    return found;
  },

  // What stands out to the left or right of the window, or is cut off there; what scrolls by itself may.
  overflow() {
    const width = document.documentElement.clientWidth;
    const isOut = (box) => box.right > width + 1 || box.left < -1;
    const isCut = (one) => one.clientWidth > 0 && one.scrollWidth > one.clientWidth + 1;
    const found = [...document.querySelectorAll("body *")]
      .filter((one) => one.checkVisibility() && !one.closest(".wide, .jump"))
      .filter((one) => isOut(one.getBoundingClientRect()) || isCut(one))
      .map((one) => `${one.tagName} .${one.className} #${one.id}`);
    const scroll = document.documentElement.scrollWidth;
    return scroll > width ? [...found, `the page scrolls: ${scroll} > ${width}`] : found;
  },

  // [name, style and width of the ring] of what has the focus.
  focused() {
    const one = document.activeElement;
    const ring = getComputedStyle(one.closest(".scale label") ?? one);
    return [one.name || one.id || one.textContent.trim(), ring.outlineStyle, parseFloat(ring.outlineWidth)];
  },

  // Names, as above, of all that can be worked with; the buttons of a rating are one.
  controls() {
    const all = [...document.querySelectorAll("button, a[href], textarea, input, [contenteditable=true]")];
    return [...new Set(all.filter((one) => one.checkVisibility()).map((one) => one.name || one.id || one.textContent.trim()))];
  },

  // How many orders of so many answers, ties among them, the keys can make.
  async orders(num) {
    const { blank, choose, missing, tie } = await import("/judgement.js");
    const item = { mode: "rank", completions: Array(num).fill("x"), attributes: [] };
    const sorted = (state) => state.places.map((place) => [...place].sort());
    const [reached, seen, open] = [new Set(), new Set(), [blank(item)]];
    while (open.length) {
      const state = open.pop();
      const key = JSON.stringify([sorted(state), state.tied]);
      if (seen.has(key)) continue;
      seen.add(key);
      if (!missing(item, state)) reached.add(JSON.stringify(sorted(state)));
      for (let k = -1; k < num; k++) {
        const after = structuredClone(state);
        if (k < 0) tie(item, after);
        else choose(item, after, k);
        open.push(after);
      }
    }
    return reached.size;
  },
})
