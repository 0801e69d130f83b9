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
  document.getElementById("search-results")?.before(
    Object.assign(document.createElement("h1"), { textContent: "Search" }));
  addEventListener("load", () => {
    mark();
    if (window.MathJax?.startup?.promise) MathJax.startup.promise.then(mark);
  });
  addEventListener("resize", mark);
})();
// The menus open with the keyboard too: furo's are checkboxes that only a pointer reaches. What is
// outside the window is not reached by Tab.
(() => {
  const menus = [
    ["__navigation", ".sidebar-drawer", "All pages"], ["__toc", ".toc-drawer", "On this page"],
  ];
  for (const [id, css, name] of menus) {
    const box = document.getElementById(id), drawer = document.querySelector(css);
    if (!box || !drawer) continue;
    drawer.setAttribute("aria-label", name);
    const buttons = [...document.querySelectorAll(`label[for=${id}]:not(.overlay)`)].map((label) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = label.className;
      button.setAttribute("aria-label", box.getAttribute("aria-label"));
      button.append(...label.childNodes);
      label.replaceWith(button);
      return button;
    });
    let opener = null;
    const show = (open) => {
      box.checked = open;
      update();
      const links = [...drawer.querySelectorAll("a")];
      if (open) links.find((link) => link.offsetParent)?.focus({ preventScroll: true });
      else opener?.focus();
    };
    const update = () => {
      drawer.inert = getComputedStyle(drawer).position === "fixed" && !box.checked;
      buttons.forEach((button) => button.setAttribute("aria-expanded", String(box.checked)));
    };
    buttons.forEach((button) => button.addEventListener("click", () => {
      opener = button;
      show(!box.checked);
    }));
    box.addEventListener("change", update); // a touch beside the menu
    addEventListener("resize", update);
    addEventListener("keydown", (event) => {
      if (event.key === "Escape" && box.checked && !drawer.inert) show(false);
    });
    update();
  }
})();
