// Paints a crystal on a 2D canvas: spheres, bonds, polyhedra, the cell. What is painted is decided in structures.py.
"use strict";
const painter = (function () {
  const HOME = multiply(turn("x", 0.2), multiply(turn("y", -0.42), [[0, 1, 0], [0, 0, 1], [1, 0, 0]]));

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

  const minus = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const unit = v => v.map(x => x / (Math.hypot(...v) || 1));
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  const between = (a, b, t) => a.map((x, k) => x + t * (b[k] - x));

  function along(cell, k) {  // looking down an axis of the cell, c up (b up for c)
    const z = unit(cell[k]), up = cell[k === 2 ? 1 : 2], y = unit(minus(up, z.map(x => x * dot(up, z))));
    return [cross(y, z), y, z];
  }

  function rgb(hex) {
    const n = parseInt(hex.slice(1), 16);
    return [n >> 16, (n >> 8) & 255, n & 255];
  }

  const mixed = (a, b, t) => a.map((x, k) => Math.round(x + t * (b[k] - x)));
  const text = (c, alpha = 1) => `rgba(${c.join(",")},${alpha})`;

  function unpack(packed) {  // flat numbers in hundredths of an Å -> what is painted
    const cell = packed.cell.map(v => v.map(x => x / 100)), atoms = [], bonds = [];
    const kinds = packed.elements.map(([symbol, color, radius]) => ({ symbol, color: rgb(color), radius: radius / 100 }));
    for (let k = 0; k < packed.atoms.length; k += 4) {
      const [e, x, y, z] = packed.atoms.slice(k, k + 4);
      atoms.push({ p: [x / 100, y / 100, z / 100], inside: atoms.length < packed.inside, ...kinds[e] });
    }
    for (let k = 0; k < packed.bonds.length; k += 2) bonds.push([packed.bonds[k], packed.bonds[k + 1]]);
    const middle = cell[0].map((_, k) => (cell[0][k] + cell[1][k] + cell[2][k]) / 2);
    const corner = (i, j, l) => cell[0].map((_, k) => i * cell[0][k] + j * cell[1][k] + l * cell[2][k] - middle[k]);
    const edges = [];
    for (const i of [0, 1]) for (const j of [0, 1]) {
      edges.push([corner(0, i, j), corner(1, i, j)], [corner(i, 0, j), corner(i, 1, j)], [corner(i, j, 0), corner(i, j, 1)]);
    }
    return { cell, atoms, bonds, edges, origin: corner(0, 0, 0), polyhedra: packed.polyhedra };
  }

  const sprites = new Map();
  function sprite(color, ground, fog) {
    const name = [color, ground, fog].join("|");
    if (!sprites.has(name)) {
      const made = document.createElement("canvas"), g = made.getContext("2d"), r = 64, base = mixed(color, ground, fog);
      made.width = made.height = 2 * r;
      const light = g.createRadialGradient(0.66 * r, 0.6 * r, 0.05 * r, r, r, r);
      light.addColorStop(0, text(mixed(base, [255, 255, 255], 0.75)));
      light.addColorStop(0.35, text(base));
      light.addColorStop(0.85, text(mixed(base, [0, 0, 0], 0.35)));
      light.addColorStop(1, text(mixed(base, [0, 0, 0], 0.6)));
      g.fillStyle = light;
      g.beginPath();
      g.arc(r, r, r - 1, 0, 2 * Math.PI);
      g.fill();
      sprites.set(name, made);
    }
    return sprites.get(name);
  }

  const AXES = [[214, 69, 65], [46, 139, 87], [61, 125, 202]];

  // look: {rotation, zoom, solid: Set of symbols whose polyhedra are shown, labels}; inks: {ground, line, ink}
  function paint(canvas, scene, look, inks) {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width || !height) return;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const solids = scene.polyhedra.filter(([center]) => look.solid.has(scene.atoms[center].symbol));
    const shown = scene.atoms.map(a => a.inside);
    solids.forEach(([, ...rings]) => rings.flat().forEach(k => { shown[k] = true; }));
    const outer = scene.edges.flat().concat(scene.atoms.filter((_, k) => shown[k]).map(a => a.p));
    const g = canvas.getContext("2d"), reach = 0.6 + Math.max(1, ...outer.map(p => Math.hypot(...p))), scale = look.zoom * 0.48 * Math.min(width, height) / reach;
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.lineCap = "round";
    g.lineJoin = "round";
    const project = p => {
      const q = apply(look.rotation, p), s = scale / (1 - q[2] / (reach * 7));
      return { x: width / 2 + q[0] * s, y: height / 2 - q[1] * s, z: q[2], s };
    };
    const fog = z => Math.round(8 * Math.min(1, Math.max(0, 0.5 - z / (2 * reach)))) / 8 * 0.5;
    const stroke = (p, q, thick, color) => {
      g.strokeStyle = color;
      g.lineWidth = thick;
      g.beginPath();
      g.moveTo(p.x, p.y);
      g.lineTo(q.x, q.y);
      g.stroke();
    };
    const items = [];
    for (const [a, b] of scene.edges) {
      const first = dot(minus(a, scene.origin), minus(a, scene.origin)) < 1e-6;
      const axis = first ? scene.cell.findIndex(v => Math.hypot(...minus(minus(b, a), v)) < 1e-6) : -1;
      const color = axis < 0 ? inks.line : AXES[axis];
      for (let k = 0; k < 8; k++) {
        const p = project(between(a, b, k / 8)), q = project(between(a, b, (k + 1) / 8));
        items.push({ z: (p.z + q.z) / 2, paint: () => stroke(p, q, axis < 0 ? 1 : 1.8, text(mixed(color, inks.ground, fog(p.z)))) });
      }
    }
    const seen = scene.atoms.map(a => project(a.p));
    for (const [center, ...rings] of solids) {
      const own = scene.atoms[center];
      for (const ring of rings) {
        const at = ring.map(k => seen[k]), z = at.reduce((sum, p) => sum + p.z, 0) / at.length;
        const [u, v] = [1, 2].map(k => apply(look.rotation, minus(scene.atoms[ring[k]].p, scene.atoms[ring[0]].p)));
        const lit = Math.abs(unit(cross(u, v))[2]), face = mixed(mixed(own.color, [0, 0, 0], 0.45 * (1 - lit)), inks.ground, fog(z));
        items.push({ z, paint: () => {
          g.beginPath();
          at.forEach((p, k) => k ? g.lineTo(p.x, p.y) : g.moveTo(p.x, p.y));
          g.closePath();
          g.fillStyle = text(face, 0.55);
          g.fill();
          g.strokeStyle = text(mixed(own.color, [0, 0, 0], 0.4), 0.7);
          g.lineWidth = 1;
          g.stroke();
        } });
      }
    }
    for (const [i, j] of scene.bonds) {
      const a = scene.atoms[i], b = scene.atoms[j], whole = shown[j];
      const toward = unit(minus(b.p, a.p)), middle = between(a.p, b.p, whole ? 0.5 : 0.36);
      half(a, a.p.map((x, k) => x + 0.9 * a.radius * toward[k]), middle, whole ? 1 : 0.5);
      if (whole) half(b, middle, b.p.map((x, k) => x - 0.9 * b.radius * toward[k]), 1);
    }
    function half(atom, from, to, alpha) {
      const p = project(from), q = project(to), z = (p.z + q.z) / 2, thick = Math.max(0.17 * p.s, 1.2);
      items.push({ z, paint: () => {
        const base = mixed(atom.color, inks.ground, fog(z));
        stroke(p, q, thick, text(mixed(base, [0, 0, 0], 0.38), alpha));
        stroke(p, q, 0.5 * thick, text(base, alpha));
      } });
    }
    scene.atoms.forEach((atom, i) => {
      if (!shown[i]) return;
      const p = seen[i], r = Math.max(atom.radius * p.s * (atom.inside ? 1 : 0.75), 2);
      items.push({ z: p.z, paint: () => g.drawImage(sprite(atom.color, inks.ground, fog(p.z)), p.x - r, p.y - r, 2 * r, 2 * r) });
    });
    items.sort((a, b) => a.z - b.z).forEach(item => item.paint());
    if (look.labels) ["a", "b", "c"].forEach((name, k) => {
      const p = project(scene.origin.map((x, i) => x + scene.cell[k][i] + 0.9 * unit(scene.cell[k])[i]));
      g.font = "italic 600 16px system-ui, sans-serif";
      g.textAlign = "center";
      g.textBaseline = "middle";
      g.lineWidth = 3;
      g.strokeStyle = text(inks.ground);
      g.strokeText(name, p.x, p.y);
      g.fillStyle = text(mixed(AXES[k], inks.ink, 0.15));
      g.fillText(name, p.x, p.y);
    });
  }

  return { HOME, multiply, turn, along, unpack, paint };
})();
