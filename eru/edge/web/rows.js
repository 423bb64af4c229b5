/** An answer as a list of names, shares and bars. */

import { percent } from "./page.js";

/** Show rows of a name, a share and a colour as a list with bars. Rows that are there already are only changed. */
export function listRows(list, rows) {
  while (list.children.length > rows.length) list.lastChild.remove();
  while (list.children.length < rows.length) list.append(newRow());
  rows.forEach(({ name, share, colour }, i) => {
    const item = list.children[i];
    const [label, figure, bar] = item.children;
    item.style.setProperty("--colour", colour ? `rgb(${colour})` : "");
    label.textContent = name;
    figure.textContent = percent(share);
    bar.style.setProperty("--share", share);
  });
}

function newRow() {
  const item = document.createElement("li");
  item.append(...["name", "share", "bar"].map((kind) => {
    const part = document.createElement("span");
    part.className = kind;
    return part;
  }));
  return item;
}
