// Draws points into the pixels of a canvas: a hundred thousand in a few milliseconds, without a graphics card.
export class PointLayer {
  // Start an empty picture of the canvas's size.
  begin({ canvas: { width, height } }) {
    if (this.image?.width !== width || this.image?.height !== height) {
      this.image = new ImageData(width, height);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    this.pixels.fill(0);
  }

  // Draw the points from `first` to before `last` as discs. `screen` holds x, y in pixels of the device.
  draw(screen, first, last, radius, colourOf) {
    const { pixels } = this;
    const { width, height } = this.image;
    const halves = disc(radius);
    const reach = (halves.length - 1) / 2;
    for (let n = first; n < last; n++) {
      const x = Math.round(screen[2 * n]);
      const y = Math.round(screen[2 * n + 1]);
      const colour = colourOf(n);
      for (let line = 0; line < halves.length; line++) {
        const down = y + line - reach;
        if (down < 0 || down >= height) continue;
        const end = Math.min(width - 1, x + halves[line]);
        for (let across = Math.max(0, x - halves[line]); across <= end; across++) pixels[down * width + across] = colour;
      }
    }
  }

  end(pen) {
    pen.putImageData(this.image, 0, 0);
  }
}

// Half the width of each line of pixels of a disc, from its top to its bottom.
function disc(radius) {
  const reach = Math.round(radius);
  return Array.from({ length: 2 * reach + 1 }, (_, n) => Math.floor(Math.sqrt((radius + 0.3) ** 2 - (n - reach) ** 2 || 0) || 0));
}
