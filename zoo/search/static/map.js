// A map of points that can be moved and zoomed; few points in view are drawn as thumbnails.
const MAX_THUMBNAILS = 120;
const SIDE = 46; // of a thumbnail, pixels

export async function openMap(canvas, tip, { images, pictureOf, nameOf, choose }) {
  const response = await fetch("api/map");
  if (!response.ok) throw new Error("the map cannot be loaded");
  const points = new Float32Array(await response.arrayBuffer());
  const rows = [];
  for (let row = 0; row < images; row++) if (!Number.isNaN(points[2 * row])) rows.push(row);
  const pen = canvas.getContext("2d");
  const pictures = new Map();
  const view = { scale: 1, x: 0, y: 0 };
  let chosen = null;
  let dragFrom = null; // last position of the pointer while its button is down
  let isDragged = false;

  const toScreen = (row) => {
    const side = 0.46 * view.scale;
    return [
      canvas.clientWidth * (0.5 + side * (points[2 * row] - view.x)),
      canvas.clientHeight * (0.5 - side * (points[2 * row + 1] - view.y)),
    ];
  };
  const isVisible = ([x, y]) => x > -SIDE && y > -SIDE && x < canvas.clientWidth + SIDE && y < canvas.clientHeight + SIDE;

  function thumbnail(row) {
    if (!pictures.has(row)) {
      const image = new Image();
      image.onload = draw;
      image.src = pictureOf(row);
      pictures.set(row, image);
    }
    const image = pictures.get(row);
    return image.complete && image.naturalWidth ? image : null;
  }

  function drawPicture(row, x, y, side) {
    const image = thumbnail(row);
    if (!image) return drawPoint(x, y);
    const cut = Math.min(image.naturalWidth, image.naturalHeight);
    const [left, top] = [(image.naturalWidth - cut) / 2, (image.naturalHeight - cut) / 2];
    pen.drawImage(image, left, top, cut, cut, x - side / 2, y - side / 2, side, side);
  }

  function drawPoint(x, y) {
    pen.beginPath();
    pen.arc(x, y, rows.length > 5000 ? 2 : 4, 0, 7);
    pen.fill();
  }

  function draw() {
    if (!canvas.clientWidth) return;
    const style = getComputedStyle(canvas);
    const ratio = devicePixelRatio || 1;
    if (canvas.width !== Math.round(canvas.clientWidth * ratio) || canvas.height !== Math.round(canvas.clientHeight * ratio)) {
      canvas.width = Math.round(canvas.clientWidth * ratio);
      canvas.height = Math.round(canvas.clientHeight * ratio);
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
    pen.fillStyle = pen.strokeStyle = style.color; // the accent colour, light or dark
    pen.globalAlpha = rows.length > 5000 ? 0.45 : 0.8;
    const visible = [];
    for (const row of rows) {
      const position = toScreen(row);
      if (isVisible(position)) visible.push([row, ...position]);
    }
    const withPictures = pictureOf && visible.length <= MAX_THUMBNAILS;
    if (withPictures) pen.globalAlpha = 1;
    for (const [row, x, y] of visible) withPictures ? drawPicture(row, x, y, SIDE) : drawPoint(x, y);
    if (chosen !== null) {
      pen.globalAlpha = 1;
      pen.lineWidth = 3;
      const [x, y] = toScreen(chosen);
      const half = withPictures ? SIDE / 2 : 8;
      if (withPictures) drawPicture(chosen, x, y, SIDE);
      pen.strokeRect(x - half, y - half, 2 * half, 2 * half);
    }
  }

  async function choosePoint(row) {
    if (row === chosen) return;
    chosen = row;
    tip.hidden = row === null;
    draw();
    if (row === null) return;
    const [x, y] = toScreen(row);
    tip.style.left = `${Math.min(x + 20, canvas.clientWidth - 180)}px`;
    tip.style.top = `${Math.max(8, Math.min(y + 20, canvas.clientHeight - 210))}px`;
    const image = tip.querySelector("img");
    image.hidden = !pictureOf;
    if (pictureOf) image.src = pictureOf(row);
    tip.querySelector("span").textContent = "…";
    const name = await nameOf(row).catch(() => "");
    if (row === chosen) tip.querySelector("span").textContent = name;
  }

  function nearestTo(x, y, reach) {
    let best = null;
    for (const row of rows) {
      const [a, b] = toScreen(row);
      const distance = Math.hypot(a - x, b - y);
      if (distance < reach) [best, reach] = [row, distance];
    }
    return best;
  }

  // the next point for an arrow key: the nearest within 45 degrees of its direction
  function towards([dx, dy]) {
    if (chosen === null) return nearestTo(canvas.clientWidth / 2, canvas.clientHeight / 2, Infinity);
    const [x, y] = toScreen(chosen);
    let [best, least] = [chosen, Infinity];
    for (const row of rows) {
      const [a, b] = toScreen(row);
      const along = (a - x) * dx + (b - y) * dy;
      const across = Math.abs((a - x) * dy - (b - y) * dx);
      if (row !== chosen && along > 0 && across <= along && along + across < least) [best, least] = [row, along + across];
    }
    return best;
  }

  function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
    const side = 0.46 * view.scale;
    const [px, py] = [(x / canvas.clientWidth - 0.5) / side, (0.5 - y / canvas.clientHeight) / side];
    const scale = Math.min(Math.max(view.scale * factor, 0.5), 4000);
    const kept = 1 - view.scale / scale;
    view.x += px * kept;
    view.y += py * kept;
    view.scale = scale;
    choosePoint(null);
    draw();
  }

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.offsetX, event.offsetY);
  });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    dragFrom = [event.offsetX, event.offsetY];
    isDragged = false;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (dragFrom === null) return choosePoint(nearestTo(event.offsetX, event.offsetY, SIDE / 2));
    const [dx, dy] = [event.offsetX - dragFrom[0], event.offsetY - dragFrom[1]];
    if (!isDragged && Math.hypot(dx, dy) < 4) return;
    isDragged = true;
    dragFrom = [event.offsetX, event.offsetY];
    view.x -= dx / canvas.clientWidth / (0.46 * view.scale);
    view.y += dy / canvas.clientHeight / (0.46 * view.scale);
    choosePoint(null);
    draw();
  });
  canvas.addEventListener("pointerup", (event) => {
    dragFrom = null;
    const row = isDragged ? null : nearestTo(event.offsetX, event.offsetY, SIDE / 2);
    if (row !== null) choose(row);
  });
  canvas.addEventListener("pointerleave", () => dragFrom === null && choosePoint(null));
  canvas.addEventListener("keydown", (event) => {
    const direction = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (direction) choosePoint(towards(direction));
    else if (event.key === "+" || event.key === "=") zoom(1.4);
    else if (event.key === "-") zoom(1 / 1.4);
    else if (event.key === "0") Object.assign(view, { scale: 1, x: 0, y: 0 }), draw();
    else if (event.key === "Enter" && chosen !== null) choose(chosen);
    else return;
    event.preventDefault();
  });
  addEventListener("resize", draw);
  return { draw, count: rows.length };
}
