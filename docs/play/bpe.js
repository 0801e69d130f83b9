// Byte-pair encoding: minqwen/tokenizer/pretokenizer.py and merges.py. A token is a string of bytes,
// one character (0 to 255) for each, so that tokens can be compared and be keys.
"use strict";

(() => {
  const { html, row, start } = window.minqwenPlay;

  // Qwen's pattern. White space is Unicode's property, as in Python's `regex`; the \s of JavaScript
  // is another set. (?i:s) there also fits U+017F, the long s.
  const SPACE = "\\p{White_Space}";
  const PATTERN = new RegExp([
    "'(?:[sS\u017f]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])",
    "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+",
    "\\p{N}",
    ` ?[^${SPACE}\\p{L}\\p{N}]+[\\r\\n]*`,
    `${SPACE}*[\\r\\n]+`,
    `${SPACE}+(?![^${SPACE}])`,
    `${SPACE}+`,
  ].join("|"), "gu");

  /** Return the pre-tokens of a text, after NFC; half a character becomes U+FFFD. */
  function split(text) {
    const whole = text.replace(/[\ud800-\udbff][\udc00-\udfff]|[\ud800-\udfff]/g, (s) => (s.length > 1 ? s : "\ufffd"));
    return whole.normalize("NFC").match(PATTERN) || [];
  }

  const bytesOf = (text) => [...new TextEncoder().encode(text)].map((b) => String.fromCharCode(b));
  const singleBytes = () => new Map(Array.from({ length: 256 }, (_, b) => [String.fromCharCode(b), b]));

  /** Count every pair of neighbours: {left, right, count}, in no order. */
  function countPairs(words, ids) {
    const counts = new Map();
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++) {
        const key = ids.get(word[i]) * 65536 + ids.get(word[i + 1]);
        const pair = counts.get(key);
        if (pair) pair.count += 1;
        else counts.set(key, { left: word[i], right: word[i + 1], count: 1 });
      }
    }
    return [...counts.values()];
  }

  /** Below 0 if pair a comes before b: the most frequent first, then the smaller ids. */
  const byRule = (ids) => (a, b) => b.count - a.count
    || ids.get(a.left) - ids.get(b.left) || ids.get(a.right) - ids.get(b.right);

  /** Join every left, right from left to right. */
  function mergePair(pieces, left, right) {
    const merged = [];
    for (let i = 0; i < pieces.length; i++) {
      if (pieces[i] === left && pieces[i + 1] === right) merged.push(left + pieces[++i]);
      else merged.push(pieces[i]);
    }
    return merged;
  }

  /** Learn merges: one step {left, right, token, rank, count, words} for each; words is the text after it. */
  function learn(text, merges = Infinity) {
    const ids = singleBytes(), steps = [];
    let words = split(text).map(bytesOf);
    const first = words;
    while (steps.length < merges) {
      const pairs = countPairs(words, ids), before = byRule(ids);
      if (!pairs.length) break;
      const { left, right, count } = pairs.reduce((best, pair) => (before(pair, best) < 0 ? pair : best));
      ids.set(left + right, ids.size);
      words = words.map((word) => mergePair(word, left, right));
      steps.push({ left, right, token: left + right, rank: ids.size - 1, count, words });
    }
    return { first, steps };
  }

  /** Return token -> id: the bytes, and the tokens of these steps. */
  function ranksOf(steps) {
    const ranks = singleBytes();
    for (const { token, rank } of steps) ranks.set(token, rank);
    return ranks;
  }

  /** Encode a text: every pre-token in its states, from single bytes to the end. */
  function encodeSteps(text, ranks) {
    return split(text).map((pretoken) => {
      let pieces = bytesOf(pretoken);
      const states = [{ pieces, rank: null, at: -1 }];
      for (;;) {
        let rank = Infinity, at = -1; // the leftmost of equals
        for (let i = 0; i + 1 < pieces.length; i++) {
          const found = ranks.get(pieces[i] + pieces[i + 1]);
          if (found !== undefined && found < rank) [rank, at] = [found, i];
        }
        if (at < 0) return states;
        pieces = [...pieces.slice(0, at), pieces[at] + pieces[at + 1], ...pieces.slice(at + 2)];
        states.push({ pieces, rank, at });
      }
    });
  }

  /** Return the ids of a text. */
  const encode = (text, ranks) =>
    encodeSteps(text, ranks).flatMap((states) => states.at(-1).pieces.map((piece) => ranks.get(piece)));

  /** Show a token: whole printable characters as they are, spaces as dots, other bytes in hex. */
  function readable(token) {
    const bytes = Uint8Array.from(token, (c) => c.charCodeAt(0));
    try {
      const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
      const shown = text.replaceAll(" ", "\u2423").replaceAll("\n", "⏎");
      if (/^[^\p{C}\p{Z}\p{M}]+$/u.test(shown)) return { text: shown, hex: false };
    } catch { /* part of a character */ }
    return { text: [...bytes].map((b) => b.toString(16).padStart(2, "0").toUpperCase()).join(" "), hex: true };
  }
  const tokenOf = (token, id, fresh) => {
    const { text, hex } = readable(token);
    return html("span", { class: `play-token${fresh ? " play-new" : ""}`, "data-id": id },
      html("span", { class: hex ? "play-bytes" : null }, text), html("small", {}, String(id)));
  };
  const inline = (token) => html("span", { class: readable(token).hex ? "play-bytes" : null }, readable(token).text);

  const MOST = { text: 2000, steps: 300 };
  let learned = { text: null };

  function draw(s, page) {
    const text = [...s.text].slice(0, MOST.text).join("");
    if (learned.text !== text) learned = { text, ...learn(text, MOST.steps) }; // else only the step changed
    const step = page.limit("step", 0, learned.steps.length);
    const done = learned.steps.slice(0, step), last = done.at(-1);
    const words = last ? last.words : learned.first, ranks = ranksOf(done);
    page.label("step", `${step} / ${learned.steps.length}${learned.steps.length === MOST.steps ? page.say(" (the first)", "（仅前面这些）") : ""}`);
    page.root.querySelectorAll("[data-go]").forEach((button) => {
      button.disabled = button.dataset.go < 0 ? step === 0 : step === learned.steps.length;
    });

    page.fill("pieces", ...words.map((word) => html("span", { class: "play-word" },
      ...word.map((token) => tokenOf(token, ranks.get(token), last && token === last.token)))));
    const pairs = countPairs(words, ranks).sort(byRule(ranks)), [best] = pairs;
    page.fill("pairs", ...pairs.slice(0, 10).map((pair, i) => html("tr", i ? {} : { class: "play-on" },
      html("th", { scope: "row" }, inline(pair.left), " + ", inline(pair.right)),
      html("td", {}, `${ranks.get(pair.left)}, ${ranks.get(pair.right)}`), html("td", { "data-value": pair.count }, String(pair.count)))));
    const tied = pairs.filter((pair) => pair.count === best.count).length;
    page.fill("tie", !best ? page.say("No pair is left.", "没有可合并的对了。")
      : tied > 1 ? page.say(`${tied} pairs stand here ${best.count} times: the smaller id on the left wins, then the smaller on the right. (How Qwen broke ties is not published.)`,
        `${tied} 个对都出现 ${best.count} 次：先取左边编号较小的，再取右边编号较小的。（Qwen 如何处理平局没有公开。）`)
        : page.say(`The next merge: the first pair, which stands here ${best.count} times.`, `下一次合并：第一行的对，它出现 ${best.count} 次。`));
    page.fill("status", last
      ? page.say(`Merge ${step}: ${readable(last.left).text} + ${readable(last.right).text}, found ${last.count} times, became token ${last.rank}.`,
        `第 ${step} 次合并：${readable(last.left).text} + ${readable(last.right).text}，出现 ${last.count} 次，成为词元 ${last.rank}。`)
      : page.say("Nothing is merged yet: every token is a byte.", "还没有合并：每个词元都是一个字节。"));
    page.fill("merges", ...done.map((one, i) => html("tr", i === step - 1 ? { class: "play-on" } : {},
      html("th", { scope: "row" }, String(one.rank)), html("td", {}, inline(one.left), " + ", inline(one.right)),
      html("td", {}, inline(one.token)), html("td", {}, String(one.count)))).reverse());

    const other = [...s.other].slice(0, MOST.text).join("");
    const states = encodeSteps(other, ranks), merged = states.reduce((n, list) => n + list.length - 1, 0);
    let left = Math.min(page.limit("applied", 0, Math.max(merged, 1), true), merged);
    const applied = left;
    page.label("applied", `${applied} / ${merged}`);
    const shown = states.map((list) => { // the pre-tokens one after the other
      const at = Math.min(left, list.length - 1);
      left -= at;
      return { ...list[at], fresh: at > 0 && left === 0 && applied > 0 };
    });
    const lastFresh = shown.findLastIndex((state) => state.at >= 0);
    page.fill("encoded", ...shown.map((state, w) => html("span", { class: "play-word" },
      ...state.pieces.map((token, i) => tokenOf(token, ranks.get(token), applied < merged && w === lastFresh && i === state.at)))));
    const ids = shown.flatMap((state) => state.pieces.map((piece) => ranks.get(piece)));
    page.fill("ids", `[${ids.join(", ")}]`);
    const bytes = states.reduce((n, list) => n + list[0].pieces.length, 0), characters = [...other.normalize("NFC")].length;
    page.fill("length", page.say(`${characters} characters, ${bytes} bytes, ${ids.length} tokens.`, `${characters} 个字符，${bytes} 个字节，${ids.length} 个词元。`));
    page.python(code(text, other, step));
    return { text, step, merges: done, pairs, words, ids, applied, merged, other };
  }

  const quote = (text) => JSON.stringify(text).replace(/[\u007f-\uffff]/g, (c) => // lone halves, and what cannot be seen
    (/[\p{L}\p{N}\p{P}]/u.test(c) && c !== "\u2028" && c !== "\u2029") ? c : `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);

  function code(text, other, step) {
    return `from itertools import islice
from minqwen.tokenizer.bpe import Tokenizer, bpe_train_steps

text = ${quote(text)}
other = ${quote(other)}
ranks = {bytes([byte]): byte for byte in range(256)}
for learned in islice(bpe_train_steps(text), ${step}):
    ranks[b"".join(learned.pair)] = learned.rank
    print(learned.rank, *learned.pair, learned.frequency)
tokenizer = Tokenizer(ranks, special_tokens={})
ids = tokenizer.encode(other)
print(ids)
`;
  }

  const page = start("bpe", { split, learn, ranksOf, encodeSteps, encode, countPairs }, draw);
  page.root.addEventListener("click", (event) => {
    const button = event.target.closest("[data-go]");
    if (button) page.set({ step: Math.min(Math.max(page.state().step + Number(button.dataset.go), 0), learned.steps.length) });
  });
  page.begin();
})();
