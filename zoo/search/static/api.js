// Requests to the server of the page, and to no other.
export async function json(url, options) {
  const response = await fetch(url, options);
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(typeof body.detail === "string" ? body.detail : `${response.status} for ${url}`);
  return body;
}

// The bytes of an answer; null where the server says 202, it is still computing them.
export async function bytes(url) {
  const response = await fetch(url);
  if (response.status === 202) return null;
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new Error(typeof body.detail === "string" ? body.detail : `${response.status} for ${url}`);
  }
  return response.arrayBuffer();
}

export const pictureOf = (about, row, size = "small") => `pictures/${about.version}/${size}/${row}`;

const MAX_ROWS = 200; // of one request

export async function imagesOf(rows) {
  const found = [];
  for (let start = 0; start < rows.length; start += MAX_ROWS) {
    const query = rows.slice(start, start + MAX_ROWS).map((row) => `row=${row}`);
    found.push(...(await json(`api/rows?${query.join("&")}`)));
  }
  return found;
}
