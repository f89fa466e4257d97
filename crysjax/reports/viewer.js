// A small 3D view of a crystal on a 2D canvas: spheres, bonds, the cell. Drag turns it, the wheel zooms.
// No dependencies, so that a report is one file that opens anywhere.
"use strict";
(function () {
  function multiply(a, b) {
    return a.map(row => b[0].map((_, j) => row[0] * b[0][j] + row[1] * b[1][j] + row[2] * b[2][j]));
  }

  function turn(axis, angle) {
    const c = Math.cos(angle), s = Math.sin(angle);
    return axis === "x" ? [[1, 0, 0], [0, c, -s], [0, s, c]] : [[c, 0, s], [0, 1, 0], [-s, 0, c]];
  }

  function apply(m, v) {
    return m.map(row => row[0] * v[0] + row[1] * v[1] + row[2] * v[2]);
  }

  function shade(hex, factor) {
    const n = parseInt(hex.slice(1), 16);
    const mix = c => Math.round(factor > 1 ? 255 - (255 - c) / factor : c * factor);
    return `rgb(${mix(n >> 16)},${mix((n >> 8) & 255)},${mix(n & 255)})`;
  }

  function colors(canvas) {
    const style = getComputedStyle(canvas);
    return { line: style.getPropertyValue("--line").trim(), text: style.getPropertyValue("--muted").trim() };
  }

  // crystal: {atoms: [{p: [x, y, z], color, radius, symbol}], bonds: [[i, j]], edges: [[a, b]]}, in Å about the centre
  function view(canvas, crystal) {
    let rotation = multiply(turn("x", -1.25), turn("y", 0)), zoom = 1, pulled = null, spin = 0;
    rotation = multiply(turn("x", 0.18), multiply(turn("y", 0.5), rotation));
    const points = crystal.atoms.map(a => a.p).concat(crystal.edges.flat());
    const reach = Math.max(1, ...points.map(p => Math.hypot(...p))) + 0.6;

    function draw() {
      const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
      if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
      }
      const ink = colors(canvas), g = canvas.getContext("2d");
      g.setTransform(ratio, 0, 0, ratio, 0, 0);
      g.clearRect(0, 0, width, height);
      const scale = zoom * 0.5 * Math.min(width, height) / reach;
      const project = p => {
        const q = apply(rotation, p), depth = 1 / (1 - q[2] / (reach * 6));
        return { x: width / 2 + q[0] * scale * depth, y: height / 2 - q[1] * scale * depth, z: q[2], s: scale * depth };
      };
      const items = [];
      for (const [a, b] of crystal.edges) {
        const p = project(a), q = project(b);
        items.push({ z: Math.min(p.z, q.z) - 1e3, paint: () => stroke(p, q, 1, ink.line) });
      }
      const seen = crystal.atoms.map(a => project(a.p));
      for (const [i, j] of crystal.bonds) {
        const p = seen[i], q = seen[j];
        const m = { x: (p.x + q.x) / 2, y: (p.y + q.y) / 2 };
        items.push({ z: (p.z + q.z) / 2 - 0.3, paint: () => {
          stroke(p, m, 0.16 * p.s, shade(crystal.atoms[i].color, 0.8));
          stroke(m, q, 0.16 * q.s, shade(crystal.atoms[j].color, 0.8));
        } });
      }
      crystal.atoms.forEach((atom, i) => items.push({ z: seen[i].z, paint: () => sphere(seen[i], atom) }));
      items.sort((a, b) => a.z - b.z).forEach(item => item.paint());

      function stroke(p, q, thickness, color) {
        g.strokeStyle = color;
        g.lineWidth = Math.max(thickness, 1);
        g.lineCap = "round";
        g.beginPath();
        g.moveTo(p.x, p.y);
        g.lineTo(q.x, q.y);
        g.stroke();
      }

      function sphere(p, atom) {
        const r = Math.max(atom.radius * p.s, 2);
        const light = g.createRadialGradient(p.x - 0.35 * r, p.y - 0.4 * r, 0.1 * r, p.x, p.y, r);
        light.addColorStop(0, shade(atom.color, 2.6));
        light.addColorStop(0.45, atom.color);
        light.addColorStop(1, shade(atom.color, 0.55));
        g.fillStyle = light;
        g.beginPath();
        g.arc(p.x, p.y, r, 0, 2 * Math.PI);
        g.fill();
      }
    }

    function rotate(dx, dy) {
      rotation = multiply(turn("x", dy), multiply(turn("y", dx), rotation));
      draw();
    }

    canvas.addEventListener("pointerdown", e => { pulled = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); });
    canvas.addEventListener("pointerup", () => { pulled = null; });
    canvas.addEventListener("pointermove", e => {
      if (!pulled) return;
      rotate((e.clientX - pulled[0]) * 0.01, (e.clientY - pulled[1]) * 0.01);
      pulled = [e.clientX, e.clientY];
    });
    canvas.addEventListener("wheel", e => {
      e.preventDefault();
      zoom = Math.min(6, Math.max(0.3, zoom * Math.exp(-e.deltaY * 0.001)));
      draw();
    }, { passive: false });
    canvas.addEventListener("keydown", e => {
      const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[e.key];
      if (step) { e.preventDefault(); rotate(...step); }
    });
    new ResizeObserver(draw).observe(canvas);
    window.addEventListener("themechange", draw);
    draw();
  }

  const crystals = JSON.parse(document.getElementById("crystals").textContent);
  // a mark with data-open shows that crystal in the page's one canvas for it
  document.querySelectorAll("[data-open]").forEach(mark => {
    const open = () => {
      const box = document.getElementById("opened"), old = box.querySelector("canvas"), canvas = old.cloneNode(false);
      old.replaceWith(canvas);
      box.classList.add("shown");
      box.querySelector("h3").textContent = mark.querySelector("title").textContent;
      view(canvas, crystals[Number(mark.dataset.open)]);
      box.scrollIntoView({ block: "nearest" });
    };
    mark.addEventListener("click", open);
    mark.addEventListener("keydown", e => { if (e.key === "Enter") open(); });
  });
  document.querySelectorAll("canvas[data-crystal]").forEach(c => view(c, crystals[Number(c.dataset.crystal)]));
  const button = document.getElementById("theme");
  button.addEventListener("click", () => {
    const dark = getComputedStyle(document.documentElement).getPropertyValue("--dark").trim() === "1";
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    window.dispatchEvent(new Event("themechange"));
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => window.dispatchEvent(new Event("themechange")));
  document.documentElement.dataset.ready = String(crystals.length);
})();
