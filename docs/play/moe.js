// Routing to experts: minqwen/layers/moe_router.py and load_balancing_loss.py, float64.
"use strict";

(() => {
  const { normals, array, dot, fixed, html, svg, row, python, start } = window.minqwenPlay;
  const RATE = 1; // of a step down the balance loss

  function softmax(z) {
    const peak = Math.max(...z), weights = z.map((x) => Math.exp(x - peak));
    const total = weights.reduce((a, b) => a + b, 0);
    return weights.map((w) => w / total);
  }

  /** Choose K experts for each row of logits (N, E): probs, ids and weights; of equals the lower number. */
  function route(logits, K, norm) {
    const probs = logits.map(softmax);
    const ids = probs.map((p) => p.map((_, e) => e).sort((a, b) => p[b] - p[a] || a - b).slice(0, K));
    const weights = ids.map((chosen, n) => {
      const kept = chosen.map((e) => probs[n][e]), total = norm ? kept.reduce((a, b) => a + b, 0) : 1;
      return kept.map((w) => w / total);
    });
    return { probs, ids, weights };
  }

  /** Return loads, both f, P and the loss in both conventions. */
  function balance({ probs, ids }, K) {
    const E = probs[0].length, N = probs.length;
    const loads = array([E], () => 0);
    ids.flat().forEach((e) => { loads[e] += 1; });
    const ofChoices = loads.map((n) => n / (N * K)), ofTokens = loads.map((n) => n / N);
    const P = loads.map((_, e) => probs.reduce((sum, p) => sum + p[e], 0) / N);
    return { loads, ofChoices, ofTokens, P, lossOfChoices: E * dot(ofChoices, P), lossOfTokens: E * dot(ofTokens, P) };
  }

  /** Return the gradient of the balance loss (f of the choices) with respect to the logits. */
  function balanceGradient({ probs }, f) {
    const E = f.length, N = probs.length;
    return probs.map((p) => p.map((value, e) => (E / N) * value * (f[e] - dot(p, f))));
  }

  /** Return tokens (N, 2), with their mean off centre, and the experts' rows (E, 2), all round. */
  function cloud({ seed, N, E, sharp, shift }) {
    const next = normals(seed), x = array([N, 2], next).map(([a, b]) => [round(a + shift), round(b + 0.5 * shift)]);
    const w = array([E], () => 0).map((_, e) => [sharp * Math.cos((2 * Math.PI * e) / E), sharp * Math.sin((2 * Math.PI * e) / E)].map(round));
    return { x, w };
  }
  const round = (value) => Math.round(100 * value) / 100 + 0;
  const logitsOf = (x, w) => x.map((token) => w.map((expert) => dot(token, expert)));

  /** Take steps down the balance loss of a router; the choice is made anew in each. */
  function walk(x, w, K, steps) {
    let now = w;
    for (let step = 0; step < steps; step++) {
      const routed = route(logitsOf(x, now), K, false);
      const dz = balanceGradient(routed, balance(routed, K).ofChoices);
      now = now.map((expert, e) => expert.map((value, d) => value - RATE * x.reduce((sum, token, n) => sum + dz[n][e] * token[d], 0)));
    }
    return now;
  }

  // what the reader did: steps to walk, where the walk is, logits of tokens that were moved
  let settings = "", steps = 0, walked = null, moved = {};

  function draw(s, page) {
    const K = page.limit("K", 1, s.E), token = page.limit("token", 0, s.N - 1);
    const now = JSON.stringify([s.seed, s.N, s.E, s.sharp, s.shift, K]);
    if (now !== settings) [settings, steps, moved] = [now, 0, {}];
    const { x, w: first } = cloud(s);
    if (!walked || walked.settings !== now || walked.steps > steps) walked = { settings: now, steps: 0, w: first };
    walked = { settings: now, steps, w: walk(x, walked.w, K, steps - walked.steps) };
    const { w } = walked;
    const logits = logitsOf(x, w).map((z, n) => moved[n] || z);
    const routed = route(logits, K, s.norm), load = balance(routed, K);
    for (const [key, text] of Object.entries({ N: s.N, E: s.E, K, token, sharp: s.sharp, shift: s.shift })) page.label(key, text);

    page.fill("cloud", picture(x, w, routed, token, page));
    sliders(page, logits[token], routed, token);
    const chosen = routed.ids[token], weights = routed.weights[token];
    page.fill("status", page.say(
      `Token ${token} goes to ${chosen.map((e, i) => `expert ${e} (${fixed(weights[i])})`).join(", ")}; the weights sum to ${fixed(weights.reduce((a, b) => a + b, 0))}.`,
      `词元 ${token} 去往${chosen.map((e, i) => `专家 ${e}（${fixed(weights[i])}）`).join("、")}；权重之和为 ${fixed(weights.reduce((a, b) => a + b, 0))}。`));
    page.root.querySelector("[data-reset]").disabled = !moved[token];

    const even = (s.N * K) / s.E, most = Math.max(...load.loads);
    page.fill("load", ...load.loads.map((n, e) => html("tr", {},
      html("th", { scope: "row" }, html("span", { style: `color:var(--play-${e})` }, `${e}`)), html("td", { "data-value": n }, String(n)),
      html("td", {}, bar(n, most, even, e)),
      ...[load.ofChoices[e], load.ofTokens[e], load.P[e]].map((value) => html("td", { "data-value": value }, fixed(value))))));
    page.fill("losses",
      row([page.say("balance loss, f of the choices", "均衡损失，f 占选择数"), [fixed(load.lossOfChoices, 4), load.lossOfChoices], page.say("even: 1", "均匀：1")]),
      row([page.say("balance loss, f of the tokens", "均衡损失，f 占词元数"), [fixed(load.lossOfTokens, 4), load.lossOfTokens], page.say(`even: ${K}`, `均匀：${K}`)]),
      row([page.say("largest load / even load", "最大负载 / 平均负载"), [fixed(most / even, 2), most / even], page.say("even: 1", "均匀：1")]));
    page.fill("walked", steps ? page.say(`${steps} steps taken`, `已走 ${steps} 步`) : "");
    page.root.querySelector("[data-walk='0']").disabled = !steps;
    page.python(code(x, w, logits, K, s.norm, Object.keys(moved).length > 0));
    return { x, first, w, logits, K, E: s.E, norm: s.norm, steps, token, ...routed, ...load };
  }

  function bar(n, most, even, e) {
    const width = 160, x = (value) => (width * value) / Math.max(most, even);
    return svg("svg", { viewBox: `0 0 ${width + 2} 16`, style: "min-width:6rem", "aria-hidden": "true" },
      svg("rect", { x: 0, y: 2, width: x(n), height: 12, fill: `var(--play-${e})` }),
      svg("line", { x1: x(even), x2: x(even), y1: 0, y2: 16, stroke: "var(--play-fg)", "stroke-width": 2, "stroke-dasharray": "3 2" }));
  }

  /** Draw the tokens, the experts and the lines from the chosen token to its experts. */
  function picture(x, w, routed, token, page) {
    const reach = Math.max(2.5, ...x.flat().map(Math.abs)) * 1.12, size = 170;
    const at = ([a, b]) => [(size * a) / reach, (-size * b) / reach];
    const longest = Math.max(...w.map((v) => Math.hypot(...v)), 1e-9);
    const tip = (v) => at(v.map((c) => (c / longest) * reach * 0.72)); // directions; the longest row sets the scale
    const arrows = w.map((v, e) => {
      const [a, b] = tip(v), length = Math.hypot(a, b);
      if (length < 1) return null;
      const on = routed.ids[token].includes(e);
      return svg("g", {}, svg("line", { x1: 0, y1: 0, x2: a, y2: b, stroke: `var(--play-${e})`, "stroke-width": on ? 4 : 1.5 }),
        svg("circle", { cx: a, cy: b, r: 11, fill: "var(--play-bg)", stroke: `var(--play-${e})`, "stroke-width": on ? 4 : 1.5 }),
        svg("text", { x: a, y: b + 4.5, "text-anchor": "middle", "font-weight": 700, style: `fill:var(--play-${e})` }, String(e)));
    });
    const marks = x.map((v, n) => {
      const [a, b] = at(v), e = routed.ids[n][0], on = n === token;
      return svg("g", { "data-token": n, style: "cursor:pointer" },
        svg("circle", { cx: a, cy: b, r: on ? 11 : 8, fill: on ? "var(--play-mark)" : "transparent", stroke: on ? "var(--play-fg)" : "none", "stroke-width": 2 }),
        svg("text", { x: a, y: b + 4, "text-anchor": "middle", style: `fill:var(--play-${e});font-size:${on ? 14 : 11.5}px` }, String(e)));
    });
    marks.push(marks.splice(token, 1)[0]); // on top
    return svg("svg", { viewBox: `${-size} ${-size} ${2 * size} ${2 * size}`, role: "img", "aria-label": page.say(
      `${x.length} tokens and ${w.length} experts; token ${token} is chosen`, `${x.length} 个词元和 ${w.length} 个专家；选中词元 ${token}`) },
      svg("rect", { x: -size, y: -size, width: 2 * size, height: 2 * size, class: "axis", rx: 8 }),
      svg("line", { x1: -size, x2: size, class: "axis" }), svg("line", { y1: -size, y2: size, class: "axis" }), ...arrows, ...marks);
  }

  /** One slider for each logit. They are kept while they are moved, and only their words change. */
  function sliders(page, z, routed, token) {
    const box = page.find("logits");
    if (box.children.length !== z.length) {
      box.replaceChildren(...z.map((_, e) => html("label", {}, html("span", {}),
        html("input", { type: "range", min: -8, max: 8, step: 0.1, "data-logit": e }), html("output", {}))));
    }
    z.forEach((value, e) => {
      const [name, input, output] = box.children[e].children, at = routed.ids[token].indexOf(e);
      name.textContent = page.say(`expert ${e}`, `专家 ${e}`);
      name.style.color = `var(--play-${e})`;
      if (!moved[token] || Number(input.value) !== value) {
        input.min = Math.min(-8, Math.floor(value));
        input.max = Math.max(8, Math.ceil(value));
        input.value = value;
      }
      output.value = at < 0 ? `p ${fixed(routed.probs[token][e])}` : `p ${fixed(routed.probs[token][e])} → ${fixed(routed.weights[token][at])}`;
      output.className = at < 0 ? "" : "play-chosen";
    });
  }

  function code(x, w, logits, K, norm, byHand) {
    const arrays = byHand ? `# some logits were moved by hand: they stand here in place of tokens
x = np.array(${python(logits)})  # (N, E)
w = np.eye(${w.length})` : `x = np.array(${python(x)})  # (N, D)
w = np.array(${python(w)})  # (E, D)`;
    return `import numpy as np
from minqwen.layers.load_balancing_loss import count_choices, load_balancing_loss_forward
from minqwen.layers.moe_router import moe_router_forward

${arrays}
weights, ids, cache = moe_router_forward(x, w, ${K}, norm_topk_prob=${norm ? "True" : "False"})
logits = cache.router_logits
load = count_choices(ids, ${w.length})
switch, _ = load_balancing_loss_forward(logits, ids)
pooled, _ = load_balancing_loss_forward(logits, ids, f_sums_to_k=True)
print(load, switch, pooled)
`;
  }

  const page = start("moe", { softmax, route, balance, balanceGradient, cloud, logitsOf, walk }, draw);
  page.extra.seed = 1;
  page.move = (token, z) => { moved[token] = z; page.set({ token }); };
  page.walk = (by) => {
    steps = by ? steps + by : 0;
    moved = {};
    page.update();
  };
  page.root.addEventListener("input", (event) => {
    const { logit } = event.target.dataset;
    if (logit === undefined) return;
    event.stopImmediatePropagation();
    const { logits, token } = page.last;
    page.move(token, logits[token].map((z, e) => (e === Number(logit) ? Number(event.target.value) : z)));
  }, true);
  page.root.addEventListener("click", (event) => {
    const mark = event.target.closest("[data-token]"), button = event.target.closest("button");
    if (mark) page.set({ token: Number(mark.dataset.token) });
    if (button && button.dataset.walk) page.walk(Number(button.dataset.walk));
    if (button && button.dataset.reset !== undefined) {
      delete moved[page.last.token];
      page.update();
    }
  });
  page.begin();
})();
