// Colours of the categories and of the scale, as [red, green, blue].
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

// Petroff's ten colours, chosen for every kind of colour vision (arXiv:2107.02270; matplotlib's "petroff10").
export const CATEGORIES = [
  "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
].map(rgb);
export const OTHER = [150, 150, 150]; // categories beyond the ten, and images without a value

// matplotlib's viridis (CC0) at nine places; the colours between are interpolated.
const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"].map(rgb);

// The colour at a place from 0 to 1 of the scale.
export function onScale(place) {
  const at = Math.min(Math.max(place, 0), 1) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return VIRIDIS[low].map((value, n) => Math.round(value + (at - low) * (VIRIDIS[low + 1][n] - value)));
}

export const css = (colour) => `rgb(${colour.join(" ")})`;
// A pixel of ImageData as one number, for little-endian machines, which all browsers run on.
export const pixel = ([red, green, blue], alpha = 255) => ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
