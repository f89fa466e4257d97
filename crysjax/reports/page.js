// Of all pages: light and dark, and tables that are sorted by a click on their heads.
"use strict";
(function () {
  const number = cell => { const n = parseFloat(cell.textContent.replace(/,/g, "")); return Number.isNaN(n) ? null : n; };
  document.querySelectorAll("table.sortable").forEach(table => {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, k) => {
      if (!head.textContent) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.onclick = () => {
        const up = head.getAttribute("aria-sort") !== "ascending", rows = [...body.rows];
        const words = head.classList.contains("l");
        const key = row => words ? row.cells[k].textContent : number(row.cells[k]);
        rows.sort((a, b) => {
          const [x, y] = [key(a), key(b)];
          if (x === null || y === null) return (x === null) - (y === null);  // what is not known comes last
          return (up ? 1 : -1) * (words ? x.localeCompare(y) : x - y);
        });
        [...table.tHead.rows[0].cells].forEach(other => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        body.append(...rows);
      };
    });
  });

  const root = document.documentElement, changed = () => window.dispatchEvent(new Event("themechange"));
  document.getElementById("theme").addEventListener("click", () => {
    const dark = getComputedStyle(root).getPropertyValue("--dark").trim() === "1";
    root.dataset.theme = dark ? "light" : "dark";
    changed();
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
})();
