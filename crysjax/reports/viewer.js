// The page's structures: small pictures that are painted when they come into sight, and one stage to turn them on.
"use strict";
(function () {
  const root = document.documentElement, packed = JSON.parse(document.getElementById("crystals").textContent);
  const scenes = new Map();
  const scene = k => scenes.get(k) || scenes.set(k, painter.unpack(packed[k])).get(k);
  const PAPER = { ground: [255, 255, 255], line: [120, 120, 120], ink: [0, 0, 0] };
  let printing = false;

  function inks(canvas) {
    if (printing) return PAPER;
    const style = getComputedStyle(canvas), of = name => style.getPropertyValue(name).trim();
    const rgb = hex => [1, 3, 5].map(k => parseInt(hex.slice(k, k + 2), 16));
    return { ground: rgb(of("--panel")), line: rgb(of("--line")), ink: rgb(of("--ink")) };
  }

  // small pictures
  const pictures = [...document.querySelectorAll("canvas[data-picture]")], painted = new Set();
  function picture(canvas) {
    painted.add(canvas);
    const look = { rotation: painter.HOME, zoom: 1, solid: new Set(), labels: false };
    painter.paint(canvas, scene(Number(canvas.dataset.picture)), look, inks(canvas));
    root.dataset.pictures = String(painted.size);
  }
  const watch = new IntersectionObserver(seen => seen.forEach(one => {
    if (one.isIntersecting) { watch.unobserve(one.target); picture(one.target); }
  }), { rootMargin: "200px" });
  pictures.forEach(canvas => watch.observe(canvas));

  // the stage
  const stage = document.getElementById("stage"), canvas = stage && stage.querySelector("canvas");
  let shown = -1, look = null;
  const fresh = () => ({ rotation: painter.HOME, zoom: 1, solid: new Set(), labels: true });
  const repaint = () => { if (shown >= 0) painter.paint(canvas, scene(shown), look, inks(canvas)); };
  const rotate = (dx, dy) => {
    look.rotation = painter.multiply(painter.turn("x", dy), painter.multiply(painter.turn("y", dx), look.rotation));
    repaint();
  };
  const zoom = factor => { look.zoom = Math.min(8, Math.max(0.3, look.zoom * factor)); repaint(); };
  const DO = {
    reset: () => { look.rotation = painter.HOME; look.zoom = 1; repaint(); },
    in: () => zoom(1.25), out: () => zoom(0.8),
    a: () => { look.rotation = painter.along(scene(shown).cell, 0); repaint(); },
    b: () => { look.rotation = painter.along(scene(shown).cell, 1); repaint(); },
    c: () => { look.rotation = painter.along(scene(shown).cell, 2); repaint(); },
  };

  function solid(button) {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    if (on) look.solid.add(button.dataset.solid); else look.solid.delete(button.dataset.solid);
    repaint();
  }

  const subscripts = (where, formula) => formula.split(/(\d+)/).forEach((part, k) => {
    const node = document.createElement(k % 2 ? "sub" : "span");
    node.textContent = part;
    if (part) where.append(node);
  });

  function show(k, name) {
    shown = k;
    look = fresh();
    stage.classList.add("shown");
    canvas.setAttribute("aria-label", `${name}: 3D drawing; arrow keys turn it, plus and minus zoom, 0 resets, a, b and c look along the axes`);
    const legend = stage.querySelector(".elements"), solids = stage.querySelector(".solids");
    legend.replaceChildren(...packed[k].elements.map(([symbol, color]) => {
      const key = document.createElement("span"), dot = document.createElement("i");
      dot.className = "dot";
      dot.style.background = color;
      key.append(dot, symbol);
      return key;
    }));
    legend.append(stage.querySelector("[data-facts]") ? "" : packed[k].group, packed[k].note && ` ${packed[k].note}`);
    solids.replaceChildren(...Object.entries(packed[k].kinds).map(([symbol, formula]) => {
      const button = document.createElement("button");
      Object.assign(button, { type: "button", onclick: () => solid(button) });
      button.dataset.solid = symbol;
      button.setAttribute("aria-pressed", "false");
      subscripts(button, formula);
      return button;
    }));
    solids.hidden = !solids.children.length;
    if (!solids.hidden) solids.prepend("polyhedra: ");
    stage.querySelectorAll("[data-facts]").forEach(facts => { facts.hidden = facts.dataset.facts !== String(k); });
    const heading = stage.querySelector(".name");
    if (heading) heading.textContent = name;
    document.querySelectorAll("[data-open]").forEach(one => {
      if (one.dataset.open === String(k)) one.setAttribute("aria-current", "true"); else one.removeAttribute("aria-current");
    });
    repaint();
    root.dataset.shown = String(k);
  }

  if (stage) {
    stage.querySelectorAll("[data-do]").forEach(button => { button.onclick = () => DO[button.dataset.do](); });
    let pulled = null;
    canvas.addEventListener("pointerdown", e => { pulled = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); });
    ["pointerup", "pointercancel"].forEach(end => canvas.addEventListener(end, () => { pulled = null; }));
    canvas.addEventListener("pointermove", e => {
      if (!pulled) return;
      rotate((e.clientX - pulled[0]) * 0.01, (e.clientY - pulled[1]) * 0.01);
      pulled = [e.clientX, e.clientY];
    });
    canvas.addEventListener("wheel", e => {  // only once it was clicked or focused: the page keeps its own scrolling
      if (document.activeElement !== canvas) return;
      e.preventDefault();
      zoom(Math.exp(-e.deltaY * 0.001));
    }, { passive: false });
    canvas.addEventListener("keydown", e => {
      const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[e.key];
      const named = { "+": "in", "=": "in", "-": "out", 0: "reset", a: "a", b: "b", c: "c" }[e.key];
      if (e.ctrlKey || e.metaKey || e.altKey || !(step || named)) return;
      e.preventDefault();
      if (step) rotate(...step); else DO[named]();
    });
    document.querySelectorAll("[data-open]").forEach(mark => {
      const said = mark.querySelector("title"), name = mark.dataset.name || (said ? said.textContent : "");
      const open = () => { show(Number(mark.dataset.open), name); stage.scrollIntoView({ block: "nearest" }); };
      mark.addEventListener("click", open);
      if (mark.tagName !== "BUTTON") mark.addEventListener("keydown", e => { if (e.key === "Enter") open(); });
    });
    new ResizeObserver(repaint).observe(canvas);
    const first = document.querySelector("button[data-open='0']");
    if (first) show(0, first.dataset.name);
  }

  // light and dark, and paper
  const again = () => { painted.forEach(picture); repaint(); };
  window.addEventListener("themechange", again);
  window.addEventListener("beforeprint", () => { printing = true; pictures.forEach(picture); repaint(); });
  window.addEventListener("afterprint", () => { printing = false; again(); });
  root.dataset.ready = String(packed.length);
})();
