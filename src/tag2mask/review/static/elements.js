// Elements of the page, made from properties.

export function element(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

/** A round mark in the colour of a class. */
export function dot(colour) {
  const mark = element("i", { className: "dot" });
  mark.style.setProperty("--dot", colour);
  mark.setAttribute("aria-hidden", "true");
  return mark;
}

/** Say something to who cannot see it. */
export function speak(text) {
  document.getElementById("spoken").textContent = text;
}
