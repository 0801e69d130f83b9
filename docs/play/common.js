// What all pages of docs/play share: words, controls, pictures, random numbers. Nothing is fetched.
"use strict";

window.minqwenPlay = (() => {
  const SVG = "http://www.w3.org/2000/svg";

  /** Return normal numbers from a seed, rounded to 1/100 so that they can be read and copied. */
  function normals(seed) {
    let a = seed >>> 0;
    const uniform = () => { // mulberry32
      a = (a + 0x6d2b79f5) >>> 0;
      let t = Math.imul(a ^ (a >>> 15), a | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
    return () => {
      const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
      return Math.round(100 * radius * Math.cos(2 * Math.PI * uniform())) / 100 + 0; // no -0
    };
  }

  /** Return nested lists of this shape, filled by calling next(). */
  function array(shape, next) {
    if (!shape.length) return next();
    return Array.from({ length: shape[0] }, () => array(shape.slice(1), next));
  }

  const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);

  /** Return a number with a real minus sign; a minus zero loses it. */
  function fixed(x, digits = 3) {
    const text = x.toFixed(digits);
    return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "\u2212");
  }

  /** Make an element: attributes first, then children, which are elements or texts. */
  function element(make, tag, attributes, children) {
    const node = make(tag);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key === "value" && node.tagName === "OUTPUT") node.value = value;
      else if (value !== false && value != null) node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child != null));
    return node;
  }
  const html = (tag, attributes, ...children) =>
    element((name) => document.createElement(name), tag, attributes, children);
  const svg = (tag, attributes, ...children) =>
    element((name) => document.createElementNS(SVG, name), tag, attributes, children);

  /** Draw a row of a table: plain texts, or [text, exact value] where a test reads the value. */
  function row(cells, attributes, head = true) {
    return html("tr", attributes, ...cells.map((cell, i) => {
      const [text, value] = Array.isArray(cell) ? cell : [cell];
      return html(head && i === 0 ? "th" : "td",
        { scope: head && i === 0 ? "row" : null, "data-value": value }, text);
    }));
  }

  /** Write floats as Python reads them, lists of lists with a line for each. */
  function python(x, indent = "") {
    if (!Array.isArray(x)) return Number.isInteger(x) ? `${x}.0` : String(x);
    if (!Array.isArray(x[0])) return `[${x.map((y) => python(y)).join(", ")}]`;
    const inner = x.map((y) => indent + "    " + python(y, indent + "    "));
    return `[\n${inner.join(",\n")},\n${indent}]`;
  }

  /**
   * Bring a page to life.
   * @param {string} name which one: the element with data-play="name"
   * @param {object} exact pure functions, for the reader's console and for the tests
   * @param {function} draw called as draw(state, page) after every change
   */
  function start(name, exact, draw) {
    const root = document.querySelector(`[data-play="${name}"]`);
    const page = { ...exact, root, extra: {} };
    const inputs = () => [...root.querySelectorAll("[name]")];

    page.state = () => {
      const state = { ...page.extra };
      for (const input of inputs()) {
        if (input.type === "checkbox") state[input.name] = input.checked;
        else state[input.name] = input.type === "range" ? Number(input.value) : input.value;
      }
      return state;
    };
    page.set = (values) => {
      for (const [key, value] of Object.entries(values)) {
        const input = root.querySelector(`[name="${key}"]`);
        if (!input) page.extra[key] = value;
        else if (input.type === "checkbox") input.checked = value;
        else {
          if (input.type === "range") { // limits that follow other controls are set again by draw
            input.max = Math.max(Number(input.max), Number(value));
            input.min = Math.min(Number(input.min), Number(value));
          }
          input.value = value;
        }
      }
      update();
    };
    page.find = (key) => root.querySelector(`[data-part="${key}"]`);
    page.fill = (key, ...children) => page.find(key).replaceChildren(...children);
    page.limit = (key, low, high, stays = false) => { // of a slider; stays: what was at the end stays there
      const input = root.querySelector(`[name="${key}"]`), atEnd = Number(input.value) >= Number(input.max);
      [input.min, input.max] = [low, high];
      if (stays && atEnd) input.value = high;
      return Number(input.value);
    };
    page.label = (key, text) => { root.querySelector(`[data-of="${key}"]`).textContent = text; };
    page.say = (en, zh) => (root.dataset.lang === "en" ? en : zh);
    page.python = (text) => { page.find("python").textContent = text; };

    let drawing = false;
    function update() {
      if (drawing) return;
      drawing = true;
      try { page.last = draw(page.state(), page); } finally { drawing = false; }
    }
    page.update = update;

    function language(code) {
      root.dataset.lang = code;
      for (const button of root.querySelectorAll("[data-language]")) {
        button.setAttribute("aria-pressed", String(button.dataset.language === code));
      }
      for (const node of root.querySelectorAll("[data-en]")) { // names for a screen reader
        node.setAttribute("aria-label", code === "en" ? node.dataset.en : node.dataset.zh);
      }
      update();
    }
    root.addEventListener("input", update);
    root.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      if (button.dataset.language) {
        try { localStorage.setItem("minqwen-language", button.dataset.language); } catch { /* private */ }
        language(button.dataset.language);
      } else if (button.dataset.set) page.set(JSON.parse(button.dataset.set));
      else if (button.dataset.seed !== undefined) page.set({ seed: page.state().seed + 1 });
      else if (button.dataset.copy !== undefined) copy(page.find("python"), button);
    });
    function copy(node, button) {
      const done = () => {
        button.classList.add("play-done");
        setTimeout(() => button.classList.remove("play-done"), 1500);
      };
      if (navigator.clipboard) navigator.clipboard.writeText(node.textContent).then(done, () => {});
      else { // a page without https
        getSelection().selectAllChildren(node);
        if (document.execCommand("copy")) done();
      }
    }
    let stored = null;
    try { stored = localStorage.getItem("minqwen-language"); } catch { /* private mode */ }
    page.begin = () => language(stored === "zh" ? "zh" : "en");
    window.minqwenPlay[name] = page;
    return page;
  }

  return { normals, array, dot, fixed, html, svg, row, python, start };
})();
