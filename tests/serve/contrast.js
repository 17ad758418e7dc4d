// What is wrong with the page for somebody who sees little: text under 4.5:1 (3:1 where it is large), inputs without a
// label, ids that are there twice, references to nothing.
(() => {
  const wrong = [];
  const parts = (colour) => colour.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parts(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  for (const element of document.body.querySelectorAll("*")) {
    const text = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || element.matches("input");
    if (!text || !element.getClientRects().length || element.closest("datalist")) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(parts(style.color)), light(ground(element))].sort((p, q) => q - p);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) wrong.push(`${element.textContent.slice(0, 30)}: ${ratio}`);
  }
  for (const input of document.querySelectorAll("input")) if (!input.labels.length) wrong.push(`no label: ${input.name}`);
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  if (new Set(ids).size !== ids.length) wrong.push("an id is there twice");
  for (const e of document.querySelectorAll("[aria-describedby]"))
    for (const id of e.getAttribute("aria-describedby").split(" ")) if (!ids.includes(id)) wrong.push(`no ${id}`);
  return wrong;
})()
