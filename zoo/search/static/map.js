// A map of points that can be moved, zoomed and selected from; few points in view are drawn as thumbnails.
import { listen } from "./gestures.js";
import { pixel } from "./palette.js";
import { PointLayer } from "./points.js";
import { Projection } from "./projection.js";

const MAX_THUMBNAILS = 120;
const MAX_LOADED = 1000; // pictures in memory
const SIDE = 46; // of a thumbnail, pixels
const FADED = [168, 172, 180];

// `pictureOf`, `nameOf` and `choose` get rows; `select` gets the rows of a region, null where it was given up.
export function openMap(canvas, tip, { columns, pictureOf, nameOf, choose, select, mode }) {
  const pen = canvas.getContext("2d");
  const layer = new PointLayer();
  const at = new Projection(() => [canvas.clientWidth, canvas.clientHeight]);
  const pictures = new Map();
  const isShown = (row) => columns.isShown(row);
  let screen = new Float32Array(0); // places of `drawn` in pixels of the device
  let drawn = new Uint32Array(0);
  let pixels = null; // colours by row
  let selected = null; // Uint8Array by row
  let outline = null;
  let chosen = null;
  let isAsked = false; // for a frame

  // Many moves of a pointer can come between two frames.
  function draw() {
    if (isAsked) return;
    isAsked = true;
    requestAnimationFrame(() => {
      isAsked = false;
      paint();
    });
  }

  // Collect what is in view: what is filtered out first, so that it lies below. Returns the numbers of all, and of those.
  function collect(ratio) {
    const { points, rows } = at;
    if (drawn.length < rows.length) [drawn, screen] = [new Uint32Array(rows.length), new Float32Array(2 * rows.length)];
    const { width, height } = canvas;
    const margin = SIDE * ratio;
    const [left, across, top, down] = at.axes([width, height], ratio);
    const { shown } = columns;
    let [count, faded] = [0, 0];
    for (const pass of shown || selected ? [false, true] : [true]) {
      for (let n = 0; n < rows.length; n++) {
        const row = rows[n];
        const isFull = (shown === null || shown[row] === 1) && (selected === null || selected[row] === 1);
        if (isFull !== pass) continue;
        const x = left + across * points[2 * row];
        const y = top + down * points[2 * row + 1];
        if (x < -margin || y < -margin || x > width + margin || y > height + margin) continue;
        drawn[count] = row;
        screen[2 * count] = x;
        screen[2 * count + 1] = y;
        count++;
      }
      if (!pass) faded = count;
    }
    return [count, faded];
  }

  function paint() {
    if (!canvas.clientWidth) return;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.round(side * ratio));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const [count, faded] = collect(ratio);
    const full = count - faded;
    const withPictures = Boolean(pictureOf) && full > 0 && full <= MAX_THUMBNAILS;
    const accent = getComputedStyle(canvas).color; // light or dark
    const plain = pixel(accent.match(/\d+/g).slice(0, 3).map(Number), 200);
    const pale = pixel(FADED, 110);
    const radius = ratio * (count > 30_000 ? 1 : count > 5000 ? 1.5 : 3.5);
    pen.setTransform(1, 0, 0, 1, 0, 0);
    layer.begin(pen);
    layer.draw(screen, 0, faded, radius, () => pale);
    if (!withPictures) layer.draw(screen, faded, count, radius, pixels ? (n) => pixels[drawn[n]] : () => plain);
    layer.end(pen);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = pen.strokeStyle = accent;
    if (withPictures) for (let n = faded; n < count; n++) drawPicture(drawn[n], screen[2 * n] / ratio, screen[2 * n + 1] / ratio);
    drawMarks(withPictures);
    canvas.dispatchEvent(new CustomEvent("painted", { detail: { count, full } }));
  }

  function thumbnail(row) {
    if (!pictures.has(row)) {
      if (pictures.size >= MAX_LOADED) pictures.delete(pictures.keys().next().value);
      const image = new Image();
      image.onload = draw;
      image.src = pictureOf(row);
      pictures.set(row, image);
    }
    const image = pictures.get(row);
    return image.complete && image.naturalWidth ? image : null;
  }

  function drawPicture(row, x, y) {
    const image = thumbnail(row);
    if (pixels) pen.fillStyle = columns.colourOfRow(row);
    if (!image) {
      pen.beginPath();
      pen.arc(x, y, 4, 0, 7);
      return pen.fill();
    }
    const cut = Math.min(image.naturalWidth, image.naturalHeight);
    const [left, top] = [(image.naturalWidth - cut) / 2, (image.naturalHeight - cut) / 2];
    if (pixels) pen.fillRect(x - SIDE / 2 - 3, y - SIDE / 2 - 3, SIDE + 6, SIDE + 6);
    pen.drawImage(image, left, top, cut, cut, x - SIDE / 2, y - SIDE / 2, SIDE, SIDE);
  }

  function drawMarks(withPictures) {
    if (chosen !== null) {
      pen.lineWidth = 3;
      const [x, y] = at.toScreen(chosen);
      const half = withPictures ? SIDE / 2 : 8;
      if (withPictures) drawPicture(chosen, x, y);
      pen.strokeRect(x - half, y - half, 2 * half, 2 * half);
    }
    if (outline) {
      pen.lineWidth = 1.5;
      pen.setLineDash([6, 4]);
      pen.beginPath();
      for (const [x, y] of outline) pen.lineTo(x, y);
      pen.closePath();
      pen.stroke();
      pen.setLineDash([]);
    }
  }

  async function choosePoint(row) {
    if (row === chosen) return;
    chosen = row;
    tip.hidden = row === null;
    draw();
    if (row === null) return;
    const [x, y] = at.toScreen(row);
    tip.style.left = `${Math.max(8, Math.min(x + 20, canvas.clientWidth - 180))}px`;
    tip.style.top = `${Math.max(8, Math.min(y + 20, canvas.clientHeight - 230))}px`;
    const image = tip.querySelector("img");
    image.hidden = !pictureOf;
    if (pictureOf) image.src = pictureOf(row);
    tip.querySelector("bdi").textContent = "…";
    const name = await nameOf(row).catch(() => "");
    if (row === chosen) tip.querySelector("bdi").textContent = name;
  }

  function changeView(change) {
    change();
    choosePoint(null);
    draw();
  }

  const middle = () => [canvas.clientWidth / 2, canvas.clientHeight / 2];
  const move = (dx, dy) => changeView(() => at.move(dx, dy));
  const zoom = (factor, x = middle()[0], y = middle()[1]) => changeView(() => at.zoom(factor, x, y));
  const reset = () => changeView(() => at.reset());

  // Select the shown points inside a polygon on the screen; null gives the selection up.
  function selectIn(polygon) {
    const found = polygon ? at.inside(polygon, isShown) : [];
    selected = found.length ? new Uint8Array(at.points.length / 2) : null;
    for (const row of found) selected[row] = 1;
    outline = null;
    draw();
    select(found.length ? found : null);
  }

  function selectView() {
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    selectIn([[0, 0], [width, 0], [width, height], [0, height]]);
  }

  function key(event) {
    const direction = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (direction && event.shiftKey) move(-60 * direction[0], -60 * direction[1]);
    else if (direction && chosen === null) choosePoint(at.nearest(...middle(), Infinity, isShown));
    else if (direction) choosePoint(at.towards(chosen, direction, isShown));
    else if (event.key === "+" || event.key === "=") zoom(1.4);
    else if (event.key === "-") zoom(1 / 1.4);
    else if (event.key === "0") reset();
    else if (event.key === "s") selectView();
    else if (event.key === "Escape") selectIn(null);
    else if (event.key === "Enter" && chosen !== null) choose(chosen);
    else return;
    event.preventDefault();
  }

  listen(
    canvas,
    {
      move,
      zoom,
      key,
      hover: (x, y) => choosePoint(at.nearest(x, y, SIDE / 2, isShown)),
      leave: () => choosePoint(null),
      tap(x, y) {
        const row = at.nearest(x, y, SIDE / 2, isShown);
        if (row !== null) choose(row);
      },
      shape(polygon, isDone) {
        outline = polygon;
        isDone ? selectIn(polygon) : draw();
      },
    },
    mode,
  );
  new ResizeObserver(draw).observe(canvas);

  return {
    draw,
    zoom,
    reset,
    selectView,
    clear: () => selectIn(null),
    // Show points, Float32Array x, y by row; returns how many have a place.
    place(points) {
      at.place(points);
      chosen = selected = null;
      tip.hidden = true;
      draw();
      return at.rows.length;
    },
    recolour() {
      pixels = columns.pixels();
      draw();
    },
  };
}
