/** Small helpers of every part of the page. */

/** Show what an error says in the panel where it happened, or take it away with `null`. */
export function showError(panel, error) {
  const place = panel.querySelector(".error");
  place.textContent = error === null ? "" : error.message;
  place.hidden = error === null;
}

/** A number of bytes as people read it. */
export function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/** A share from 0 to 1 in per cent. */
export function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}
