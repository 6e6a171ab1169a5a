"use strict";
// The table of many runs: sorted by a column, filtered by words, grouped by a setting; the plot of
// all runs shows the rows that are shown, in the colors of their groups.
const runsTable = (box, { count, show }) => {
  const table = box.querySelector("table");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows];
  const filter = box.querySelector("input");
  const group = box.querySelector("select");
  const status = box.querySelector("[role=status]");
  const order = new Intl.Collator("en", { numeric: true });
  let sorted = { column: -1, descending: false };

  const text = (row, column) => row.cells[column].innerText.split("\n")[0].replaceAll("\u00a0", " ").trim();
  // The number that a cell begins with; what was not reached comes after all that was.
  const number = (words) => {
    const [, bound, digits] = /^(not in |at least |> )?(-?[\d,]+(?:\.\d+)?(?:e[-+]?\d+)?)(?!\S*[a-z]{2})/.exec(words) ?? [];
    if (digits === undefined || words.includes(", ")) return NaN;
    return Number(digits.replaceAll(",", "")) + (bound === "not in " || bound === "at least " ? 1e15 : 0);
  };
  const numbers = (column, some) => some.map((row) => number(text(row, column))).filter((n) => !isNaN(n));
  const isNumeric = heads.map((_, column) =>
    rows.every((row) => text(row, column) === "–" || !isNaN(number(text(row, column)))));

  const compare = (column) => (a, b) => {
    const [one, other] = [text(a, column), text(b, column)];
    // What is not known stands last, whichever the direction.
    if (one === "–" || other === "–") return (one === "–") - (other === "–");
    const sign = sorted.descending ? -1 : 1;
    return sign * (isNumeric[column] ? number(one) - number(other) : order.compare(one, other));
  };

  const median = (values) => {
    const sortedValues = values.toSorted((a, b) => a - b);
    const half = sortedValues.length / 2;
    return (sortedValues[Math.ceil(half) - 1] + sortedValues[Math.floor(half)]) / 2;
  };
  // Of bounds, such as "> 17×" or "6,000 to 9,000 steps", there is no median to show.
  const isExact = (words) => /^-?\d/.test(words) && !words.includes(" to ");
  const medianText = (column, some) => {
    if (!isNumeric[column] || !some.every((row) => isExact(text(row, column)))) return "";
    const unit = text(some[0], column).replace(/^-?[\d,.]+(e[-+]?\d+)?/, "");
    return median(numbers(column, some)).toLocaleString("en", { maximumSignificantDigits: 4 }) + unit;
  };

  const headRow = (value, place, some) => {
    const row = document.createElement("tr");
    row.className = "group";
    row.style.setProperty("--own", `var(--arm${place % count})`);
    const column = Number(group.value);
    heads.forEach((_, i) => {
      const cell = document.createElement(i ? "td" : "th");
      if (i === 0) cell.scope = "rowgroup";
      const label = `${heads[column].innerText.trim()}: ${value} (${some.length})`;
      cell.textContent = i === 0 ? label : i === column ? "" : medianText(i, some);
      row.append(cell);
    });
    return row;
  };

  const update = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kept = rows.filter((row) => words.every((word) => row.innerText.toLowerCase().includes(word)));
    if (sorted.column >= 0) kept.sort(compare(sorted.column));
    const groups = group.value === "" ? null
      : Map.groupBy(kept, (row) => text(row, Number(group.value)));
    // A collator reads 0.003 as 0 and 3: numbers are compared as numbers.
    const values = groups && [...groups.keys()].sort((a, b) =>
      (isNumeric[group.value] ? number(a) - number(b) : order.compare(a, b)));
    body.replaceChildren(...(groups
      ? values.flatMap((value, i) => [headRow(value, i, groups.get(value)), ...groups.get(value)])
      : kept));
    status.textContent = `${kept.length} of ${rows.length} rows`;
    heads.forEach((head, i) => head.setAttribute("aria-sort",
      i !== sorted.column ? "none" : sorted.descending ? "descending" : "ascending"));
    const place = (row) => (groups ? values.indexOf(text(row, Number(group.value))) : null);
    show(new Map(kept.map((row) => [row.dataset.key, place(row)])));
  };

  heads.forEach((head, column) => {
    const distinct = new Set(rows.map((row) => text(row, column)));
    if (distinct.size > 1 && distinct.size < rows.length) {
      group.add(new Option(head.innerText.trim(), column));
    }
    head.querySelector("button").addEventListener("click", () => {
      sorted = { column, descending: sorted.column === column && !sorted.descending };
      update();
    });
  });
  filter.addEventListener("input", update);
  group.addEventListener("change", update);
};
