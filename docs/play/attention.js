// Attention with its masks: minqwen/layers/attention.py and long_context/window.py, float64.
"use strict";

(() => {
  const { normals, array, dot, fixed, html, svg, row, python, start } = window.minqwenPlay;
  const HEAD_DIM = 4;

  /** Return (T, S), true where a query may look. The T queries are the last of the S positions. */
  function mask(T, S, window, padding) {
    return array([T], () => 0).map((_, i) => array([S], () => 0).map((__, j) => {
      const at = S - T + i; // the position of query i
      return j <= at && j > at - window && j >= padding;
    }));
  }

  /** Return scores, probs (H, T, S) and out (H, T, Dh); a query that sees nothing gets zeros. */
  function attend(q, k, v, visible, scale) {
    const group = q.length / k.length;
    const scores = q.map((rows, h) => rows.map((x) =>
      k[Math.floor(h / group)].map((y) => dot(x, y) * scale)));
    const probs = scores.map((rows) => rows.map((values, i) => {
      const peak = Math.max(...values.filter((_, j) => visible[i][j]));
      const weights = values.map((s, j) => (visible[i][j] ? Math.exp(s - peak) : 0));
      const total = weights.reduce((a, b) => a + b, 0);
      return weights.map((w) => (total ? w / total : 0));
    }));
    const out = probs.map((rows, h) => rows.map((p) => array([v[0][0].length], () => 0).map((_, d) =>
      p.reduce((sum, w, j) => sum + w * v[Math.floor(h / group)][j][d], 0))));
    return { scores, probs, out };
  }

  /** Return q (H, T, Dh), k and v (Hkv, S, Dh) of a seed. */
  function numbers(seed, H, Hkv, T, S) {
    const next = normals(seed);
    return { q: array([H, T, HEAD_DIM], next), k: array([Hkv, S, HEAD_DIM], next), v: array([Hkv, S, HEAD_DIM], next) };
  }

  let cell = [0, 0]; // which one is looked at

  function draw(s, page) {
    const H = 2 ** s.log_H, Hkv = 2 ** page.limit("log_Hkv", 0, s.log_H), G = H / Hkv;
    const T = s.T, S = s.T + s.cached;
    const padding = page.limit("padding", 0, S - 1), window = s.window;
    const head = page.limit("head", 0, H - 1), scale = 1 / Math.sqrt(HEAD_DIM);
    const { q, k, v } = numbers(s.seed, H, Hkv, T, S), visible = mask(T, S, window, padding);
    const result = attend(q, k, v, visible, scale);
    cell = [Math.min(cell[0], T - 1), Math.min(cell[1], S - 1)];
    const [i, j] = cell, at = S - T + i;
    for (const [key, text] of Object.entries({ T, cached: `${s.cached} (S = ${S})`, padding, log_H: H, log_Hkv: Hkv, head,
      window: window >= S ? page.say(`${window}: all`, `${window}：全部`) : window })) page.label(key, text);
    const names = page.say(["weights", "scores", "the mask"], ["权重", "得分", "掩码"]);
    page.root.querySelectorAll("select[name=show] option").forEach((option, o) => { option.textContent = names[o]; });

    cells(page, s.show, result, visible, head, T, S, padding);
    const seen = visible[i].filter(Boolean).length;
    page.fill("status", page.say(
      `Head ${head}, query ${at}, key ${j}: weight ${fixed(result.probs[head][i][j], 4)}. The query sees ${seen} of ${S} keys.`,
      `头 ${head}，查询 ${at}，键 ${j}：权重 ${fixed(result.probs[head][i][j], 4)}。这个查询看到 ${S} 个键中的 ${seen} 个。`));
    sum(page, q[head][i], k[Math.floor(head / G)][j], result, head, i, j, visible, scale, at, window, padding);
    page.fill("groups", groups(H, Hkv, head, page));
    const values = v[Math.floor(head / G)];
    page.fill("out",
      html("thead", {}, html("tr", {}, html("th", { scope: "col" }, page.say("key", "键")), html("th", { scope: "col" }, page.say("weight", "权重")),
        ...values[0].map((_, d) => html("th", { scope: "col" }, `v[${d}]`)))),
      html("tbody", {}, ...values.map((x, y) => visible[i][y] ? row([String(y), fixed(result.probs[head][i][y], 4), ...x.map((w) => fixed(w, 2))],
        y === j ? { class: "play-on" } : {}) : null).filter(Boolean),
      row([page.say("weighted sum: out", "加权和 out"), "", ...result.out[head][i].map((w) => [fixed(w, 4), w])], { "data-out": true })));
    page.python(code(q, k, v, { T, S, window, padding }));
    return { q, k, v, T, S, window, padding, head, cell, mask: visible, scale, ...result };
  }

  function cells(page, show, result, visible, head, T, S, padding) {
    const table = page.find("cells"), focused = table.contains(document.activeElement);
    const cellOf = (i, j) => {
      const seen = visible[i][j], p = result.probs[head][i][j], score = result.scores[head][i][j];
      const value = show === "probs" ? p : show === "scores" ? (seen ? score : -Infinity) : Number(seen);
      const text = show === "mask" ? (seen ? "1" : "0") : show === "probs" ? (seen ? fixed(p, 2) : "0") : seen ? fixed(score, 1) : "−∞";
      const on = cell[0] === i && cell[1] === j;
      return html("td", {}, html("button", { type: "button", "data-cell": `${i},${j}`, "data-value": value, tabindex: on ? 0 : -1,
        "aria-pressed": String(on), class: seen ? null : "play-hidden", style: `--w:${show === "mask" ? Number(seen) : p}`,
        "aria-label": page.say(`query ${S - T + i}, key ${j}: ${text}${seen ? "" : ", hidden"}`, `查询 ${S - T + i}，键 ${j}：${text}${seen ? "" : "，被遮住"}`) }, text));
    };
    table.replaceChildren(
      html("thead", {}, html("tr", {}, html("th", { scope: "col" }, page.say("query \\ key", "查询 \\ 键")), ...array([S], () => 0).map((_, j) =>
        html("th", { scope: "col", class: j < padding ? "play-pad" : null }, String(j))))),
      html("tbody", {}, ...array([T], () => 0).map((_, i) => html("tr", {},
        html("th", { scope: "row", class: S - T + i < padding ? "play-pad" : null }, String(S - T + i)),
        ...array([S], () => 0).map((__, j) => cellOf(i, j))))));
    if (focused) table.querySelector("[tabindex='0']").focus();
  }

  /** Write out how the score of a cell becomes a weight. */
  function sum(page, x, y, result, head, i, j, visible, scale, at, window, padding) {
    const signed = (value) => (value < 0 ? `(${fixed(value, 2)})` : fixed(value, 2));
    const score = result.scores[head][i][j], seen = visible[i][j];
    const others = result.scores[head][i].filter((_, o) => visible[i][o]);
    const peak = Math.max(...others), total = others.reduce((a, b) => a + Math.exp(b - peak), 0);
    page.fill("sum",
      ...x.map((a, d) => row([`q[${d}] · k[${d}]`, `${signed(a)} · ${signed(y[d])}`, fixed(a * y[d], 4)])),
      row(["q · k", page.say("their sum", "求和"), [fixed(score / scale, 4), score / scale]]),
      row([page.say("score", "得分"), `/ √${x.length}`, [fixed(score, 4), score]]),
      ...(seen ? [
        row([page.say("exponential", "指数"), `exp(${fixed(score, 2)} − ${signed(peak)})`, fixed(Math.exp(score - peak), 4)]),
        row([page.say("sum over the row", "整行求和"), page.say(`${others.length} visible keys`, `${others.length} 个可见的键`), fixed(total, 4)]),
      ] : []),
      row([page.say("weight", "权重"), seen ? page.say("exponential / sum", "指数 / 和") : page.say("hidden", "被遮住"),
        [fixed(result.probs[head][i][j], 6), result.probs[head][i][j]]], { class: "play-on" }));
    const why = seen ? page.say("Visible: the key is not later than the query, inside the window, and no padding.",
      "可见：键不晚于查询、在窗口之内，也不是填充。")
      : j > at ? page.say(`Hidden: key ${j} comes after query ${at}.`, `被遮住：键 ${j} 在查询 ${at} 之后。`)
        : j < padding ? page.say(`Hidden: key ${j} is padding.`, `被遮住：键 ${j} 是填充。`)
          : page.say(`Hidden: key ${j} is ${at - j} back, and a window of ${window} ends at ${window - 1}.`,
            `被遮住：键 ${j} 在 ${at - j} 个位置之前，窗口 ${window} 只到 ${window - 1}。`);
    page.fill("why", why);
  }

  function groups(H, Hkv, head, page) {
    const width = 360, x = (i, n) => (width * (i + 0.5)) / n, G = H / Hkv;
    const box = (i, n, y, text, kind, on) => svg("g", {},
      svg("rect", { x: x(i, n) - 19, y, width: 38, height: 28, rx: 5, class: kind, fill: on ? "var(--play-mark)" : "none", "stroke-width": on ? 3 : 1.5 }),
      svg("text", { x: x(i, n), y: y + 19, "text-anchor": "middle" }, text));
    const heads = array([H], () => 0).map((_, h) => h);
    return svg("svg", { viewBox: `0 0 ${width} 124`, role: "img", style: "max-width:26rem", "aria-label": page.say(
      `${H} query heads share ${Hkv} key/value heads; head ${head} reads ${Math.floor(head / G)}`,
      `${H} 个查询头共用 ${Hkv} 个键/值头；头 ${head} 读取 ${Math.floor(head / G)}`) },
      ...heads.map((h) => svg("line", { x1: x(h, H), y1: 30, x2: x(Math.floor(h / G), Hkv), y2: 92,
        class: h === head ? "q" : "axis", "stroke-width": h === head ? 3 : 1.5 })),
      ...heads.map((h) => box(h, H, 2, `q ${h}`, "q", h === head)),
      ...array([Hkv], () => 0).map((_, g) => box(g, Hkv, 92, `kv ${g}`, "k", g === Math.floor(head / G))));
  }

  function code(q, k, v, { T, S, window, padding }) {
    const real = padding ? `
real = np.arange(${S})[None] >= ${padding}  # left padding
mask = mask & padding_mask(real)` : "";
    return `import numpy as np
from minqwen.layers.attention import attention_forward, padding_mask
from minqwen.long_context.window import window_mask

q = np.array([${python(q, "")}])  # (B, H, T, Dh)
k = np.array([${python(k, "")}])  # (B, Hkv, S, Dh)
v = np.array([${python(v, "")}])
mask = window_mask(T=${T}, S=${S}, window=${window})  # causal, too${real}
out, cache = attention_forward(q, k, v, mask)
probs = cache.probs.reshape(${q.length}, ${T}, ${S})  # (H, T, S)
print(probs.round(4))
`;
  }

  const page = start("attention", { mask, attend, numbers }, draw);
  page.extra.seed = 5;
  page.choose = (i, j) => { cell = [i, j]; page.update(); };
  page.root.addEventListener("click", (event) => {
    const button = event.target.closest("[data-cell]");
    if (button) page.choose(...button.dataset.cell.split(",").map(Number));
  });
  page.root.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step || !event.target.closest("[data-cell]")) return;
    event.preventDefault();
    const { T, S } = page.last, [i, j] = cell;
    page.choose(Math.min(Math.max(i + step[0], 0), T - 1), Math.min(Math.max(j + step[1], 0), S - 1));
  });
  page.begin();
})();
