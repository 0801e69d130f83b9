// What scrolls sideways can be scrolled with the keyboard, and says what it is.
(() => {
  const boxes = "pre, div.math, .table-wrapper, .output_html, mjx-container[display=true]";
  const mark = () => document.querySelectorAll(boxes).forEach((box) => {
    if (box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1) {
      box.tabIndex = 0;
    } else if (box.tabIndex === 0) {
      box.removeAttribute("tabindex");
    }
  });
  addEventListener("load", () => {
    mark();
    if (window.MathJax?.startup?.promise) MathJax.startup.promise.then(mark);
  });
  addEventListener("resize", mark);
})();
