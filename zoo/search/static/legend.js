// The legend of the column that colours: a button for each category, which hides or shows it, or a scale with two ends.
import { MISSING } from "./columns.js";
import { CATEGORIES, OTHER, css, onScale } from "./palette.js";

const MAX_ENTRIES = 60; // the others are found by text

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

// A dot of a colour: a CSP without inline styles still lets a script set one property.
export function dot(colour) {
  const made = element("i", "dot");
  made.style.background = colour;
  made.ariaHidden = "true";
  return made;
}

export function showLegend(place, columns, changed) {
  const { active } = columns;
  place.hidden = !active || active.kind === "text";
  place.replaceChildren();
  if (place.hidden) return;
  place.ariaLabel = `Values of ${active.name}`;
  place.append(...(active.kind === "categories" ? categories(columns, changed) : scale(columns, changed)));
}

function categories(columns, changed) {
  const { active } = columns;
  const entries = active.labels.slice(0, MAX_ENTRIES).map((value, code) => [code, value, active.counts[code]]);
  const missing = columns.images - active.counts.reduce((sum, count) => sum + count, 0);
  if (missing) entries.push([MISSING, "no value", missing]);
  const made = entries.map(([code, value, count]) => {
    const colour = css(CATEGORIES[code] ?? OTHER);
    const button = element("button", "entry", dot(colour), element("bdi", "", value || "(empty)"), element("small", "", String(count)));
    button.type = "button";
    button.ariaPressed = String(!columns.hidden.has(code));
    button.title = "click: hide or show; double click: this one alone";
    button.addEventListener("click", (event) => {
      event.detail === 2 ? columns.only(code) : columns.toggle(code);
      for (const [other, [at]] of [...button.parentElement.querySelectorAll(".entry")].map((b, n) => [b, entries[n]])) {
        other.ariaPressed = String(!columns.hidden.has(at));
      }
      changed();
    });
    return button;
  });
  if (active.labels.length > MAX_ENTRIES) made.push(element("small", "", `and ${active.labels.length - MAX_ENTRIES} more`));
  return made;
}

function scale(columns, changed) {
  const { active } = columns;
  if (active.least === null) return [element("small", "", "no number")];
  const bar = element("span", "scale");
  const stops = Array.from({ length: 9 }, (_, n) => css(onScale(n / 8)));
  bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  const [least, most] = ["least", "most"].map((end) => {
    const input = element("input", "end");
    Object.assign(input, { type: "number", step: "any", value: active[end], ariaLabel: `${end} ${active.name}` });
    return input;
  });
  const limit = () => {
    const [from, to] = [least, most].map((input) => input.valueAsNumber);
    // an end that was not moved includes what rounding takes off
    columns.limit(
      Number.isNaN(from) || from <= active.least ? -Infinity : from,
      Number.isNaN(to) || to >= active.most ? Infinity : to,
    );
    changed();
  };
  for (const input of [least, most]) input.addEventListener("change", limit);
  return [least, bar, most];
}
