// Where the points of the map are on the screen: places of rows, and rows at places.
import { isInside } from "./gestures.js";

const INNER = 0.43; // of the canvas on either side of its middle: the points lie in -1..1, and have pictures
const TOOLS = 40; // CSS pixels at its top, which the buttons hide

export class Projection {
  // `size()` is [width, height] in CSS pixels.
  constructor(size) {
    this.size = size;
    this.points = new Float32Array(0);
    this.rows = new Uint32Array(0); // those that have a place
    this.reset();
  }

  place(points) {
    this.points = points;
    this.rows = Uint32Array.from({ length: points.length / 2 }, (_, row) => row).filter((row) => !Number.isNaN(points[2 * row]));
  }

  reset() {
    Object.assign(this, { scale: 1, x: 0, y: 0 });
  }

  // Factors and offsets of an axis: a place on the screen is offset + factor * coordinate. `ratio` is that of the size's
  // pixels to CSS pixels.
  axes([width, height] = this.size(), ratio = 1) {
    const hidden = TOOLS * ratio;
    const [across, down] = [INNER * this.scale * width, -INNER * this.scale * (height - hidden)];
    return [width / 2 - across * this.x, across, (height + hidden) / 2 - down * this.y, down];
  }

  toScreen(row) {
    const [left, across, top, down] = this.axes();
    return [left + across * this.points[2 * row], top + down * this.points[2 * row + 1]];
  }

  move(dx, dy) {
    const [, across, , down] = this.axes();
    this.x -= dx / across;
    this.y -= dy / down;
  }

  // Zoom so that what is at a place on the screen stays there.
  zoom(factor, x, y) {
    const [left, across, top, down] = this.axes();
    const scale = Math.min(Math.max(this.scale * factor, 0.5), 4000);
    const kept = 1 - this.scale / scale;
    this.x += ((x - left) / across - this.x) * kept;
    this.y += ((y - top) / down - this.y) * kept;
    this.scale = scale;
  }

  // The nearest row to a place on the screen, within so many pixels; null if there is none.
  nearest(x, y, reach, isShown) {
    const { points, rows } = this;
    const [left, across, top, down] = this.axes();
    let best = null;
    let least = reach * reach;
    for (let n = 0; n < rows.length; n++) {
      const row = rows[n];
      const dx = left + across * points[2 * row] - x;
      const dy = top + down * points[2 * row + 1] - y;
      const distance = dx * dx + dy * dy;
      if (distance < least && isShown(row)) [best, least] = [row, distance];
    }
    return best;
  }

  // The next row in a direction: the nearest within 45 degrees of it.
  towards(from, [dx, dy], isShown) {
    const [x, y] = this.toScreen(from);
    let [best, least] = [from, Infinity];
    for (const row of this.rows) {
      const [a, b] = this.toScreen(row);
      const along = (a - x) * dx + (b - y) * dy;
      const across = Math.abs((a - x) * dy - (b - y) * dx);
      const isNearer = row !== from && along > 0 && across <= along && along + across < least;
      if (isNearer && isShown(row)) [best, least] = [row, along + across];
    }
    return best;
  }

  // The rows inside a polygon on the screen.
  inside(polygon, isShown) {
    const { points } = this;
    const [left, across, top, down] = this.axes();
    const found = [];
    for (const row of this.rows) {
      if (isShown(row) && isInside(left + across * points[2 * row], top + down * points[2 * row + 1], polygon)) found.push(row);
    }
    return found;
  }
}
