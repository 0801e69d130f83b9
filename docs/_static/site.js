// What scrolls sideways can be scrolled with the keyboard.
(() => {
  const boxes = "pre, div.math, .table-wrapper, .output_html, mjx-container[display=true]";
  const mark = () => document.querySelectorAll(boxes).forEach((box) => {
    if (box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1) {
      box.tabIndex = 0;
    } else if (box.tabIndex === 0) {
      box.removeAttribute("tabindex");
    }
  });
  // in tables, names of files and functions may break behind / and _, and nowhere else
  document.querySelectorAll("td code .pre").forEach((word) => {
    const parts = word.textContent.split(/(?<=[/_])/);
    word.replaceChildren(...parts.flatMap((p, i) => (i ? [document.createElement("wbr"), p] : [p])));
  });
  addEventListener("load", () => {
    mark();
    if (window.MathJax?.startup?.promise) MathJax.startup.promise.then(mark);
  });
  addEventListener("resize", mark);
})();
