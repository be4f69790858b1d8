// Elements of the page.

export function element(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

/** A dot in the colour of a class. */
export function dot(colour) {
  const mark = element("i", { className: "dot" });
  mark.style.setProperty("--dot", colour);
  mark.setAttribute("aria-hidden", "true");
  return mark;
}

/** Announce a text to screen readers. */
export function speak(text) {
  document.getElementById("spoken").textContent = text;
}
