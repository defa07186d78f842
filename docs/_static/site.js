// Tables of class `sortable`: a button in each column's head sorts by it, numbers as numbers, once up and once down.
// And the theme's arrows that open a part of the table of contents get a name.
// A click on a picture shows it alone, in its full size.
document.addEventListener("DOMContentLoaded", () => {
  for (const arrow of document.querySelectorAll("summary")) if (!arrow.textContent.trim()) arrow.setAttribute("aria-label", "Pages below");
  const number = text => { const found = text.replace(/,/g, "").match(/^\s*([-+]?\d*\.?\d+(e[-+]?\d+)?)/i); return found ? parseFloat(found[1]) : NaN; };
  for (const image of document.querySelectorAll("article img")) {
    if (image.closest("a")) continue;
    const link = document.createElement("a");
    link.href = image.src;
    for (const scheme of ["only-light", "only-dark"]) link.classList.toggle(scheme, image.classList.contains(scheme));
    image.replaceWith(link); link.append(image);
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button"; button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending", text = row => row.cells[column].textContent;
        heads.forEach(other => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const order = (a, b) => { const x = number(text(a)), y = number(text(b)); return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) || text(a).localeCompare(text(b)) : x - y; };
        body.append(...[...body.rows].sort((a, b) => down ? order(b, a) : order(a, b)));
      });
    });
  }
});
