// Mouse, pen, fingers and keys on the map, as moves, zooms, shapes and taps.
const DRAG = 4; // pixels from which on a press is a drag

// `on` has move(dx, dy), zoom(factor, x, y), hover(x, y), tap(x, y), shape(points, isDone), leave() and key(event).
// `mode()` is move, rectangle or lasso; with the shift key a drag is a rectangle.
export function listen(canvas, on, mode) {
  const pressed = new Map(); // pointerId -> [x, y]
  let isDragged = false;
  let outline = null; // points of the shape that is being drawn

  const at = (event) => [event.offsetX, event.offsetY];
  const spread = ([[a, b], [c, d]]) => [Math.hypot(a - c, b - d), (a + c) / 2, (b + d) / 2];

  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      // a trackpad's pinch comes as a wheel with the control key, in smaller steps
      const lines = event.deltaMode === 1 ? 16 : 1;
      const factor = Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0018));
      on.zoom(Math.min(Math.max(factor, 0.5), 2), ...at(event));
    },
    { passive: false },
  );

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button > 0) return;
    canvas.setPointerCapture(event.pointerId);
    pressed.set(event.pointerId, at(event));
    if (pressed.size > 1) {
      isDragged = true; // a pinch is no tap
      if (outline) on.shape(null, false);
      outline = null;
      return;
    }
    isDragged = false;
    const drawn = event.shiftKey ? "rectangle" : mode();
    outline = drawn === "move" ? null : { drawn, points: [at(event)] };
  });

  canvas.addEventListener("pointermove", (event) => {
    const before = pressed.get(event.pointerId);
    if (!before) return on.hover(...at(event));
    const here = at(event);
    if (pressed.size === 2) {
      const [old, oldX, oldY] = spread([...pressed.values()]);
      pressed.set(event.pointerId, here);
      const [now, x, y] = spread([...pressed.values()]);
      on.move(x - oldX, y - oldY);
      if (old > 0 && now > 0) on.zoom(now / old, x, y);
      return;
    }
    const [dx, dy] = [here[0] - before[0], here[1] - before[1]];
    if (!isDragged && Math.hypot(dx, dy) < DRAG) return;
    isDragged = true;
    pressed.set(event.pointerId, here);
    if (!outline) return on.move(dx, dy);
    outline.points.push(here);
    on.shape(closed(outline), false);
  });

  const release = (event) => {
    if (!pressed.delete(event.pointerId)) return;
    if (pressed.size) return;
    const wasCancelled = event.type === "pointercancel";
    if (outline && isDragged && !wasCancelled) on.shape(closed(outline), true);
    else if (outline) on.shape(null, false);
    if (!isDragged && !wasCancelled) on.tap(...at(event));
    outline = null;
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => !pressed.size && on.leave());
  canvas.addEventListener("keydown", (event) => on.key(event));
}

function closed({ drawn, points }) {
  if (drawn === "lasso") return points;
  const [[a, b], [c, d]] = [points[0], points.at(-1)];
  return [[a, b], [c, b], [c, d], [a, d]];
}

// Whether a point lies in a polygon: a ray from it crosses an odd number of sides.
export function isInside(x, y, polygon) {
  let inside = false;
  for (let n = 0, last = polygon.length - 1; n < polygon.length; last = n++) {
    const [[a, b], [c, d]] = [polygon[n], polygon[last]];
    if (b > y !== d > y && x < ((c - a) * (y - b)) / (d - b) + a) inside = !inside;
  }
  return inside;
}
