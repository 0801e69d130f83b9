// RoPE: minqwen/layers/rope.py in JavaScript, float64, one head.
"use strict";

(() => {
  const { normals, array, dot, fixed, html, svg, row, python, start } = window.minqwenPlay;
  const HEAD_DIM = 8;

  /** Return the frequencies, fastest first: base ** (-2i / Dh). */
  const invFreq = (headDim, base) =>
    array([headDim / 2], () => 0).map((_, i) => base ** -(2 * i / headDim));

  /** Return which features are turned together: (i, i + Dh/2), or neighbours (2i, 2i + 1). */
  const pairs = (headDim, layout) => array([headDim / 2], () => 0).map((_, i) =>
    layout === "halves" ? [i, i + headDim / 2] : [2 * i, 2 * i + 1]);

  /** Turn every pair of x by position times its frequency. */
  function turn(x, position, base, layout) {
    const y = x.slice(), frequency = invFreq(x.length, base);
    pairs(x.length, layout).forEach(([a, b], i) => {
      const cos = Math.cos(position * frequency[i]), sin = Math.sin(position * frequency[i]);
      y[a] = x[a] * cos - x[b] * sin;
      y[b] = x[a] * sin + x[b] * cos;
    });
    return y;
  }

  const layouts = (layout) => (layout === "mixed" ? ["halves", "neighbours"] : [layout, layout]);

  /** Return the score of q at m and k at n. */
  function score(q, k, m, n, base, layout) {
    const [ofQ, ofK] = layouts(layout);
    return dot(turn(q, m, base, ofQ), turn(k, n, base, ofK));
  }

  /** Return q and k of a seed. */
  function vectors(seed) {
    const next = normals(seed);
    return { q: array([HEAD_DIM], next), k: array([HEAD_DIM], next) };
  }

  function draw(s, page) {
    const { q, k } = vectors(s.seed), base = 10 ** s.log_base, [ofQ, ofK] = layouts(s.layout);
    const frequency = invFreq(HEAD_DIM, base);
    const now = score(q, k, s.m, s.n, base, s.layout);
    words(s, page, base);

    const turned = { q: turn(q, s.m, base, ofQ), k: turn(k, s.n, base, ofK) };
    const of = (x, layout, i) => pairs(HEAD_DIM, layout)[i].map((j) => x[j]);
    const parts = frequency.map((_, i) => ({
      q0: of(q, ofQ, i), k0: of(k, ofK, i), q1: of(turned.q, ofQ, i), k1: of(turned.k, ofK, i),
    }));
    page.fill("dial", dial(parts[s.pair], 150, page.say(
      `pair ${s.pair}: the query is turned by ${fixed(s.m * frequency[s.pair])} radians, the key by ${fixed(s.n * frequency[s.pair])}`,
      `第 ${s.pair} 对：查询转 ${fixed(s.m * frequency[s.pair])} 弧度，键转 ${fixed(s.n * frequency[s.pair])} 弧度`)));
    const focused = document.activeElement && document.activeElement.dataset.pair;
    page.fill("dials", ...parts.map((part, i) => html("button",
      { type: "button", "data-pair": i, "aria-pressed": String(i === s.pair) },
      dial(part, 42, ""), page.say(`pair ${i}`, `第 ${i} 对`))));
    if (focused) page.find("dials").children[focused].focus();

    const f = frequency[s.pair], share = dot(parts[s.pair].q1, parts[s.pair].k1);
    page.fill("pair",
      row([page.say("frequency", "频率"), [fixed(f, 6), f]]),
      row([page.say("query turned by m · frequency", "查询转过 m · 频率"), [fixed(s.m * f, 4), s.m * f]]),
      row([page.say("key turned by n · frequency", "键转过 n · 频率"), [fixed(s.n * f, 4), s.n * f]]),
      row([page.say("between them: (m − n) · frequency", "相差 (m − n) · 频率"), [fixed((s.m - s.n) * f, 4), (s.m - s.n) * f]]),
      s.layout === "mixed" ? null : row([page.say("its share of q · k", "对 q · k 的贡献"), [fixed(share, 6), share]]));

    const scores = [0, 1, 10, 100].map((by) => score(q, k, s.m + by, s.n + by, base, s.layout));
    page.fill("scores", ...[0, 1, 10, 100].map((by, i) => row([
      by ? page.say(`both + ${by}`, `同时 + ${by}`) : page.say("now", "现在"), String(s.m + by),
      String(s.n + by), fixed(s.m - s.n, 0), [fixed(scores[i], 6), scores[i]]], i ? {} : { class: "play-on" })));
    const equal = Math.max(...scores) - Math.min(...scores) < 1e-9;
    page.find("status").dataset.equal = equal;
    page.fill("status", equal
      ? page.say(`At distance ${s.m - s.n} the score is ${fixed(now, 6)}, wherever the two are.`,
        `距离为 ${s.m - s.n} 时，无论两者在哪里，得分都是 ${fixed(now, 6)}。`)
      : page.say("The same distance, different scores: query and key are turned in different pairs.",
        "距离相同，得分不同：查询和键的配对方式不一致。"));
    page.fill("chart", chart(q, k, base, s, page));

    const strip = (x, title) => row([title, ...x.map((value) => [fixed(value, 2), value])]);
    const marked = (node, layout) => {
      pairs(HEAD_DIM, layout)[s.pair].forEach((j) => { node.children[j + 1].style.background = "var(--play-mark)"; });
      return node;
    };
    page.fill("features",
      html("thead", {}, html("tr", {}, html("th", { scope: "col" }, page.say("feature", "特征")),
        ...q.map((_, j) => html("th", { scope: "col" }, String(j))))),
      html("tbody", {},
        marked(strip(q, "q"), ofQ), marked(strip(turned.q, page.say(`q at ${s.m}`, `位置 ${s.m} 的 q`)), ofQ),
        marked(strip(k, "k"), ofK), marked(strip(turned.k, page.say(`k at ${s.n}`, `位置 ${s.n} 的 k`)), ofK)));
    page.python(code(q, k, base, s));
    return { q, k, base, m: s.m, n: s.n, layout: s.layout, score: now, scores, turned, frequency };
  }

  function words(s, page, base) {
    page.label("m", s.m);
    page.label("n", s.n);
    page.label("log_base", Math.round(base).toLocaleString("en-US"));
    page.label("pair", s.pair);
    const names = page.say(
      ["halves: i and i + Dh/2 (Qwen)", "neighbours: 2i and 2i + 1", "q halves, k neighbours (wrong)"],
      ["前后两半：i 与 i + Dh/2（Qwen）", "相邻：2i 与 2i + 1", "q 按两半、k 按相邻（错误）"]);
    page.root.querySelectorAll("option").forEach((option, i) => { option.textContent = names[i]; });
  }

  /** Draw the two vectors of a pair before and after the turn, and the last turn's arc between. */
  function dial({ q0, k0, q1, k1 }, radius, title) {
    const pad = radius > 60 ? 16 : 2, size = radius + pad;
    const longest = Math.max(Math.hypot(...q0), Math.hypot(...k0), 1e-9);
    const at = ([x, y], r = 1) => [(r * radius * x) / longest, (-r * radius * y) / longest];
    const arrow = (to, kind, thick) => {
      const [x, y] = at(to), angle = Math.atan2(y, x), tip = radius > 60 ? 9 : 6;
      const wing = (turn) => `${x - tip * Math.cos(angle + turn)},${y - tip * Math.sin(angle + turn)}`;
      return svg("g", { opacity: thick ? 1 : 0.5 },
        svg("line", { x1: 0, y1: 0, x2: x, y2: y, class: kind, "stroke-width": thick ? (radius > 60 ? 3.5 : 2.5) : 1.2,
          "stroke-dasharray": kind === "k" ? "7 4" : null }),
        thick ? svg("polygon", { points: `${x},${y} ${wing(0.4)} ${wing(-0.4)}`, class: `fill-${kind}` }) : null);
    };
    const big = radius > 60;
    const arc = (from, to, kind, r) => { // against the clock, as angles grow
      const angle = Math.atan2(from[1], from[0]), turn = (Math.atan2(to[1], to[0]) - angle + 4 * Math.PI) % (2 * Math.PI);
      const [x0, y0, x1, y1] = [angle, angle + turn].flatMap((a) => [r * Math.cos(a), -r * Math.sin(a)]);
      return svg("path", { d: `M${x0} ${y0} A${r} ${r} 0 ${turn > Math.PI ? 1 : 0} 0 ${x1} ${y1}`, class: kind, fill: "none", "stroke-width": 1.5 });
    };
    const name = (to, text, kind) => {
      const [x, y] = at(to), length = Math.hypot(x, y) || 1;
      return svg("text", { x: x + (11 * x) / length, y: y + (11 * y) / length + 4, class: kind, "text-anchor": "middle", "font-weight": 700 }, text);
    };
    return svg("svg", { viewBox: `${-size} ${-size} ${2 * size} ${2 * size}`, role: title ? "img" : null,
      "aria-label": title || null, "aria-hidden": title ? null : "true", style: big ? "max-width:22rem" : "" },
      svg("circle", { r: radius, class: "axis" }),
      svg("line", { x1: -radius, x2: radius, class: "axis" }), svg("line", { y1: -radius, y2: radius, class: "axis" }),
      big ? arrow(k0, "k", false) : null, big ? arrow(q0, "q", false) : null,
      big ? arc(q0, q1, "q", 0.2 * radius) : null, big ? arc(k0, k1, "k", 0.26 * radius) : null, arrow(k1, "k", true), arrow(q1, "q", true),
      big ? name(q1, "q", "q") : null, big ? name(k1, "k", "k") : null);
  }

  /** Draw the score for the distances 0 to 128; with mixed layouts, from the position of the query. */
  function chart(q, k, base, s, page) {
    const far = 128, width = 640, height = 190, left = 44, bottom = 26;
    const start = s.layout === "mixed" ? s.m : far;
    const values = array([far + 1], () => 0).map((_, d) => score(q, k, start, start - d, base, s.layout));
    const top = Math.max(...values.map(Math.abs), 1e-9);
    const x = (d) => left + (d / far) * (width - left - 12);
    const y = (v) => (height - bottom) / 2 - (v / top) * ((height - bottom) / 2 - 8);
    const d = s.m - s.n, inside = d >= 0 && d <= far;
    const label = (px, py, text, anchor = "middle") => svg("text", { x: px, y: py, class: "soft", "text-anchor": anchor }, text);
    return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "play-chart", "aria-label": page.say(
      `score against distance; at ${d} it is ${fixed(score(q, k, s.m, s.n, base, s.layout))}`,
      `得分随距离变化；距离 ${d} 时为 ${fixed(score(q, k, s.m, s.n, base, s.layout))}`) },
      ...[top, 0, -top].flatMap((v) => [svg("line", { x1: left, x2: width - 12, y1: y(v), y2: y(v), class: "axis" }),
        label(left - 6, y(v) + 4, fixed(v, 1), "end")]),
      ...[0, 32, 64, 96, 128].map((v) => label(x(v), height - 8, String(v))),
      svg("polyline", { points: values.map((v, i) => `${x(i)},${y(v)}`).join(" "), class: "q", fill: "none", "stroke-width": 2 }),
      inside ? svg("line", { x1: x(d), x2: x(d), y1: 4, y2: height - bottom, class: "k", "stroke-dasharray": "4 3" }) : null,
      inside ? svg("circle", { cx: x(d), cy: y(values[d]), r: 6, class: "fill-k" }) : null);
  }

  function code(q, k, base, s) {
    const all = array([HEAD_DIM], () => 0).map((_, j) => j);
    const halves = [...all.filter((j) => j % 2 === 0), ...all.filter((j) => j % 2)];
    const back = halves.map((_, j) => halves.indexOf(j));
    const list = (numbers) => `[${numbers.join(", ")}]`;
    const call = (x, position, layout) => layout === "halves" ? `turned(${x}, ${position})`
      : `turned(${x}[order], ${position})[${list(back)}]`;
    const [ofQ, ofK] = layouts(s.layout);
    return `import numpy as np
from minqwen.layers.rope import rope_forward, rope_inv_freq, rope_tables

q = np.array(${python(q)})
k = np.array(${python(k)})
inv_freq = rope_inv_freq(${HEAD_DIM}, base=${base}, dtype="float64")


def turned(x, position):
    cos, sin = rope_tables(np.array([position]), inv_freq)
    y, _ = rope_forward(x[None, None, None], cos, sin)  # (B, H, T, Dh)
    return y[0, 0, 0]

${s.layout === "halves" ? "" : `
order = ${list(halves)}  # neighbours, laid out as halves`}
score = ${call("q", s.m, ofQ)} @ ${call("k", s.n, ofK)}
print(score)
`;
  }

  const page = start("rope", { invFreq, pairs, turn, score, vectors }, draw);
  page.extra.seed = 3;
  page.root.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button && button.dataset.pair !== undefined) page.set({ pair: Number(button.dataset.pair) });
    if (button && button.dataset.move) {
      const { m, n } = page.state(), by = Number(button.dataset.move);
      const allowed = Math.min(Math.max(by, -Math.min(m, n)), 200 - Math.max(m, n));
      page.set({ m: m + allowed, n: n + allowed });
    }
  });
  page.begin();
})();
